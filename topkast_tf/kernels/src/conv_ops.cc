// The TensorFlow operations of a sparse convolution: checks of what reaches the kernels,
// and the division of the work among threads.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "conv_slab.h"
#include "ops.h"

namespace topkast {
namespace {

constexpr int64_t kMostOffset = std::numeric_limits<int32_t>::max();

enum class Padding { kValid, kSame, kCausal };

// The window of a convolution and what is around its input.
struct Arguments {
  Window window;
  Padding padding;
};

// The targets of an axis and the zeros in front of its sources.
struct Extent {
  int64_t targets;
  int64_t before;
};

tensorflow::Status ExtentOf(const WindowAxis& axis, Padding padding, int64_t sources,
                            Extent* extent) {
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

// Floats between two tiles of a plan in the planes.
int64_t DistanceOf(const Plan& plan, const Phase& y, const Phase& x,
                   const PlaneLayout& layout) {
  const auto taps = static_cast<int64_t>(y.taps.size() * x.taps.size());
  return taps == 0 ? 0 : plan.tile / taps * layout.plane;
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
    for (const auto* values : {&strides, &dilations}) {
      const bool fits = values->size() == 2 && (*values)[0] > 0 && (*values)[1] > 0 &&
                        (*values)[0] < (1 << 20) && (*values)[1] < (1 << 20);
      OP_REQUIRES(context, fits,
                  InvalidArgument("Expected two strides and two dilations from 1 to ",
                                  1 << 20));
    }
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
    if (x.dims() != 4 || weight.dims() != 4 || x.dim_size(3) != weight.dim_size(2) ||
        weight.dim_size(0) < 1 || weight.dim_size(1) < 1) {
      return InvalidArgument(
          "Expected an input [images, rows, columns, inputs] and a weight [rows, columns, "
          "inputs, outputs] with a window. Received: ",
          x.DebugString(), " and ", weight.DebugString());
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
    found->y = TensorShape({images, targets[0], targets[1], to});
    found->forward = {images, forward[0], forward[1], from, to};
    found->backward = {images, backward[0], backward[1], to, from};
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

  std::shared_ptr<const Plan> PlanOf(const Tensor& codes, const Phase& y, const Phase& x,
                                     int slot, ConvPlanKind kind) const {
    const Window window = WindowOf(codes.shape());
    return PlansOf(key_)->Get(codes, window, slot, [&] {
      const ConvWeight weight = {codes.flat<uint8_t>().data(),
                                 codes.dim_size(0) * codes.dim_size(1), codes.dim_size(2),
                                 codes.dim_size(3)};
      return MakeConvPlan(weight, TapsOf(window, y, x), kind);
    });
  }

  // Computes all targets from the sources, in `transpose` of an input gradient.
  void Multiply(OpKernelContext* context, const ConvShape& shape, const Tensor& source,
                const Tensor& theta, const Tensor& codes, bool transpose,
                Tensor* target) const {
    if (target->NumElements() == 0) return;
    if (source.NumElements() == 0) {
      target->flat<float>().setZero();
      return;
    }
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    ConvProduct product;
    product.kernels = kernels_->conv;
    product.shape = shape;
    OP_REQUIRES_OK(context,
                   LayoutFor(shape, threads <= 1 ? 1 : 4 * threads, &product.layout));
    int64_t entries = 0;
    for (const Phase& y : product.shape.y.phases) {
      for (const Phase& x : product.shape.x.phases) {
        const int slot = transpose ? 2 + static_cast<int>(product.parts.size()) : 0;
        const auto plan =
            PlanOf(codes, y, x, slot,
                   transpose ? ConvPlanKind::kInputGradient : ConvPlanKind::kForward);
        product.parts.push_back({&y, &x, plan,
                                 OffsetsOf(product.shape, product.layout, y, x, *plan),
                                 nullptr, DistanceOf(*plan, y, x, product.layout)});
        entries += plan->entries();
      }
    }

    Tensor entries_of, compact_of;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({2 * entries}),
                                                   &entries_of));
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({entries}), &compact_of));
    static_assert(sizeof(ConvEntry) == 2 * sizeof(float), "memory of the entries");
    auto* entry = reinterpret_cast<ConvEntry*>(entries_of.flat<float>().data());
    float* compact = compact_of.flat<float>().data();
    const float* whole = theta.flat<float>().data();
    int64_t cycles = 0;
    for (ConvProduct::Part& part : product.parts) {
      const Plan& plan = *part.plan;
      InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) compact[i] = whole[plan.places[i]];
      });
      InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          entry[i] = {part.offsets[plan.col[i]], compact[plan.source[i]]};
        }
      });
      part.entries = entry;
      entry += plan.entries();
      cycles += 8 * plan.entries();
    }

    const float* from = source.flat<float>().data();
    float* to = target->flat<float>().data();
    const PlaneLayout& layout = product.layout;
    const int64_t vectors =
        layout.slab_groups * layout.slab_rows * layout.vectors_of(layout.slab_cols);
    cycles = (cycles + 16 * (shape.source_channels + shape.target_channels)) * vectors / 6;
    InParallel(context, layout.slabs(shape), cycles, [&](int64_t begin, int64_t end) {
      float* scratch = ThreadScratch(product.scratch_floats());
      for (int64_t i = begin; i < end; ++i) {
        MultiplySlab(product, layout.SlabAt(product.shape, i), from, to, scratch);
      }
    });
  }

 private:
  static constexpr int64_t kMostPositions = int64_t{1} << 40;

  Window window_;
  Padding padding_;
};

