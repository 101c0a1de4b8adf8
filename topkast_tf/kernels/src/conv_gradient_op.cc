// The TensorFlow operation of the weight gradient of a sparse convolution, and the division
// of the work among threads.
#include <algorithm>
#include <type_traits>

#include "conv_op.h"

namespace topkast {
namespace {

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

// `arithmetic` as of TopkastSparseWeightGradient.
REGISTER_OP("TopkastSparseConvWeightGradient")
    .Input("x: T")
    .Input("dy: T")
    .Input("codes: uint8")
    .TOPKAST_CONV_ATTRIBUTES
    .Attr("arithmetic: {'auto', 'float32'} = 'auto'")
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseConvWeightGradient",
                                 SparseConvWeightGradient);

}  // namespace
}  // namespace topkast
