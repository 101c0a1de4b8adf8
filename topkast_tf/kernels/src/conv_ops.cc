// The TensorFlow operations of a sparse convolution, and the division of the work among
// threads.
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
  // type, and the layout, which is of the sizes of the sources and the number of threads.
  template <typename T>
  std::string OrderOf(OpKernelContext* context, ConvPlanKind kind,
                      const TensorShape& source) const {
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const char* type = std::is_same_v<T, float> ? " float " : " bfloat16 ";
    return std::to_string(static_cast<int>(kind)) + " " + geometry_ +
           std::to_string(groups_) + source.DebugString() + type +
           std::to_string(threads) + " threads ";
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

template <typename T>
class SparseConvWeightGradient : public ConvOp {
 public:
  explicit SparseConvWeightGradient(OpKernelConstruction* context) : ConvOp(context) {
    if (kernels_ == nullptr) return;  // refused above
    std::string arithmetic;
    OP_REQUIRES_OK(context, context->GetAttr("arithmetic", &arithmetic));
    if (std::is_same_v<T, tensorflow::bfloat16> && arithmetic == "auto") {
      pairs_ = FindPairKernels(*kernels_);
    }
  }

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
    OP_REQUIRES_OK(context, CheckedEntries(codes));
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, ShapeOfTheta(codes), &gradient));
    if (gradient->NumElements() == 0) return;
    if (dy.NumElements() == 0 || x.NumElements() == 0) {
      gradient->flat<float>().setZero();
      return;
    }

    ConvGradient of;
    of.kernels = kernels_->conv;
    of.shape = geometry.forward;
    of.batch = of.shape.images;
    if (of.batch > 1 && pairs_ != nullptr) {  // by the batch alone, as it decides the sums
      of.pairs = pairs_;
      of.shape.images = (of.batch + 1) / 2;
    }
    // One layout for any number of threads: it decides the order of the sums.
    OP_REQUIRES_OK(context, LayoutFor(of.shape, 1, &of.layout));
    const Phase& rows = of.shape.y.phases[0];
    const Phase& cols = of.shape.x.phases[0];
    for (int64_t group = 0; group < groups_; ++group) {
      const auto plan = PlanOf(codes, group, rows, cols, ConvPlanKind::kWeightGradient);
      of.placed.push_back(Place(of.shape, of.layout, rows, cols, plan));
    }
    const int64_t runs = of.runs(), entries = of.entries();
    const int64_t slabs = of.layout.slabs(of.shape);
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = std::min<int64_t>(slabs, threads <= 1 ? 1 : 2 * threads);
    const int64_t floats = of.slab_floats();
    Tensor sums_of, packed_of;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({entries}), &sums_of));
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_FLOAT,
                                          TensorShape({at_once * floats}), &packed_of));
    float* sums = sums_of.flat<float>().data();
    std::fill(sums, sums + entries, 0.0f);
    float* packed = packed_of.flat<float>().data();
    const auto* input = DataOf<T>(x);
    const auto* error = DataOf<T>(dy);
    const int64_t cycles =
        1 + 12 * at_once * of.blocks() * entries / std::max<int64_t>(1, runs);
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
    Spread(context, of, sums, gradient);
  }

 private:
  // Writes the sums of the plans' entries to their places in the gradient, and zeros
  // elsewhere: part by part, which is in a cache when it is written for the second time.
  static void Spread(OpKernelContext* context, const ConvGradient& of, const float* sums,
                     Tensor* gradient) {
    Tensor compact_of;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({of.entries()}),
                                                   &compact_of));
    float* compact = compact_of.flat<float>().data();
    std::vector<const float*> of_groups;
    int64_t first_entry = 0;
    for (const PlacedPlan& group : of.placed) {
      const Plan& plan = *group.plan;
      float* compact_group = compact + first_entry;
      const float* sums_group = sums + first_entry;
      InParallel(context, plan.entries(), 3, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) compact_group[plan.source[i]] = sums_group[i];
      });
      of_groups.push_back(compact_group);
      first_entry += plan.entries();
    }
    constexpr int64_t kPart = 4096;
    const int64_t total = gradient->NumElements();
    float* to = gradient->flat<float>().data();
    const int64_t parts = (total + kPart - 1) / kPart;
    InParallel(context, parts, kPart, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> next;  // entry of each group
      for (const PlacedPlan& group : of.placed) {
        const auto& places = group.plan->places;
        next.push_back(std::lower_bound(places.begin(), places.end(), begin * kPart) -
                       places.begin());
      }
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = std::min(total, (part + 1) * kPart);
        std::fill(to + part * kPart, to + last, 0.0f);
        for (size_t group = 0; group < next.size(); ++group) {
          const auto& places = of.placed[group].plan->places;
          const int64_t entries = static_cast<int64_t>(places.size());
          int64_t k = next[group];
          for (; k < entries && places[k] < last; ++k) to[places[k]] = of_groups[group][k];
          next[group] = k;
        }
      }
    });
  }

  const PairKernels* pairs_ = nullptr;
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

// `arithmetic` as of TopkastSparseWeightGradient.
REGISTER_OP("TopkastSparseConvWeightGradient")
    .Input("x: T")
    .Input("dy: T")
    .Input("codes: uint8")
    .TOPKAST_CONV_ATTRIBUTES
    .Attr("arithmetic: {'auto', 'float32'} = 'auto'")
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConv", SparseConv);
TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConvInputGradient",
                                 SparseConvInputGradient);
TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConvWeightGradient",
                                 SparseConvWeightGradient);

}  // namespace
}  // namespace topkast