tensorflow::Status CheckedCodes(const Tensor& codes, const TensorShape& theta) {
  if (codes.shape() != theta) {
    return InvalidArgument("Expected codes of shape ", theta.DebugString(),
                           ". Received: ", codes.shape().DebugString());
  }
  return tensorflow::Status();
}

class SparseConv : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& theta = context->input(1);
    const Tensor& codes = context->input(2);
    Geometry geometry;
    OP_REQUIRES_OK(context, GeometryOf(x.shape(), theta.shape(), &geometry));
    OP_REQUIRES_OK(context, CheckedCodes(codes, theta.shape()));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, geometry.y, &y));
    Multiply(context, geometry.forward, x, theta, codes, false, y);
  }
};

class SparseConvInputGradient : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& dy = context->input(0);
    const Tensor& theta = context->input(1);
    const Tensor& codes = context->input(2);
    const Tensor& sizes = context->input(3);
    OP_REQUIRES(context, sizes.dims() == 1 && sizes.NumElements() == 4,
                InvalidArgument("Expected the four sizes of the input. Received: ",
                                sizes.shape().DebugString()));
    TensorShape shape;
    OP_REQUIRES_OK(context, tensorflow::TensorShapeUtils::MakeShape(
                                sizes.flat<int32_t>().data(), 4, &shape));
    Geometry geometry;
    OP_REQUIRES_OK(context, GeometryOf(shape, theta.shape(), &geometry));
    OP_REQUIRES_OK(context, CheckedCodes(codes, theta.shape()));
    OP_REQUIRES(context, dy.shape() == geometry.y,
                InvalidArgument("Expected errors of shape ", geometry.y.DebugString(),
                                ". Received: ", dy.shape().DebugString()));
    Tensor* dx = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, geometry.x, &dx));
    Multiply(context, geometry.backward, dy, theta, codes, true, dx);
  }
};

