// The sets of a weight, in the two forms in which operations get them.
#ifndef TOPKAST_CODES_H_
#define TOPKAST_CODES_H_

#include <cstdint>
#include <utility>

#include "tensorflow/core/framework/tensor.h"

namespace topkast {

// The set codes of a weight: 0 outside B, 1 on B \ A, 2 on A.
//
// Either a tensor of codes in the shape of the weight, or, for a weight that is no longer
// trained, the gaps between its entries: the distance of each from the one before, in the
// order of the weight, from a place in front of the first. A gap of 0 stands for 255 places
// without an entry. All entries are in A then.
class Codes {
 public:
  Codes(const tensorflow::Tensor& codes)  // NOLINT: a tensor is the common form
      : tensor_(codes), shape_(codes.shape()) {}
  Codes(const tensorflow::Tensor& gaps, tensorflow::TensorShape shape)
      : tensor_(gaps), shape_(std::move(shape)), are_gaps_(true) {}

  // Of the weight.
  const tensorflow::TensorShape& shape() const { return shape_; }
  int dims() const { return shape_.dims(); }
  int64_t dim_size(int axis) const { return shape_.dim_size(axis); }
  int64_t NumElements() const { return shape_.num_elements(); }

  // What an operation got, in either form.
  const tensorflow::Tensor& tensor() const { return tensor_; }
  bool are_gaps() const { return are_gaps_; }

  // The entries of B; -1 for gaps that lead beyond the weight.
  int64_t InB() const;

  // The codes in the shape of the weight, of which gaps are known to be good.
  tensorflow::Tensor Whole() const;

 private:
  tensorflow::Tensor tensor_;
  tensorflow::TensorShape shape_;
  bool are_gaps_ = false;
};

}  // namespace topkast

#endif  // TOPKAST_CODES_H_
