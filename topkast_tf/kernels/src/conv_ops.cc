// The TensorFlow operations of a sparse convolution and its input gradient, and the division
// of the work among threads.
#include <algorithm>
#include <type_traits>

#include "conv_op.h"

namespace topkast {
namespace {

// The forward pass and the input gradient: sources, a weight, and targets.
class ConvProductOp : public ConvOp {
 public:
  using ConvOp::ConvOp;

 protected:
  // Computes all targets. `kind` is one of the two products.
  template <typename T>
  void Multiply(OpKernelContext* context, const ConvShape& shape, ConvPlanKind kind,
                const Tensor& source, const Tensor& theta, const Codes& codes,
                Tensor* target) const {
    if (target->NumElements() == 0) return;
    if (source.NumElements() == 0) {
      target->flat<T>().setZero();
      return;
    }
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    ConvProduct product;
    product.kernels = kernels_->conv;
    product.shape = shape;
    OP_REQUIRES_OK(context,
                   LayoutFor(shape, threads <= 1 ? 1 : 2 * threads, &product.layout));
    int64_t entries = 0;
    for (const Phase& y : product.shape.y.phases) {
      for (const Phase& x : product.shape.x.phases) {
        const int phase = static_cast<int>(product.parts.size());
        product.parts.push_back({&y, &x, {}});
        for (int64_t group = 0; group < groups_; ++group) {
          const auto plan = PlanOf(codes, group, y, x, kind, phase);
          product.parts.back().groups.push_back(
              {Place(product.shape, product.layout, y, x, plan)});
          entries += plan->entries();
        }
      }
    }
    Tensor memory;
    OP_REQUIRES_OK(context, FillEntries<T>(context, codes, theta, kind, source.shape(),
                                           entries, &memory, &product));

    const auto* from = DataOf<T>(source);
    auto* to = DataOf<T>(target);
    const PlaneLayout& layout = product.layout;
    const int64_t vectors =
        layout.slab_groups * layout.slab_rows * layout.vectors_of(layout.slab_cols);
    const int64_t ends = shape.source_channels + shape.target_channels;
    const int64_t cycles = (8 * entries + 16 * ends) * vectors / 6;
    InParallel(context, layout.slabs(shape), cycles, [&](int64_t begin, int64_t end) {
      float* scratch = ThreadScratch(product.scratch_floats());
      for (int64_t i = begin; i < end; ++i) {
        MultiplySlab(product, layout.SlabAt(product.shape, i), from, to, scratch);
      }
    });
  }

 private:
  // Brings offsets and values into the order of the plans. They are kept for the next call
  // of this shape if the weight is no longer trained. `memory` holds them.
  template <typename T>
  tensorflow::Status FillEntries(OpKernelContext* context, const Codes& codes,
                                 const Tensor& theta, ConvPlanKind kind,
                                 const TensorShape& source,
                                 int64_t total, Tensor* memory,
                                 ConvProduct* product) const {
    static_assert(sizeof(ConvEntry) == 2 * sizeof(float), "memory of the entries");
    Tensor values_of;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT, TensorShape({total}),
                                              &values_of));
    const float* weight = theta.flat<float>().data();
    float* values = values_of.flat<float>().data();
    const auto fill = [&](float* floats) {
      auto* entries = reinterpret_cast<ConvEntry*>(floats);
      for (const ConvProduct::Part& part : product->parts) {
        for (const ConvProduct::OfGroup& group : part.groups) {
          const Plan& plan = *group.placed.plan;
          InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) values[i] = weight[plan.places[i]];
            if constexpr (std::is_same_v<T, tensorflow::bfloat16>) {
              kernels_->bfloat16->round(values + begin, end - begin);
            }
          });
          InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              entries[i] = {group.placed.offsets[plan.col[i]], values[plan.source[i]]};
            }
          });
          entries += plan.entries();
        }
      }
    };
    if (codes.are_gaps()) {
      *memory = PlansOf(key_)->Values(codes, theta, OrderOf<T>(context, kind, source),
                                      2 * total, fill);
    } else {
      TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT,
                                                TensorShape({2 * total}), memory));
      fill(memory->flat<float>().data());
    }
    const auto* entries =
        reinterpret_cast<const ConvEntry*>(memory->flat<float>().data());
    for (ConvProduct::Part& part : product->parts) {
      for (ConvProduct::OfGroup& group : part.groups) {
        group.entries = entries;
        entries += group.placed.plan->entries();
      }
    }
    return tensorflow::Status();
  }

  // What the entries of a product depend on: which of the two it is, the convolution, their
  // type, and the layout, which is of the sizes of the sources, the instruction set and the
  // number of threads.
  template <typename T>
  std::string OrderOf(OpKernelContext* context, ConvPlanKind kind,
                      const TensorShape& source) const {
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const char* type = std::is_same_v<T, float> ? " float " : " bfloat16 ";
    return std::to_string(static_cast<int>(kind)) + " " + geometry_ +
           std::to_string(groups_) + source.DebugString() + type +
           std::to_string(kernels_->conv->lanes) + " lanes " + std::to_string(threads) +
           " threads ";
  }
};

