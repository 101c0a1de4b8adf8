// The TensorFlow operation for sparse activations: the weight gradient from their entries.
#include <algorithm>
#include <vector>

#include "ops.h"

namespace topkast {
namespace {

// The entries of x, [positions, channels], that are not zero: rows are channels.
//
// Made anew for each batch, so in two passes of all threads: entries are counted, then
// copied to where they belong.
Plan PlanOfEntries(OpKernelContext* context, const Kernels& kernels, const float* x,
                   int64_t positions, int64_t channels, std::vector<float>* values) {
  Plan plan;
  plan.rows = channels;
  plan.cols = positions;
  plan.tile = kCompressTile;
  const int64_t tiles = (positions + plan.tile - 1) / plan.tile;
  std::vector<std::vector<int32_t>> counts(tiles, std::vector<int32_t>(channels));
  auto in_tile = [&](int64_t tile) {
    return std::min<int64_t>(plan.tile, positions - tile * plan.tile);
  };
  const int64_t cycles = plan.tile * channels;
  InParallel(context, tiles, cycles / 4, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      kernels.count_entries(x + tile * plan.tile * channels, in_tile(tile), channels,
                            counts[tile].data());
    }
  });

  std::vector<int32_t> starts, order;
  int32_t entries = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    OrderByCount(counts[tile], starts, order);
    plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
    for (const int32_t channel : order) {
      const int32_t count = counts[tile][channel];
      // In the first tile, a run without entries sets the sums to zero.
      if (count == 0 && tile > 0) continue;
      plan.row.push_back(channel);
      plan.first_entry.push_back(entries);
      entries += count;
    }
  }
  plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
  plan.first_entry.push_back(entries);
  plan.col.resize(entries);
  values->resize(entries);
  InParallel(context, tiles, cycles, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> first(channels);
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int32_t run = plan.first_run[tile]; run < plan.first_run[tile + 1]; ++run) {
        first[plan.row[run]] = plan.first_entry[run];
      }
      kernels.copy_entries(x + tile * plan.tile * channels, in_tile(tile), channels,
                           first.data(), plan.col.data(), values->data());
    }
  });
  return plan;
}

class SparseActivationGradient : public OpKernel {
 public:
  explicit SparseActivationGradient(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, KernelsOf(context, &kernels_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    OP_REQUIRES(context, x.dims() == 2 && dy.dims() == 2 &&
                             x.dim_size(0) == dy.dim_size(0),
                InvalidArgument("Expected activations and errors of as many positions. "
                                "Received: ",
                                x.shape().DebugString(), " and ",
                                dy.shape().DebugString()));
    const int64_t positions = x.dim_size(0), inputs = x.dim_size(1);
    const int64_t outputs = dy.dim_size(1);
    OP_REQUIRES(context, x.NumElements() < kMostEntries,
                InvalidArgument("Expected less than ", kMostEntries,
                                " activations. Received: ", x.shape().DebugString()));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({inputs, outputs}),
                                                     &gradient));
    if (gradient->NumElements() == 0) return;
    if (positions == 0) {
      gradient->flat<float>().setZero();
      return;
    }

    std::vector<float> values;
    const Plan plan = PlanOfEntries(context, *kernels_, x.flat<float>().data(), positions,
                                    inputs, &values);
    const float* error = dy.flat<float>().data();
    float* to = gradient->flat<float>().data();
    const int64_t panel = kernels_->panel;
    const int64_t cycles = 6 * plan.entries() + panel * (positions + inputs) / 4;
    InParallel(context, (outputs + panel - 1) / panel, cycles,
               [&](int64_t begin, int64_t end) {
                 float* scratch = ThreadScratch(kernels_->rows_scratch(plan));
                 for (int64_t o = begin * panel; o < std::min(outputs, end * panel);
                      o += panel) {
                   kernels_->multiply_rows(plan, values.data(), error + o, outputs,
                                           std::min(panel, outputs - o), to + o, scratch);
                 }
               });
  }

 private:
  const Kernels* kernels_ = nullptr;
};

tensorflow::Status ActivationGradientShape(InferenceContext* context) {
  ShapeHandle x, dy;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &x));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 2, &dy));
  context->set_output(0, context->Matrix(context->Dim(x, 1), context->Dim(dy, 1)));
  return tensorflow::Status();
}

REGISTER_OP("TopkastSparseActivationGradient")
    .Input("x: float")
    .Input("dy: float")
    .Attr("cpu: string = ''")
    .Output("gradient: float")
    .SetShapeFn(ActivationGradientShape);

REGISTER_KERNEL_BUILDER(
    Name("TopkastSparseActivationGradient").Device(tensorflow::DEVICE_CPU),
    SparseActivationGradient);

}  // namespace
}  // namespace topkast
