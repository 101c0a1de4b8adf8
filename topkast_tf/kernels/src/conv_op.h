// What the operations of a sparse convolution have in common: the checks of shapes, the
// geometry that follows from them, and the plans.
#ifndef TOPKAST_CONV_OP_H_
#define TOPKAST_CONV_OP_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "conv_slab.h"
#include "ops.h"

namespace topkast {

constexpr int64_t kMostOffset = std::numeric_limits<int32_t>::max();

enum class Padding { kValid, kSame, kCausal };

// The targets of an axis and the zeros in front of its sources.
struct Extent {
  int64_t targets;
  int64_t before;
};

inline tensorflow::Status ExtentOf(const WindowAxis& axis, Padding padding,
                                   int64_t sources, Extent* extent) {
  if (padding == Padding::kSame) {
    extent->targets = (sources + axis.stride - 1) / axis.stride;
    const int64_t around =
        std::max<int64_t>(0, (extent->targets - 1) * axis.stride + axis.reach() - sources);
    extent->before = around / 2;
    return tensorflow::Status();
  }
  extent->before = padding == Padding::kCausal ? axis.reach() - 1 : 0;
  const int64_t room = sources + extent->before - axis.reach() + axis.stride;
  if (room < 0) {
    return InvalidArgument("Expected an image of at least the window's reach, ",
                           axis.reach(), ". Received: ", sources);
  }
  extent->targets = room / axis.stride;
  return tensorflow::Status();
}

// A convolution of given shapes.
struct Geometry {
  TensorShape x;
  TensorShape y;
  ConvShape forward;
  ConvShape backward;
};

class ConvOp : public SparseOp {
 public:
  explicit ConvOp(OpKernelConstruction* context) : SparseOp(context) {
    std::vector<int64_t> strides, dilations;
    std::string padding;
    OP_REQUIRES_OK(context, context->GetAttr("strides", &strides));
    OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations));
    OP_REQUIRES_OK(context, context->GetAttr("padding", &padding));
    OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
    OP_REQUIRES(context, groups_ > 0,
                InvalidArgument("Expected one group or more. Received: ", groups_));
    for (const auto* values : {&strides, &dilations}) {
      const bool fits = values->size() == 2 && (*values)[0] > 0 && (*values)[1] > 0 &&
                        (*values)[0] < (1 << 20) && (*values)[1] < (1 << 20);
      OP_REQUIRES(context, fits,
                  InvalidArgument("Expected two strides and two dilations from 1 to ",
                                  1 << 20));
    }
    OP_REQUIRES(context, strides[0] * strides[1] <= kMostPhases,
                InvalidArgument("Expected strides whose product is at most ", kMostPhases,
                                ". Received: ", strides[0], " and ", strides[1]));
    for (const int64_t size : {strides[0], strides[1], dilations[0], dilations[1]}) {
      geometry_ += std::to_string(size) + " ";
    }
    geometry_ += padding + " ";
    padding_ = padding == "SAME"     ? Padding::kSame
               : padding == "CAUSAL" ? Padding::kCausal
                                     : Padding::kValid;
    for (int axis = 0; axis < 2; ++axis) {
      window_[axis] = {1, strides[axis], dilations[axis]};
    }
  }

 protected:
  // The geometry of an input and a weight.
  tensorflow::Status GeometryOf(const TensorShape& x, const TensorShape& weight,
                                Geometry* found) const {
    if (x.dims() != 4 || weight.dims() != 4 || weight.dim_size(0) < 1 ||
        weight.dim_size(1) < 1 || x.dim_size(3) % groups_ != 0 ||
        x.dim_size(3) / groups_ != weight.dim_size(2) ||
        weight.dim_size(3) % groups_ != 0) {
      return InvalidArgument(
          "Expected an input [images, rows, columns, inputs] and a weight [rows, columns, "
          "inputs of a group, outputs] with a window, of ",
          groups_, " groups. Received: ", x.DebugString(), " and ", weight.DebugString());
    }
    if (x.num_elements() > kMostPositions || weight.num_elements() >= kMostEntries) {
      return InvalidArgument("Expected less than 2^31 weights, and 2^40 activations. ",
                             "Received: ", weight.DebugString(), " and ", x.DebugString());
    }
    const Window window = WindowOf(weight);
    ConvAxis forward[2], backward[2];
    int64_t targets[2];
    for (int axis = 0; axis < 2; ++axis) {
      // Causal padding is of sequences, whose axis is the second.
      const bool is_plain = padding_ == Padding::kCausal && axis == 0;
      const int64_t sources = x.dim_size(axis + 1);
      Extent extent;
      TF_RETURN_IF_ERROR(ExtentOf(window[axis], is_plain ? Padding::kValid : padding_,
                                  sources, &extent));
      targets[axis] = extent.targets;
      forward[axis] = ForwardAxis(window[axis], sources, extent.targets, extent.before);
      backward[axis] = GradientAxis(window[axis], sources, extent.targets, extent.before);
    }
    const int64_t images = x.dim_size(0), from = x.dim_size(3), to = weight.dim_size(3);
    found->x = x;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({images, targets[0], targets[1], to},
                                                      &found->y));
    found->forward = {images, forward[0], forward[1], from, to, groups_};
    found->backward = {images, backward[0], backward[1], to, from, groups_};
    return tensorflow::Status();
  }

  Window WindowOf(const TensorShape& weight) const {
    Window window = window_;
    for (int axis = 0; axis < 2; ++axis) window[axis].size = weight.dim_size(axis);
    return window;
  }

  // The layout of a product, whose offsets fit 32 bits.
  tensorflow::Status LayoutFor(const ConvShape& shape, int64_t parts,
                               PlaneLayout* layout) const {
    *layout = LayoutOf(shape, kernels_->conv->lanes, parts);
    if (layout->plane > kMostOffset / std::max<int64_t>(1, shape.source_channels)) {
      return InvalidArgument("Expected rows whose planes have less than 2^31 entries. ",
                             "Received: ", shape.source_channels, " channels of ",
                             layout->plane);
    }
    return tensorflow::Status();
  }

  // The plan of a group of channels and a pair of phases; `phase` is its number among
  // those of an input gradient.
  std::shared_ptr<const Plan> PlanOf(const Codes& codes, int64_t group, const Phase& y,
                                     const Phase& x, ConvPlanKind kind,
                                     int phase = 0) const {
    const int number = kind == ConvPlanKind::kForward          ? 0
                       : kind == ConvPlanKind::kWeightGradient ? 1
                                                               : 2 + phase;
    const int slot = static_cast<int>(number * groups_ + group);
    const Window window = WindowOf(codes.shape());
    const auto make = [&](const Tensor& whole) {
      const int64_t outputs = codes.dim_size(3);
      const ConvWeight weight = {whole.flat<uint8_t>().data(),
                                 codes.dim_size(0) * codes.dim_size(1),
                                 codes.dim_size(2),
                                 outputs / groups_,
                                 group * (outputs / groups_),
                                 outputs};
      return MakeConvPlan(weight, TapsOf(window, y, x), kind);
    };
    return PlansOf(key_)->Get(codes, is_packed(), window, groups_, slot, make);
  }

 private:
  static constexpr int64_t kMostPositions = int64_t{1} << 40;
  // An input gradient has a plan for each pair of phases.
  static constexpr int64_t kMostPhases = int64_t{1} << 16;

  Window window_;
  Padding padding_;

 protected:
  int64_t groups_ = 1;
  std::string geometry_;  // strides, dilations and padding
};

// The attributes of all operations of a convolution.
#define TOPKAST_CONV_ATTRIBUTES                            \
  Attr("T: {float, bfloat16} = DT_FLOAT")                  \
      .Attr("key: int")                                    \
      .Attr("entries: int = -1")                           \
      .Attr("shape: list(int) = []")                       \
      .Attr("cpu: string = ''")                            \
      .Attr("strides: list(int)")                          \
      .Attr("dilations: list(int)")                        \
      .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")        \
      .Attr("groups: int = 1")                             \
      .Attr("dense_gradient: bool = false")                \
      .Attr("sparse_activations: bool = false")

}  // namespace topkast

#endif  // TOPKAST_CONV_OP_H_
