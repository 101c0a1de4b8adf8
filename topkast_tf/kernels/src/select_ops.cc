// The end of an optimizer's step: steps are counted, and the sets are selected that are
// due. One operation for all weights of a scope.
#include <atomic>
#include <string>
#include <vector>

#include "select.h"
#include "variables.h"

namespace topkast {
namespace {

using tensorflow::mutex_lock;
using tensorflow::tf_shared_lock;

class RefreshOp : public EntrywiseOp {
 public:
  explicit RefreshOp(OpKernelConstruction* context) : EntrywiseOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("N", &weights_));
    OP_REQUIRES_OK(context, context->GetAttr("every", &every_));
    OP_REQUIRES_OK(context, context->GetAttr("stop", &stop_));
    OP_REQUIRES_OK(context, context->GetAttr("messages", &messages_));
    OP_REQUIRES(context, every_ >= 1,
                InvalidArgument("Expected every >= 1. Received: ", every_));
    OP_REQUIRES(context, static_cast<int>(messages_.size()) == weights_,
                InvalidArgument("Expected ", weights_, " messages. Received: ",
                                messages_.size()));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& complete = context->input(3 * weights_);
    OP_REQUIRES(context, complete.NumElements() == 1,
                InvalidArgument("Expected a scalar `complete`. Received: ",
                                complete.shape().DebugString()));
    std::vector<WeightVariables> weights(weights_);
    std::vector<Due> due;
    for (int i = 0; i < weights_; ++i) {
      OP_REQUIRES_OK(context,
                     weights[i].Find(context, weights_ + i, i, 2 * weights_ + i));
      OP_REQUIRES_OK(context, Count(i, complete.flat<bool>()(0), weights[i], &due));
    }
    int64_t entries = 0;
    for (Due& each : due) {
      OP_REQUIRES_OK(context, Prepare(context, weights[each.weight], &each));
      entries += each.entries;
    }
    if (due.empty()) return;
    // Two passes over a weight that comes from memory. Without locks: an operation that
    // holds one may wait for the threads that would wait for it.
    const int64_t cycles = 4 * entries / static_cast<int64_t>(due.size());
    InParallel(context, due.size(), cycles, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) Select(&due[i]);
    });
    for (const Due& each : due) {
      OP_REQUIRES_OK(context, Finish(weights[each.weight], each));
    }
    for (const Due& each : due) {  // in the words of TensorFlow's `Assert`
      OP_REQUIRES(context, each.is_finite,
                  InvalidArgument("assertion failed: [", messages_[each.weight], "]"));
    }
  }

 private:
  // A weight whose sets are due.
  struct Due {
    int weight;
    int64_t entries, kept_a, kept_b;
    Tensor theta, codes;
    bool is_finite = true;
  };

  // Counts the step of a weight if one is pending, and notes the weight if it is due.
  tensorflow::Status Count(int i, bool complete, const WeightVariables& weight,
                           std::vector<Due>* due) const {
    int64_t size;
    {
      tf_shared_lock lock(*weight.theta->mu());
      size = weight.theta->tensor()->NumElements();
    }
    mutex_lock lock(*weight.counters->mu());
    int64_t* entries;
    TF_RETURN_IF_ERROR(MutableCounters(weight.counters.get(), &entries));
    const bool counts = complete && entries[kPending] > 0;
    entries[kPending] = 0;
    if (!counts) return tensorflow::Status();
    const int64_t step = ++entries[kStep];
    const bool is_due = step % every_ == 0 || step == stop_;
    if (!is_due || entries[kFrozen] > 0) return tensorflow::Status();
    const bool explores = stop_ < 0 || step < stop_;
    const int64_t kept_a = entries[kKeptForward];
    const int64_t kept_b = explores ? entries[kKeptBackward] : kept_a;
    if (kept_a < 0 || kept_a > kept_b || kept_b > size) {
      return InvalidArgument("Expected 0 <= |A| <= |B| <= ", size,
                             ". Received: ", kept_a, " and ", kept_b);
    }
    due->push_back({i, size, kept_a, kept_b});
    return tensorflow::Status();
  }

  // Takes the theta to select from, and memory for the codes. Not in place: the sets of
  // before are needed if there is a NaN.
  static tensorflow::Status Prepare(OpKernelContext* context,
                                    const WeightVariables& weight, Due* due) {
    tf_shared_lock sets_lock(*weight.sets->mu());
    tf_shared_lock theta_lock(*weight.theta->mu());
    TF_RETURN_IF_ERROR(CheckedSets(*weight.sets->tensor(), *weight.theta->tensor()));
    // An update that comes now goes to another buffer.
    due->theta = ValueOf(*weight.theta);
    due->codes = Tensor(context->device()->GetAllocator({}), tensorflow::DT_UINT8,
                        due->theta.shape());
    if (!due->codes.IsInitialized()) {
      return tensorflow::errors::ResourceExhausted("No memory for ", due->entries,
                                                   " codes");
    }
    return tensorflow::Status();
  }

  void Select(Due* due) const {
    due->is_finite = SelectLargest(*passes_, due->theta.flat<float>().data(),
                                   due->entries, due->kept_a, due->kept_b,
                                   due->codes.flat<uint8_t>().data());
  }

  // Writes the sets of a weight. If theta has a NaN they stay as they are.
  static tensorflow::Status Finish(const WeightVariables& weight, const Due& due) {
    if (due.is_finite) {
      mutex_lock lock(*weight.sets->mu());
      *weight.sets->tensor() = due.codes;
    }
    mutex_lock lock(*weight.counters->mu());
    int64_t* entries;
    TF_RETURN_IF_ERROR(MutableCounters(weight.counters.get(), &entries));
    entries[kFaulty] = !due.is_finite;
    return tensorflow::Status();
  }

  int weights_;
  int64_t every_, stop_;
  std::vector<std::string> messages_;
};

REGISTER_OP("TopkastRefresh")
    .Input("thetas: N * resource")
    .Input("sets: N * resource")
    .Input("counters: N * resource")
    .Input("complete: bool")
    .Attr("N: int >= 1")
    .Attr("every: int")
    .Attr("stop: int = -1")
    .Attr("messages: list(string)")
    .Attr("cpu: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return tensorflow::Status(); });

REGISTER_KERNEL_BUILDER(Name("TopkastRefresh").Device(tensorflow::DEVICE_CPU), RefreshOp);

}  // namespace
}  // namespace topkast
