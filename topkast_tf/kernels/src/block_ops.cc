// The TensorFlow operations of a sparse weight that is a matrix and whose sets are whole
// blocks: checks of what reaches the kernels, and the division of the work among threads.
#include <algorithm>

#include "ops.h"

namespace topkast {
namespace {

// Cycles of a block in one position, and of a channel of an activation.
constexpr int64_t kBlockCycles = 1;
constexpr int64_t kChannelCycles = 2;

class BlockOp : public SparseOp {
 public:
  explicit BlockOp(OpKernelConstruction* context) : SparseOp(context) {
    if (kernels_ == nullptr) return;  // refused above
    std::string lanes;
    OP_REQUIRES_OK(context, context->GetAttr("lanes", &lanes));
    lanes_are_outputs_ = lanes == "outputs";
  }

 protected:
  // The blocks of A or B.
  tensorflow::Status BlocksOf(const Tensor& codes, Product product,
                              std::shared_ptr<const BlockPlan>* plan) const {
    *plan = PlansOf(key_)->GetBlocks(codes, lanes_are_outputs_, product);
    if (*plan != nullptr) return tensorflow::Status();
    return InvalidArgument("Expected codes that are the same in each block of ",
                           kBlockLanes, lanes_are_outputs_ ? " outputs of one input"
                                                           : " inputs of one output",
                           ". Received: other codes of shape ",
                           codes.shape().DebugString());
  }

  bool lanes_are_outputs_ = true;
};

class BlockMatMul : public BlockOp {
 public:
  explicit BlockMatMul(OpKernelConstruction* context) : BlockOp(context) {
    if (kernels_ == nullptr) return;
    OP_REQUIRES_OK(context, context->GetAttr("transpose", &transpose_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& theta = context->input(1);
    const Tensor& codes = context->input(2);
    MatMulSizes sizes;
    Tensor* y;
    OP_REQUIRES_OK(context, CheckedMatrix(theta, codes));
    OP_REQUIRES_OK(context, PrepareMatMul<float>(context, codes, transpose_, &sizes, &y));
    if (y == nullptr) return;
    const int64_t positions = sizes.positions, from = sizes.from, to = sizes.to;

    std::shared_ptr<const BlockPlan> plan;
    OP_REQUIRES_OK(context, BlocksOf(codes, Product::kForward, &plan));
    Tensor values_of;
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({plan->blocks() * kBlockLanes}), &values_of));
    float* values = values_of.flat<float>().data();
    const float* whole = theta.flat<float>().data();
    const int64_t in_group = plan->blocks() / plan->groups();
    InParallel(context, plan->groups(), 1 + 16 * in_group,
               [&](int64_t begin, int64_t end) {
                 GatherBlocks(*plan, whole, begin, end, values);
               });

    const BlockKernels& kernels = *kernels_->blocks;
    const auto multiply =
        lanes_are_outputs_ == transpose_ ? kernels.to_lines : kernels.to_lanes;
    const float* input = x.flat<float>().data();
    float* output = y->flat<float>().data();
    const int64_t at_once = kernels.panel;
    const int64_t cycles =
        at_once * (kBlockCycles * plan->blocks() + kChannelCycles * (from + to));
    InParallel(context, (positions + at_once - 1) / at_once, cycles,
               [&](int64_t begin, int64_t end) {
                 float* scratch = ThreadScratch(kernels.scratch(*plan));
                 for (int64_t p = begin * at_once; p < std::min(positions, end * at_once);
                      p += at_once) {
                   multiply(*plan, values, input + p * from,
                            std::min(at_once, positions - p), output + p * to, scratch);
                 }
               });
  }

 private:
  bool transpose_;
};

class BlockWeightGradient : public BlockOp {
 public:
  using BlockOp::BlockOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    const Tensor& codes = context->input(2);
    OP_REQUIRES(context, x.dims() == 2 && dy.dims() == 2 &&
                             x.dim_size(0) == dy.dim_size(0),
                InvalidArgument("Expected activations and errors of as many positions. "
                                "Received: ",
                                x.shape().DebugString(), " and ",
                                dy.shape().DebugString()));
    OP_REQUIRES_OK(context, CheckedWeight(codes, TensorShape({x.dim_size(1),
                                                              dy.dim_size(1)})));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, codes.shape(), &gradient));
    if (gradient->NumElements() == 0) return;

