// What the TensorFlow operations have in common: threads, memory, and a weight's plans.
#ifndef TOPKAST_OPS_H_
#define TOPKAST_OPS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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

inline tensorflow::Status CheckedWeight(const Codes& codes, const TensorShape& expected) {
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
    if (context->HasAttr("entries")) {
      OP_REQUIRES_OK(context, context->GetAttr("entries", &entries_));
    }
    if (!context->HasAttr("shape")) return;
    std::vector<int64_t> shape;
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape));
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape(shape, &shape_));
    OP_REQUIRES(context, shape.empty() || is_packed(),
                InvalidArgument("Expected the number of entries of a weight whose places "
                                "are given as gaps. Received: none"));
  }

 protected:
  // The codes of a call, whose input with this number has them, or the gaps.
  Codes CodesOf(OpKernelContext* context, int input = 2) const {
    const Tensor& given = context->input(input);
    return shape_.dims() == 0 ? Codes(given) : Codes(given, shape_);
  }

  // Looked up by each call: TensorFlow caches operations, which would keep the plans.
  std::shared_ptr<const MatrixPlan> PlanFor(const Codes& codes, Product product) const {
    return PlansOf(key_)->Get(codes, is_packed(), product);
  }

  // Whether theta is the vector of the entries of B, in the order of the weight, and so is
  // its gradient.
  bool is_packed() const { return entries_ >= 0; }

  // As `CheckedTheta`, of a matrix.
  tensorflow::Status CheckedMatrix(const Tensor& theta, const Codes& codes) const {
    TF_RETURN_IF_ERROR(CheckedWeight(codes, is_packed() ? codes.shape() : theta.shape()));
    return CheckedTheta(theta, codes);
  }

  // Checks theta, if the codes are those of its weight.
  tensorflow::Status CheckedTheta(const Tensor& theta, const Codes& codes) const {
    if (!is_packed()) {
      if (codes.shape() == theta.shape()) return tensorflow::Status();
      return InvalidArgument("Expected codes of shape ", theta.shape().DebugString(),
                             ". Received: ", codes.shape().DebugString());
    }
    if (theta.dims() == 1 && theta.dim_size(0) == entries_) return CheckedEntries(codes);
    return InvalidArgument("Expected the ", entries_, " entries of B. Received: ",
                           theta.shape().DebugString());
  }

  // Checks that the entries of B fit their vector.
  tensorflow::Status CheckedEntries(const Codes& codes) const {
    if (!is_packed()) return tensorflow::Status();
    const int64_t in_b = PlansOf(key_)->InB(codes);
    if (in_b < 0) {
      return InvalidArgument("Expected gaps between entries of a weight of shape ",
                             codes.shape().DebugString(),
                             ". Received: gaps that lead beyond it");
    }
    if (in_b <= entries_) return tensorflow::Status();
    return InvalidArgument("Expected codes with at most ", entries_,
                           " entries in B. Received: ", in_b);
  }

  // The shape of theta, and of its gradient.
  TensorShape ShapeOfTheta(const Codes& codes) const {
    return is_packed() ? TensorShape({entries_}) : codes.shape();
  }

  int64_t key_;
  int64_t entries_ = -1;
  TensorShape shape_;  // of the weight, if its places are given as gaps
  const Kernels* kernels_ = nullptr;
};

// The sizes of a product with a matrix or its transpose.
struct MatMulSizes {
  int64_t positions;
  int64_t from;
  int64_t to;
};

// Checks x of such a product, and allocates its output, of type T. `y` is null where nothing
// is left to do: without outputs, or without inputs. The codes are those of a matrix.
template <typename T>
tensorflow::Status PrepareMatMul(OpKernelContext* context, const Codes& codes,
                                 bool transpose,
                                 MatMulSizes* sizes, Tensor** y) {
  const Tensor& x = context->input(0);
  *y = nullptr;
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

// The shape of a weight, from its codes and theta, the inputs 2 and 1 of an operation.
inline tensorflow::Status ShapeOfWeight(InferenceContext* context, int rank,
                                        ShapeHandle* weight) {
  int64_t entries;
  ShapeHandle theta;
  std::vector<int64_t> shape;
  if (context->GetAttr("shape", &shape).ok() && !shape.empty()) {
    ShapeHandle gaps;
    TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &gaps));
    std::vector<DimensionHandle> sizes;
    for (const int64_t size : shape) sizes.push_back(context->MakeDim(size));
    TF_RETURN_IF_ERROR(context->WithRank(context->MakeShape(sizes), rank, weight));
  } else {
    TF_RETURN_IF_ERROR(context->WithRank(context->input(2), rank, weight));
  }
  if (context->GetAttr("entries", &entries).ok() && entries >= 0) {
    return context->Merge(context->input(1), context->Vector(entries), &theta);
  }
  return context->Merge(context->input(1), *weight, weight);
}

// Of a product with a matrix or its transpose.
inline tensorflow::Status MatMulShape(InferenceContext* context) {
  bool transpose;
  TF_RETURN_IF_ERROR(context->GetAttr("transpose", &transpose));
  ShapeHandle x, weight;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &x));
  TF_RETURN_IF_ERROR(ShapeOfWeight(context, 2, &weight));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(context->Merge(context->Dim(x, 1),
                                    context->Dim(weight, transpose ? 1 : 0), &unused));
  context->set_output(0, context->Matrix(context->Dim(x, 0),
                                         context->Dim(weight, transpose ? 0 : 1)));
  return tensorflow::Status();
}

// Of a weight gradient: that of the codes, or of the entries of B.
inline tensorflow::Status WeightGradientShape(InferenceContext* context) {
  int64_t entries;
  if (context->GetAttr("entries", &entries).ok() && entries >= 0) {
    context->set_output(0, context->Vector(entries));
    return tensorflow::Status();
  }
  context->set_output(0, context->input(2));
  return tensorflow::Status();
}

}  // namespace topkast

#endif  // TOPKAST_OPS_H_