class SparseConvWeightGradient : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    const Tensor& codes = context->input(2);
    Geometry geometry;
    OP_REQUIRES_OK(context, GeometryOf(x.shape(), codes.shape(), &geometry));
    OP_REQUIRES(context, dy.shape() == geometry.y,
                InvalidArgument("Expected errors of shape ", geometry.y.DebugString(),
                                ". Received: ", dy.shape().DebugString()));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, codes.shape(), &gradient));
    if (gradient->NumElements() == 0) return;
    if (dy.NumElements() == 0 || x.NumElements() == 0) {
      gradient->flat<float>().setZero();
      return;
    }

    ConvGradient of;
    of.kernels = kernels_->conv;
    of.shape = geometry.forward;
    // One layout for any number of threads: it decides the order of the sums.
    OP_REQUIRES_OK(context, LayoutFor(of.shape, 1, &of.layout));
    const Phase& y = of.shape.y.phases[0];
    const Phase& x_phase = of.shape.x.phases[0];
    of.plan = PlanOf(codes, y, x_phase, 1, ConvPlanKind::kWeightGradient);
    of.offsets = OffsetsOf(of.shape, of.layout, y, x_phase, *of.plan);
    of.tile_distance = DistanceOf(*of.plan, y, x_phase, of.layout);
    const auto& plan = of.plan;
    const int64_t slabs = of.layout.slabs(of.shape);
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = std::min<int64_t>(slabs, threads <= 1 ? 1 : 2 * threads);
    const int64_t floats = of.slab_floats();
    Tensor sums_of, packed_of;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({plan->entries()}),
                                                   &sums_of));
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_FLOAT,
                                          TensorShape({at_once * floats}), &packed_of));
    float* sums = sums_of.flat<float>().data();
    std::fill(sums, sums + plan->entries(), 0.0f);
    float* packed = packed_of.flat<float>().data();
    const float* input = x.flat<float>().data();
    const float* error = dy.flat<float>().data();
    const int64_t runs = plan->runs();
    const int64_t cycles =
        1 + 12 * at_once * of.blocks() * plan->entries() / std::max<int64_t>(1, runs);
    for (int64_t first = 0; first < slabs; first += at_once) {
      const int64_t here = std::min(at_once, slabs - first);
      InParallel(context, here, floats, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
          PackSlab(of, of.layout.SlabAt(of.shape, first + s), input, error,
                   packed + s * floats);
        }
      });
      // The slabs of an entry are added in order, by one thread.
      InParallel(context, runs, cycles, [&](int64_t begin, int64_t end) {
        for (int64_t s = 0; s < here; ++s) {
          AccumulateSlab(of, of.layout.SlabAt(of.shape, first + s),
                         packed + s * floats, begin, end, sums);
        }
      });
    }
    Spread(context, *plan, sums, gradient);
  }

 private:
  // Writes the sums of a plan's entries to their places in the gradient, and zeros
  // elsewhere: part by part, which is in a cache when it is written for the second time.
  static void Spread(OpKernelContext* context, const Plan& plan, const float* sums,
                     Tensor* gradient) {
    Tensor compact_of;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({plan.entries()}),
                                                   &compact_of));
    float* compact = compact_of.flat<float>().data();
    InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) compact[plan.source[i]] = sums[i];
    });
    constexpr int64_t kPart = 4096;
    const int64_t total = gradient->NumElements();
    float* to = gradient->flat<float>().data();
    InParallel(context, (total + kPart - 1) / kPart, kPart, [&](int64_t begin, int64_t end) {
      const auto& places = plan.places;
      int64_t k = std::lower_bound(places.begin(), places.end(), begin * kPart) -
                  places.begin();
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = std::min(total, (part + 1) * kPart);
        std::fill(to + part * kPart, to + last, 0.0f);
        for (; k < plan.entries() && places[k] < last; ++k) to[places[k]] = compact[k];
      }
    });
  }
};

tensorflow::Status ConvShapeFunction(InferenceContext* context) {
  ShapeHandle x, theta, same;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &theta));
  TF_RETURN_IF_ERROR(context->Merge(theta, context->input(2), &same));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(
      context->Merge(context->Dim(x, 3), context->Dim(theta, 2), &unused));
  // Rows and columns are left to the caller, who knows them (`sparse_conv`).
  context->set_output(
      0, context->MakeShape({context->Dim(x, 0), context->UnknownDim(),
                             context->UnknownDim(), context->Dim(theta, 3)}));
  return tensorflow::Status();
}

tensorflow::Status InputGradientShape(InferenceContext* context) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(context->MakeShapeFromShapeTensor(3, &shape));
  TF_RETURN_IF_ERROR(context->WithRank(shape, 4, &shape));
  context->set_output(0, shape);
  return tensorflow::Status();
}

tensorflow::Status WeightGradientShape(InferenceContext* context) {
  context->set_output(0, context->input(2));
  return tensorflow::Status();
}

#define TOPKAST_CONV_ATTRIBUTES                            \
  Attr("key: int")                                         \
      .Attr("cpu: string = ''")                            \
      .Attr("strides: list(int)")                          \
      .Attr("dilations: list(int)")                        \
      .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")        \
      .Attr("dense_gradient: bool = false")

REGISTER_OP("TopkastSparseConv")
    .Input("x: float")
    .Input("theta: float")
    .Input("codes: uint8")
    .TOPKAST_CONV_ATTRIBUTES
    .Output("y: float")
    .SetShapeFn(ConvShapeFunction);

REGISTER_OP("TopkastSparseConvInputGradient")
    .Input("dy: float")
    .Input("theta: float")
    .Input("codes: uint8")
    .Input("sizes: int32")
    .TOPKAST_CONV_ATTRIBUTES
    .Output("dx: float")
    .SetShapeFn(InputGradientShape);

REGISTER_OP("TopkastSparseConvWeightGradient")
    .Input("x: float")
    .Input("dy: float")
    .Input("codes: uint8")
    .TOPKAST_CONV_ATTRIBUTES
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

REGISTER_KERNEL_BUILDER(Name("TopkastSparseConv").Device(tensorflow::DEVICE_CPU),
                        SparseConv);
REGISTER_KERNEL_BUILDER(
    Name("TopkastSparseConvInputGradient").Device(tensorflow::DEVICE_CPU),
    SparseConvInputGradient);
REGISTER_KERNEL_BUILDER(
    Name("TopkastSparseConvWeightGradient").Device(tensorflow::DEVICE_CPU),
    SparseConvWeightGradient);

}  // namespace
}  // namespace topkast
