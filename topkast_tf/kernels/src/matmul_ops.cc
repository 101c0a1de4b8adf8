// The TensorFlow operations of a sparse weight that is a matrix: checks of what reaches the
// kernels, and the division of the work among threads.
#include <algorithm>

#include "ops.h"

namespace topkast {
namespace {

class SparseMatMul : public SparseOp {
 public:
  explicit SparseMatMul(OpKernelConstruction* context) : SparseOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("transpose", &transpose_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& theta = context->input(1);
    const Tensor& codes = context->input(2);
    OP_REQUIRES_OK(context, CheckedWeight(codes, theta.shape()));
    const int64_t from = codes.dim_size(transpose_ ? 1 : 0);
    const int64_t to = codes.dim_size(transpose_ ? 0 : 1);
    OP_REQUIRES(context, x.dims() == 2 && x.dim_size(1) == from,
                InvalidArgument("Expected activations of shape [positions, ", from,
                                "]. Received: ", x.shape().DebugString()));
    const int64_t positions = x.dim_size(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({positions, to}), &y));
    if (y->NumElements() == 0) return;
    if (from == 0) {
      y->flat<float>().setZero();
      return;
    }

    const auto plan =
        PlanFor(codes, transpose_ ? Product::kInputGradient : Product::kForward);
    Tensor values;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({plan->entries()}),
                                                   &values));
    float* value = values.flat<float>().data();
    const float* whole = theta.flat<float>().data();
    InParallel(context, plan->entries(), 2, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) value[i] = whole[plan->source[i]];
    });

    const float* input = x.flat<float>().data();
    float* output = y->flat<float>().data();
    const int64_t panel = kernels_->panel;
    const int64_t cycles = (6 * plan->entries() + 8 * (from + to)) * panel / 64;
    InParallel(context, (positions + panel - 1) / panel, cycles,
               [&](int64_t begin, int64_t end) {
                 float* scratch = ThreadScratch(kernels_->scratch(*plan));
                 for (int64_t p = begin * panel; p < std::min(positions, end * panel);
                      p += panel) {
                   kernels_->multiply(*plan, value, input + p * from,
                                      std::min(panel, positions - p), output + p * to,
                                      scratch);
                 }
               });
  }

 private:
  bool transpose_;
};

class SparseWeightGradient : public SparseOp {
 public:
  using SparseOp::SparseOp;

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
    const int64_t positions = x.dim_size(0), inputs = x.dim_size(1);
    const int64_t outputs = dy.dim_size(1);
    OP_REQUIRES_OK(context, CheckedWeight(codes, TensorShape({inputs, outputs})));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, codes.shape(), &gradient));
    if (gradient->NumElements() == 0) return;

    const auto plan = PlanFor(codes, Product::kWeightGradient);
    // Several blocks are packed, then used by all threads: fewer barriers.
    const int64_t block = kernels_->block;
    const int64_t blocks = (positions + block - 1) / block;
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = std::min<int64_t>(blocks, threads <= 1 ? 1 : 2 * threads);
    Tensor sums_of, panels;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({plan->entries()}),
                                                   &sums_of));
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({at_once * block * (inputs + outputs)}),
                                &panels));
    float* sums = sums_of.flat<float>().data();
    std::fill(sums, sums + plan->entries(), 0.0f);
    float* of_x = panels.flat<float>().data();
    float* of_dy = of_x + at_once * block * inputs;
    const float* input = x.flat<float>().data();
    const float* error = dy.flat<float>().data();

    const int64_t runs = plan->runs();
    const int64_t cycles =
        1 + 10 * at_once * plan->entries() / std::max<int64_t>(1, runs);
    for (int64_t first = 0; first < blocks; first += at_once) {
      const int64_t here = std::min(at_once, blocks - first);
      InParallel(context, here, 8 * (inputs + outputs), [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t p = (first + b) * block;
          const int64_t live = std::min(block, positions - p);
          kernels_->pack(input + p * inputs, live, inputs, of_x + b * block * inputs);
          kernels_->pack(error + p * outputs, live, outputs, of_dy + b * block * outputs);
        }
      });
      // The blocks of an entry are added in order, by one thread.
      InParallel(context, runs, cycles, [&](int64_t begin, int64_t end) {
        for (int64_t b = 0; b < here; ++b) {
          kernels_->accumulate(*plan, begin, end, of_x + b * block * inputs,
                               of_dy + b * block * outputs, sums);
        }
      });
    }

    float* to = gradient->flat<float>().data();
    std::fill(to, to + gradient->NumElements(), 0.0f);
    for (int64_t i = 0; i < plan->entries(); ++i) to[plan->source[i]] = sums[i];
  }
};

tensorflow::Status MatMulShape(InferenceContext* context) {
  bool transpose;
  TF_RETURN_IF_ERROR(context->GetAttr("transpose", &transpose));
  ShapeHandle x, theta, codes;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &x));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 2, &theta));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 2, &codes));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(context->Merge(context->Dim(x, 1),
                                    context->Dim(theta, transpose ? 1 : 0), &unused));
  context->set_output(0, context->Matrix(context->Dim(x, 0),
                                         context->Dim(theta, transpose ? 0 : 1)));
  return tensorflow::Status();
}

tensorflow::Status WeightGradientShape(InferenceContext* context) {
  context->set_output(0, context->input(2));
  return tensorflow::Status();
}

REGISTER_OP("TopkastSparseMatMul")
    .Input("x: float")
    .Input("theta: float")
    .Input("codes: uint8")
    .Attr("key: int")
    .Attr("cpu: string = ''")
    .Attr("transpose: bool = false")
    .Attr("dense_gradient: bool = false")
    .Attr("sparse_activations: bool = false")
    .Output("y: float")
    .SetShapeFn(MatMulShape);

REGISTER_OP("TopkastSparseWeightGradient")
    .Input("x: float")
    .Input("dy: float")
    .Input("codes: uint8")
    .Attr("key: int")
    .Attr("cpu: string = ''")
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

REGISTER_KERNEL_BUILDER(Name("TopkastSparseMatMul").Device(tensorflow::DEVICE_CPU),
                        SparseMatMul);
REGISTER_KERNEL_BUILDER(
    Name("TopkastSparseWeightGradient").Device(tensorflow::DEVICE_CPU),
    SparseWeightGradient);

}  // namespace
}  // namespace topkast