template <typename T>
class SparseConv : public ConvProductOp {
 public:
  using ConvProductOp::ConvProductOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& theta = context->input(1);
    const Codes codes = CodesOf(context);
    Geometry geometry;
    OP_REQUIRES_OK(context, CheckedTheta(theta, codes));
    OP_REQUIRES_OK(context, GeometryOf(x.shape(), codes.shape(), &geometry));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, geometry.y, &y));
    Multiply<T>(context, geometry.forward, ConvPlanKind::kForward, x, theta, codes, y);
  }
};

template <typename T>
class SparseConvInputGradient : public ConvProductOp {
 public:
  using ConvProductOp::ConvProductOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& dy = context->input(0);
    const Tensor& theta = context->input(1);
    const Codes codes = CodesOf(context);
    const Tensor& sizes = context->input(3);
    OP_REQUIRES(context, sizes.dims() == 1 && sizes.NumElements() == 4,
                InvalidArgument("Expected the four sizes of the input. Received: ",
                                sizes.shape().DebugString()));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShapeUtils::MakeShape(sizes.flat<int32_t>().data(), 4,
                                                        &shape));
    Geometry geometry;
    OP_REQUIRES_OK(context, CheckedTheta(theta, codes));
    OP_REQUIRES_OK(context, GeometryOf(shape, codes.shape(), &geometry));
    OP_REQUIRES(context, dy.shape() == geometry.y,
                InvalidArgument("Expected errors of shape ", geometry.y.DebugString(),
                                ". Received: ", dy.shape().DebugString()));
    Tensor* dx = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, geometry.x, &dx));
    Multiply<T>(context, geometry.backward, ConvPlanKind::kInputGradient, dy, theta, codes,
                dx);
  }
};

// The size of an axis of the output, unknown if that of the input or the window is.
DimensionHandle OutputSize(InferenceContext* context, DimensionHandle input,
                           DimensionHandle window, int64_t stride, int64_t dilation,
                           bool is_valid) {
  if (!context->ValueKnown(input) || !context->ValueKnown(window)) {
    return context->UnknownDim();
  }
  const int64_t halo = (context->Value(window) - 1) * dilation;
  const int64_t room = context->Value(input) - (is_valid ? halo : 0);
  return context->MakeDim(std::max<int64_t>(0, (room + stride - 1) / stride));
}

tensorflow::Status ConvShapeFunction(InferenceContext* context) {
  ShapeHandle x, weight;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
  TF_RETURN_IF_ERROR(ShapeOfWeight(context, 4, &weight));
  int64_t groups;
  TF_RETURN_IF_ERROR(context->GetAttr("groups", &groups));
  DimensionHandle of_group, unused;
  if (groups < 1) return InvalidArgument("Expected one group or more. Received: ", groups);
  TF_RETURN_IF_ERROR(context->Divide(context->Dim(x, 3), groups, true, &of_group));
  TF_RETURN_IF_ERROR(context->Merge(of_group, context->Dim(weight, 2), &unused));
  std::string padding;
  std::vector<int32_t> strides, dilations;
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &dilations));
  DimensionHandle sizes[2] = {context->UnknownDim(), context->UnknownDim()};
  const bool fits = strides.size() == 2 && dilations.size() == 2;
  for (int axis = 0; axis < 2 && fits && strides[axis] > 0; ++axis) {
    sizes[axis] = OutputSize(context, context->Dim(x, 1 + axis), context->Dim(weight, axis),
                             strides[axis], dilations[axis], padding == "VALID");
  }
  context->set_output(0, context->MakeShape({context->Dim(x, 0), sizes[0], sizes[1],
                                             context->Dim(weight, 3)}));
  return tensorflow::Status();
}

tensorflow::Status InputGradientShape(InferenceContext* context) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(context->MakeShapeFromShapeTensor(3, &shape));
  TF_RETURN_IF_ERROR(context->WithRank(shape, 4, &shape));
  context->set_output(0, shape);
  return tensorflow::Status();
}

REGISTER_OP("TopkastSparseConv")
    .Input("x: T")
    .Input("theta: float")
    .Input("codes: uint8")
    .Input("dense_if: conditions * bool")
    .Attr("conditions: int >= 0 = 0")
    .TOPKAST_CONV_ATTRIBUTES
    .Output("y: T")
    .SetShapeFn(ConvShapeFunction);

REGISTER_OP("TopkastSparseConvInputGradient")
    .Input("dy: T")
    .Input("theta: float")
    .Input("codes: uint8")
    .Input("sizes: int32")
    .Input("dense_if: conditions * bool")
    .Attr("conditions: int >= 0 = 0")
    .TOPKAST_CONV_ATTRIBUTES
    .Output("dx: T")
    .SetShapeFn(InputGradientShape);

TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConv", SparseConv);
TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConvInputGradient",
                                 SparseConvInputGradient);

}  // namespace
}  // namespace topkast
