// What the TensorFlow operations have in common: threads, memory, and a weight's plans.
#ifndef TOPKAST_OPS_H_
#define TOPKAST_OPS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels.h"
#include "plans.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace topkast {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::TensorShapeUtils;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr int64_t kMostEntries = int64_t{1} << 31;  // places are 32-bit

// Calls `work(begin, end)` for parts of [0, total), in TensorFlow's own threads.
template <typename Work>
void InParallel(OpKernelContext* context, int64_t total, int64_t cycles_each,
                Work work) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads();
  if (total <= 1 || workers->num_threads <= 1) {
    work(int64_t{0}, total);
    return;
  }
  workers->workers->ParallelFor(total, std::max<int64_t>(1, cycles_each), work);
}

// Memory of a thread, kept from call to call: a panel is larger than what allocators
// give back without the cost of touching new pages.
inline float* ThreadScratch(int64_t floats) {
  struct Owned {
    float* data = nullptr;
    int64_t size = 0;
    ~Owned() { tensorflow::port::AlignedFree(data); }
  };
  static thread_local Owned owned;
  if (owned.size < floats) {
    tensorflow::port::AlignedFree(owned.data);
    owned.data =
        static_cast<float*>(tensorflow::port::AlignedMalloc(floats * sizeof(float), 64));
    owned.size = owned.data == nullptr ? 0 : floats;
  }
  return owned.data;
}

// The type of activations in the kernels, of that of a tensor.
template <typename T>
struct InKernels;
template <>
struct InKernels<float> {
  using Type = float;
};
template <>
struct InKernels<tensorflow::bfloat16> {
  using Type = Bfloat16;
  static_assert(sizeof(Type) == sizeof(tensorflow::bfloat16), "the same bits");
};

template <typename T>
const typename InKernels<T>::Type* DataOf(const Tensor& tensor) {
  return reinterpret_cast<const typename InKernels<T>::Type*>(tensor.flat<T>().data());
}
template <typename T>
typename InKernels<T>::Type* DataOf(Tensor* tensor) {
  return reinterpret_cast<typename InKernels<T>::Type*>(tensor->flat<T>().data());
}

// Registers an operation for activations, its attribute T, of floats and of bfloat16.
#define TOPKAST_REGISTER_FOR_ACTIVATIONS(name, op)                                    \
  REGISTER_KERNEL_BUILDER(                                                            \
      Name(name).Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),           \
      op<float>);                                                                     \
  REGISTER_KERNEL_BUILDER(                                                            \
      Name(name).Device(tensorflow::DEVICE_CPU).TypeConstraint<tensorflow::bfloat16>( \
          "T"),                                                                       \
      op<tensorflow::bfloat16>)

inline tensorflow::Status CheckedWeight(const Tensor& codes, const TensorShape& expected) {
  if (codes.dims() != 2 || codes.NumElements() >= kMostEntries) {
    return InvalidArgument("Expected codes with two axes and less than ", kMostEntries,
                           " entries. Received: ", codes.shape().DebugString());
  }
  if (codes.shape() != expected) {
    return InvalidArgument("Expected codes of shape ", expected.DebugString(),
                           ". Received: ", codes.shape().DebugString());
  }
  return tensorflow::Status();
}

// The kernels that the attribute `cpu` of an operation selects.
inline tensorflow::Status KernelsOf(OpKernelConstruction* context,
                                    const Kernels** kernels) {
  std::string cpu;
  TF_RETURN_IF_ERROR(context->GetAttr("cpu", &cpu));
  *kernels = FindKernels(cpu.c_str());
  if (*kernels != nullptr) return tensorflow::Status();
  return InvalidArgument("Expected kernels that this machine runs. Received: cpu=", cpu);
}

// An operation of one weight: its plans, and the kernels.
class SparseOp : public OpKernel {
 public:
  explicit SparseOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("key", &key_));
    OP_REQUIRES_OK(context, KernelsOf(context, &kernels_));
  }

 protected:
  // Looked up by each call: TensorFlow caches operations, which would keep the plans.
  std::shared_ptr<const Plan> PlanFor(const Tensor& codes, Product product) const {
    return PlansOf(key_)->Get(codes, product);
  }

  int64_t key_;
  const Kernels* kernels_ = nullptr;
};

// The sizes of a product with a matrix or its transpose.
struct MatMulSizes {
  int64_t positions;
  int64_t from;
  int64_t to;
};

// Checks x, theta and codes of such a product, and allocates its output, of type T. `y` is
// null where nothing is left to do: without outputs, or without inputs.
template <typename T>
tensorflow::Status PrepareMatMul(OpKernelContext* context, bool transpose,
                                 MatMulSizes* sizes, Tensor** y) {
  const Tensor& x = context->input(0);
  const Tensor& codes = context->input(2);
  *y = nullptr;
  TF_RETURN_IF_ERROR(CheckedWeight(codes, context->input(1).shape()));
  const int64_t from = codes.dim_size(transpose ? 1 : 0);
  const int64_t to = codes.dim_size(transpose ? 0 : 1);
  if (x.dims() != 2 || x.dim_size(1) != from) {
    return InvalidArgument("Expected activations of shape [positions, ", from,
                           "]. Received: ", x.shape().DebugString());
  }
  *sizes = {x.dim_size(0), from, to};
  TensorShape shape;
  TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({sizes->positions, to}, &shape));
  Tensor* output = nullptr;
  TF_RETURN_IF_ERROR(context->allocate_output(0, shape, &output));
  if (output->NumElements() == 0) return tensorflow::Status();
  if (from == 0) {
    output->flat<T>().setZero();
    return tensorflow::Status();
  }
  *y = output;
  return tensorflow::Status();
}

// Of a product with a matrix or its transpose.
inline tensorflow::Status MatMulShape(InferenceContext* context) {
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

// Of a weight gradient: that of the codes.
inline tensorflow::Status WeightGradientShape(InferenceContext* context) {
  context->set_output(0, context->input(2));
  return tensorflow::Status();
}

}  // namespace topkast

#endif  // TOPKAST_OPS_H_
