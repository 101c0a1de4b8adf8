// What a training step does to a sparse weight beside its products: the mask of the
// gradient, the exploration loss, and the update of theta on B alone.
#include <algorithm>
#include <string>
#include <vector>

#include "variables.h"

namespace topkast {
namespace {

using tensorflow::mutex_lock;
using tensorflow::tf_shared_lock;

class StepOp : public EntrywiseOp {
 public:
  explicit StepOp(OpKernelConstruction* context) : EntrywiseOp(context) {
    std::string step;
    OP_REQUIRES_OK(context, context->GetAttr("step", &step));
    step_ = step == "add"        ? Step::kAdd
            : step == "subtract" ? Step::kSubtract
                                 : Step::kAssign;
  }

  void Compute(OpKernelContext* context) override {
    WeightVariables weight;
    OP_REQUIRES_OK(context, weight.Find(context, 1, 0, 2));
    const Tensor& by = context->input(3);
    {
      tf_shared_lock sets_lock(*weight.sets->mu());
      mutex_lock theta_lock(*weight.theta->mu());
      const Tensor& sets = *weight.sets->tensor();
      Tensor* theta = weight.theta->tensor();
      OP_REQUIRES_OK(context, CheckedSets(sets, *theta));
      OP_REQUIRES(context, by.shape() == theta->shape(),
                  InvalidArgument("Expected a step of shape ",
                                  theta->shape().DebugString(),
                                  ". Received: ", by.shape().DebugString()));
      // A read of theta may still be in use: then the step goes to a buffer of its own.
      const bool is_shared =
          !weight.theta->copy_on_read_mode.load() && !theta->RefCountIsOne();
      Tensor fresh;
      if (is_shared) {
        OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                       theta->shape(), &fresh));
      }
      const uint8_t* codes = sets.flat<uint8_t>().data();
      const float* step = by.flat<float>().data();
      const float* from = theta->flat<float>().data();
      float* target = (is_shared ? fresh : *theta).flat<float>().data();
      InParallel(context, theta->NumElements(), 2, [&](int64_t begin, int64_t end) {
        passes_->step(step_, codes + begin, step + begin, from + begin, target + begin,
                      end - begin);
      });
      if (is_shared) *theta = fresh;
    }
    mutex_lock lock(*weight.counters->mu());
    int64_t* entries;
    OP_REQUIRES_OK(context, MutableCounters(weight.counters.get(), &entries));
    entries[kPending] = 1;
  }

 private:
  Step step_;
};

class MaskOp : public EntrywiseOp {
 public:
  using EntrywiseOp::EntrywiseOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& sets = context->input(1);
    OP_REQUIRES_OK(context, CheckedSets(sets, x));
    Tensor* masked = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(),
                                                                      &masked));
    const uint8_t* codes = sets.flat<uint8_t>().data();
    const float* from = x.flat<float>().data();
    float* to = masked->flat<float>().data();
    InParallel(context, x.NumElements(), 2, [&](int64_t begin, int64_t end) {
      passes_->mask(codes + begin, from + begin, to + begin, end - begin);
    });
  }
};

// Entries whose sum is one float; these sums are added in double precision, in order.
constexpr int64_t kChunk = 16384;

class ExplorationOp : public EntrywiseOp {
 public:
  explicit ExplorationOp(OpKernelConstruction* context) : EntrywiseOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("coefficient", &coefficient_));
  }

 protected:
  tensorflow::Status Checked(OpKernelContext* context) const {
    TF_RETURN_IF_ERROR(CheckedSets(context->input(1), context->input(0)));
    for (int i = 2; i < context->num_inputs(); ++i) {
      if (context->input(i).NumElements() != 1) {
        return InvalidArgument("Expected scalars after theta and sets. Received: ",
                               context->input(i).shape().DebugString());
      }
    }
    return tensorflow::Status();
  }

  float coefficient_;
};

class LossOp : public ExplorationOp {
 public:
  using ExplorationOp::ExplorationOp;

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Checked(context));
    const float* theta = context->input(0).flat<float>().data();
    const uint8_t* codes = context->input(1).flat<uint8_t>().data();
    const float density = context->input(2).flat<float>()(0);
    const int64_t size = context->input(0).NumElements();
    const int64_t chunks = (size + kChunk - 1) / kChunk;
    std::vector<float> sums(chunks);
    InParallel(context, chunks, 2 * kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kChunk;
        sums[i] = passes_->exploration_sum(codes + first, theta + first,
                                           coefficient_ / density, density,
                                           std::min(kChunk, size - first));
      }
    });
    double total = 0;
    for (float sum : sums) total += sum;
    Tensor* loss = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &loss));
    loss->flat<float>()(0) = static_cast<float>(total / 2);
  }
};

class GradientOp : public ExplorationOp {
 public:
  using ExplorationOp::ExplorationOp;

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Checked(context));
    const Tensor& theta = context->input(0);
    const float* from = theta.flat<float>().data();
    const uint8_t* codes = context->input(1).flat<uint8_t>().data();
    const float density = context->input(2).flat<float>()(0);
    const float scale = context->input(3).flat<float>()(0);
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, theta.shape(), &gradient));
    float* to = gradient->flat<float>().data();
    InParallel(context, theta.NumElements(), 2, [&](int64_t begin, int64_t end) {
      passes_->exploration_gradient(codes + begin, from + begin, coefficient_ / density,
                                    density, scale, to + begin, end - begin);
    });
  }
};

REGISTER_OP("TopkastStep")
    .Input("theta: resource")
    .Input("sets: resource")
    .Input("counters: resource")
    .Input("by: float")
    .Attr("step: {'add', 'subtract', 'assign'}")
    .Attr("cpu: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return tensorflow::Status(); });

REGISTER_OP("TopkastMask")
    .Input("x: float")
    .Input("sets: uint8")
    .Attr("cpu: string = ''")
    .Output("masked: float")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(0));
      return tensorflow::Status();
    });

REGISTER_OP("TopkastExplorationLoss")
    .Input("theta: float")
    .Input("sets: uint8")
    .Input("density: float")
    .Attr("coefficient: float")
    .Attr("cpu: string = ''")
    .Output("loss: float")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->Scalar());
      return tensorflow::Status();
    });

REGISTER_OP("TopkastExplorationGradient")
    .Input("theta: float")
    .Input("sets: uint8")
    .Input("density: float")
    .Input("upstream: float")
    .Attr("coefficient: float")
    .Attr("cpu: string = ''")
    .Output("gradient: float")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(0));
      return tensorflow::Status();
    });

REGISTER_KERNEL_BUILDER(Name("TopkastStep").Device(tensorflow::DEVICE_CPU), StepOp);
REGISTER_KERNEL_BUILDER(Name("TopkastMask").Device(tensorflow::DEVICE_CPU), MaskOp);
REGISTER_KERNEL_BUILDER(Name("TopkastExplorationLoss").Device(tensorflow::DEVICE_CPU),
                        LossOp);
REGISTER_KERNEL_BUILDER(Name("TopkastExplorationGradient").Device(tensorflow::DEVICE_CPU),
                        GradientOp);

}  // namespace
}  // namespace topkast
