// The end of an optimizer's step: steps are counted, and the sets are selected that are
// due. One operation for all weights of a scope.
#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "mapped.h"
#include "mappings.h"
#include "repack.h"
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
    OP_REQUIRES_OK(context, context->GetAttr("skipped", &skipped_));
    OP_REQUIRES_OK(context, context->GetAttr("messages", &messages_));
    OP_REQUIRES_OK(context, context->GetAttr("P", &packed_));
    OP_REQUIRES_OK(context, context->GetAttr("slots_of", &slots_of_));
    OP_REQUIRES_OK(context, context->GetAttr("folder", &folder_));
    int slots;
    OP_REQUIRES_OK(context, context->GetAttr("S", &slots));
    const bool fit = (packed_ == 0 || packed_ == weights_) &&
                     static_cast<int>(slots_of_.size()) == slots &&
                     (packed_ > 0 || slots == 0);
    OP_REQUIRES(context, fit,
                InvalidArgument("Expected entries and members of all weights or of none, "
                                "and the weight of each slot. Received: ",
                                packed_, " of ", weights_, ", and ", slots_of_.size(),
                                " of ", slots, " slots"));
    for (const int64_t of : slots_of_) {
      OP_REQUIRES(context, of >= 0 && of < weights_,
                  InvalidArgument("Expected slots of ", weights_,
                                  " weights. Received: one of weight ", of));
    }
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
    std::deque<Due> due;  // which never moves them
    for (int i = 0; i < weights_; ++i) {
      OP_REQUIRES_OK(context,
                     weights[i].Find(context, weights_ + i, i, 2 * weights_ + i));
      OP_REQUIRES_OK(context, Count(i, complete.flat<bool>()(0), weights[i], &due));
    }
    // Of packed weights as many at once as there are threads, as vectors are held twice.
    const int64_t total = static_cast<int64_t>(due.size());
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = packed_ > 0 ? std::max(1, threads) : total;
    for (int64_t first = 0; first < total; first += at_once) {
      const int64_t last = std::min(total, first + at_once);
      OP_REQUIRES_OK(context, Update(context, weights, first, last, &due));
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
    // Of packed weights: the codes of before, and vectors before and after, of which the
    // first two are entries and members, and the others slots.
    Tensor before;
    std::vector<VarPointer> vectors;
    std::vector<Tensor> old_vectors, new_vectors;
    bool fits = true;
  };

  // Selects the sets of some of the weights that are due.
  tensorflow::Status Update(OpKernelContext* context,
                            const std::vector<WeightVariables>& weights, int64_t first,
                            int64_t last, std::deque<Due>* due) const {
    int64_t entries = 0;
    for (int64_t i = first; i < last; ++i) {
      Due* each = &(*due)[i];
      TF_RETURN_IF_ERROR(Prepare(context, weights[each->weight], each));
      if (packed_ > 0) TF_RETURN_IF_ERROR(PreparePacked(context, each));
      entries += each->entries;
    }
    // Two passes over a weight that comes from memory. Without locks: an operation that
    // holds one may wait for the threads that would wait for it.
    InParallel(context, last - first, 4 * entries / (last - first),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) Select(&(*due)[first + i]);
               });
    for (int64_t i = first; i < last; ++i) {
      if ((*due)[i].fits) continue;
      return InvalidArgument("Expected sets with at most as many entries in B as ",
                             "their vector has places. Received: more");
    }
    for (int64_t i = first; i < last; ++i) {
      Due* each = &(*due)[i];
      TF_RETURN_IF_ERROR(Finish(weights[each->weight], *each));
      for (Tensor* held : {&each->theta, &each->codes, &each->before}) {
        LeaveToFile(held->data());
        *held = Tensor();
      }
      each->old_vectors.clear();
      each->new_vectors.clear();
    }
    return tensorflow::Status();
  }

  // Counts the step of a weight if one is pending, and notes the weight if it is due.
  tensorflow::Status Count(int i, bool complete, const WeightVariables& weight,
                           std::deque<Due>* due) const {
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
    const bool is_due = step != skipped_ && (step % every_ == 0 || step == stop_);
    if (!is_due || entries[kFrozen] > 0) return tensorflow::Status();
    const bool explores = stop_ < 0 || step < stop_;
    const int64_t kept_a = entries[kKeptForward];
    const int64_t kept_b = explores ? entries[kKeptBackward] : kept_a;
    if (kept_a < 0 || kept_a > kept_b || kept_b > size) {
      return InvalidArgument("Expected 0 <= |A| <= |B| <= ", size,
                             ". Received: ", kept_a, " and ", kept_b);
    }
    due->emplace_back();
    due->back().weight = i;
    due->back().entries = size;
    due->back().kept_a = kept_a;
    due->back().kept_b = kept_b;
    return tensorflow::Status();
  }

  // Takes the theta to select from, and memory for the codes. Not in place: the sets of
  // before are needed if there is a NaN.
  tensorflow::Status Prepare(OpKernelContext* context, const WeightVariables& weight,
                             Due* due) const {
    mutex_lock sets_lock(*weight.sets->mu());
    mutex_lock theta_lock(*weight.theta->mu());
    TF_RETURN_IF_ERROR(CheckedSets(*weight.sets->tensor(), *weight.theta->tensor()));
    if (packed_ > 0) {
      // The entries are written to theta itself, which nobody reads on B.
      if (folder_.empty()) {
        MakeUnshared(weight.theta.get());
      } else {
        TF_RETURN_IF_ERROR(MakeMapped(folder_, weight.theta.get()));
      }
      due->theta = *weight.theta->tensor();
      due->before = ValueOf(*weight.sets);
    } else {
      // An update that comes now goes to another buffer.
      due->theta = ValueOf(*weight.theta);
    }
    if (due->theta.NumElements() != due->entries) {
      return InvalidArgument("Expected a weight whose shape stays while its sets are ",
                             "selected. Received: ", due->theta.shape().DebugString(),
                             " after ", due->entries, " entries");
    }
    if (!folder_.empty()) {
      return MappedTensor(folder_, tensorflow::DT_UINT8, due->theta.shape(),
                          &due->codes);
    }
    due->codes = Tensor(context->device()->GetAllocator({}), tensorflow::DT_UINT8,
                        due->theta.shape());
    if (!due->codes.IsInitialized()) {
      return tensorflow::errors::ResourceExhausted("No memory for ", due->entries,
                                                   " codes");
    }
    return tensorflow::Status();
  }

  // Takes the vectors of a packed weight, and memory for those to come.
  tensorflow::Status PreparePacked(OpKernelContext* context, Due* due) const {
    const int first = 3 * weights_ + 1;
    std::vector<int> inputs = {first + due->weight, first + weights_ + due->weight};
    for (size_t slot = 0; slot < slots_of_.size(); ++slot) {
      if (slots_of_[slot] != due->weight) continue;
      inputs.push_back(first + 2 * weights_ + static_cast<int>(slot));
    }
    for (const int input : inputs) {
      VarPointer vector;
      TF_RETURN_IF_ERROR(tensorflow::LookupResource(
          context, tensorflow::HandleFromInput(context, input), &vector));
      mutex_lock lock(*vector->mu());
      const Tensor& held = *vector->tensor();
      const bool is_members = due->old_vectors.size() == 1;
      const auto expected = is_members ? tensorflow::DT_UINT8 : tensorflow::DT_FLOAT;
      const bool fits = held.IsInitialized() && held.dtype() == expected &&
                        held.dims() == 1 &&
                        (due->old_vectors.empty() ||
                         held.shape() == due->old_vectors[0].shape());
      if (!fits) {
        return InvalidArgument("Expected entries, members and slots as vectors of one ",
                               "length. Received: ",
                               tensorflow::DataTypeString(held.dtype()), " ",
                               held.shape().DebugString());
      }
      due->old_vectors.push_back(ValueOf(*vector));
      due->new_vectors.emplace_back(context->device()->GetAllocator({}), expected,
                                    held.shape());
      if (!due->new_vectors.back().IsInitialized()) {
        return tensorflow::errors::ResourceExhausted("No memory for ",
                                                     held.NumElements(), " entries");
      }
      due->vectors.push_back(std::move(vector));
    }
    return tensorflow::Status();
  }

  void Select(Due* due) const {
    const bool is_packed = !due->vectors.empty();
    if (is_packed) {
      const Tensor& entries = due->old_vectors[0];
      due->fits = WriteEntries(due->before.flat<uint8_t>().data(), due->entries,
                               entries.flat<float>().data(), entries.NumElements(),
                               due->theta.flat<float>().data()) &&
                  due->kept_b <= entries.NumElements();
      if (!due->fits) return;
    }
    due->is_finite = SelectLargest(*passes_, due->theta.flat<float>().data(),
                                   due->entries, due->kept_a, due->kept_b,
                                   due->codes.flat<uint8_t>().data());
    if (!is_packed || !due->is_finite) return;
    std::vector<Follower> followers;
    for (size_t i = 2; i < due->old_vectors.size(); ++i) {
      followers.push_back({due->old_vectors[i].flat<float>().data(),
                           due->new_vectors[i].flat<float>().data()});
    }
    Repack(due->before.flat<uint8_t>().data(), due->codes.flat<uint8_t>().data(),
           due->entries, due->theta.flat<float>().data(),
           due->new_vectors[0].NumElements(), due->new_vectors[0].flat<float>().data(),
           due->new_vectors[1].flat<uint8_t>().data(), followers);
  }

  // Writes the sets of a weight. If theta has a NaN they stay as they are.
  static tensorflow::Status Finish(const WeightVariables& weight, const Due& due) {
    if (due.is_finite) {
      mutex_lock lock(*weight.sets->mu());
      *weight.sets->tensor() = due.codes;
    }
    for (size_t i = 0; i < due.vectors.size() && due.is_finite; ++i) {
      mutex_lock lock(*due.vectors[i]->mu());
      *due.vectors[i]->tensor() = due.new_vectors[i];
    }
    mutex_lock lock(*weight.counters->mu());
    int64_t* entries;
    TF_RETURN_IF_ERROR(MutableCounters(weight.counters.get(), &entries));
    entries[kFaulty] = !due.is_finite;
    return tensorflow::Status();
  }

  int weights_, packed_;
  int64_t every_, stop_, skipped_;
  std::vector<int64_t> slots_of_;
  std::vector<std::string> messages_;
  std::string folder_;
};

// With packed weights, `entries` and `members` are those of each (variables/packing.py), and
// `slots` the optimizer's, each of the weight with the number in `slots_of`. With a `folder`,
// thetas and codes are mapped from files there (mapped.h).
REGISTER_OP("TopkastRefresh")
    .Input("thetas: N * resource")
    .Input("sets: N * resource")
    .Input("counters: N * resource")
    .Input("complete: bool")
    .Input("entries: P * resource")
    .Input("members: P * resource")
    .Input("slots: S * resource")
    .Attr("N: int >= 1")
    .Attr("P: int >= 0 = 0")
    .Attr("S: int >= 0 = 0")
    .Attr("slots_of: list(int) = []")
    .Attr("every: int")
    .Attr("stop: int = -1")
    .Attr("skipped: int = -1")
    .Attr("messages: list(string)")
    .Attr("folder: string = ''")
    .Attr("cpu: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return tensorflow::Status(); });

REGISTER_KERNEL_BUILDER(Name("TopkastRefresh").Device(tensorflow::DEVICE_CPU), RefreshOp);

}  // namespace
}  // namespace topkast