    std::shared_ptr<const BlockPlan> plan;
    OP_REQUIRES_OK(context, BlocksOf(codes, Product::kWeightGradient, &plan));
    const BlockKernels& kernels = *kernels_->blocks;
    const Tensor& lane_side = lanes_are_outputs_ ? dy : x;
    const Tensor& line_side = lanes_are_outputs_ ? x : dy;
    const float* of_lanes = lane_side.flat<float>().data();
    const float* of_lines = line_side.flat<float>().data();

    // Several panels are packed, then used by all threads: fewer barriers.
    const int64_t positions = x.dim_size(0), width = kernels.panel;
    const int64_t panels = (positions + width - 1) / width;
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = std::min<int64_t>(panels, threads <= 1 ? 1 : 8 * threads);
    const int64_t floats = kernels.scratch(*plan);
    Tensor sums_of, packed_of;
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({plan->blocks() * kBlockLanes}), &sums_of));
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_FLOAT,
                                          TensorShape({at_once * floats}), &packed_of));
    float* sums = sums_of.flat<float>().data();
    std::fill_n(sums, plan->blocks() * kBlockLanes, 0.0f);
    float* packed = packed_of.flat<float>().data();
    const int64_t cycles =
        1 + kBlockCycles * at_once * width * plan->blocks() / plan->groups();
    for (int64_t first = 0; first < panels; first += at_once) {
      const int64_t here = std::min(at_once, panels - first);
      const auto live = [&](int64_t panel) {
        return std::min(width, positions - (first + panel) * width);
      };
      InParallel(context, here, kChannelCycles * floats, [&](int64_t begin, int64_t end) {
        for (int64_t q = begin; q < end; ++q) {
          kernels.pack(of_lines + (first + q) * width * plan->lines, live(q), plan->lines,
                       packed + q * floats);
        }
      });
      // The positions of a block are added in order, by one thread.
      InParallel(context, plan->groups(), cycles, [&](int64_t begin, int64_t end) {
        for (int64_t q = 0; q < here; ++q) {
          kernels.accumulate(*plan, begin, end,
                             of_lanes + (first + q) * width * plan->lanes,
                             packed + q * floats, live(q), sums);
        }
      });
    }

    float* to = gradient->flat<float>().data();
    std::fill_n(to, gradient->NumElements(), 0.0f);
    ScatterBlocks(*plan, sums, 0, plan->groups(), to);
  }
};

REGISTER_OP("TopkastBlockMatMul")
    .Input("x: float")
    .Input("theta: float")
    .Input("codes: uint8")
    .Input("dense_if: conditions * bool")
    .Attr("conditions: int >= 0 = 0")
    .Attr("key: int")
    .Attr("cpu: string = ''")
    .Attr("lanes: {'outputs', 'inputs'}")
    .Attr("transpose: bool = false")
    .Attr("dense_gradient: bool = false")
    .Attr("sparse_activations: bool = false")
    .Output("y: float")
    .SetShapeFn(MatMulShape);

REGISTER_OP("TopkastBlockWeightGradient")
    .Input("x: float")
    .Input("dy: float")
    .Input("codes: uint8")
    .Attr("key: int")
    .Attr("cpu: string = ''")
    .Attr("lanes: {'outputs', 'inputs'}")
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

REGISTER_KERNEL_BUILDER(Name("TopkastBlockMatMul").Device(tensorflow::DEVICE_CPU),
                        BlockMatMul);
REGISTER_KERNEL_BUILDER(Name("TopkastBlockWeightGradient").Device(tensorflow::DEVICE_CPU),
                        BlockWeightGradient);

}  // namespace
}  // namespace topkast
