// The variables of sparse weights: finding them, checking them, writing to them.
#ifndef TOPKAST_VARIABLES_H_
#define TOPKAST_VARIABLES_H_

#include <cstdint>

#include "entrywise.h"
#include "ops.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor_util.h"

namespace topkast {

using tensorflow::Var;
using VarPointer = tensorflow::core::RefCountPtr<Var>;

// The entries of a weight's counters (variables/counters.py).
enum Counter {
  kStep,
  kPending,
  kKeptForward,
  kKeptBackward,
  kSeed,
  kFaulty,
  kThreshold,
  kFrozen,
  kCounters,
};

// Under its lock: makes a variable's buffer its own, as a read may still refer to it.
inline void MakeUnshared(Var* variable) {
  Tensor* held = variable->tensor();
  // Of a variable that copies when it is read, nobody else has the buffer.
  if (variable->copy_on_read_mode.load() || held->RefCountIsOne()) return;
  *held = tensorflow::tensor::DeepCopy(*held);
}

// Under its lock: its value, which stays as it is when the variable changes.
inline Tensor ValueOf(Var& variable) {
  const Tensor& held = *variable.tensor();
  return variable.copy_on_read_mode.load() ? tensorflow::tensor::DeepCopy(held) : held;
}

// Under its lock: the entries of a counters variable, to be written to.
inline tensorflow::Status MutableCounters(Var* counters, int64_t** entries) {
  const Tensor& found = *counters->tensor();
  if (found.dtype() != tensorflow::DT_INT64 || found.NumElements() != kCounters ||
      !found.IsInitialized()) {
    return InvalidArgument("Expected counters of ", static_cast<int>(kCounters),
                           " int64 entries. Received: ",
                           tensorflow::DataTypeString(found.dtype()), " ",
                           found.shape().DebugString());
  }
  MakeUnshared(counters);
  *entries = counters->tensor()->flat<int64_t>().data();
  return tensorflow::Status();
}

// Under their locks: whether sets and theta hold codes and float32 of one shape.
inline tensorflow::Status CheckedSets(const Tensor& sets, const Tensor& theta) {
  if (sets.dtype() != tensorflow::DT_UINT8 || theta.dtype() != tensorflow::DT_FLOAT ||
      !sets.IsInitialized() || !theta.IsInitialized() ||
      sets.shape() != theta.shape() || sets.NumElements() >= kMostEntries) {
    return InvalidArgument("Expected float32 values and uint8 codes of one shape, of "
                           "less than ",
                           kMostEntries, " entries. Received: ",
                           tensorflow::DataTypeString(theta.dtype()), " ",
                           theta.shape().DebugString(), " and ",
                           tensorflow::DataTypeString(sets.dtype()), " ",
                           sets.shape().DebugString());
  }
  return tensorflow::Status();
}

// The variables of one weight. Operations lock them in the order sets, theta, counters.
struct WeightVariables {
  VarPointer sets, theta, counters;

  // Finds them, given as resources at these places of an operation's input.
  tensorflow::Status Find(OpKernelContext* context, int sets_at, int theta_at,
                          int counters_at) {
    auto find = [&](int at, VarPointer* variable) {
      return tensorflow::LookupResource(
          context, tensorflow::HandleFromInput(context, at), variable);
    };
    TF_RETURN_IF_ERROR(find(sets_at, &sets));
    TF_RETURN_IF_ERROR(find(theta_at, &theta));
    return find(counters_at, &counters);
  }
};

// An operation that passes over entries.
class EntrywiseOp : public OpKernel {
 public:
  explicit EntrywiseOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string cpu;
    OP_REQUIRES_OK(context, context->GetAttr("cpu", &cpu));
    passes_ = FindEntrywise(cpu.c_str());
    OP_REQUIRES(context, passes_ != nullptr,
                InvalidArgument("Expected kernels that this machine runs. Received: cpu=",
                                cpu));
  }

 protected:
  const Entrywise* passes_ = nullptr;
};

}  // namespace topkast

#endif  // TOPKAST_VARIABLES_H_
