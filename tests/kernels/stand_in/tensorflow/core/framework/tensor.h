// As much of TensorFlow's tensor as plans.cc and codes.cc use: a shared buffer with a shape.
//
// TensorFlow's own library is not built with the thread sanitizer, which then reports its
// reference counts.
#ifndef TOPKAST_STAND_IN_TENSOR_H_
#define TOPKAST_STAND_IN_TENSOR_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <vector>

namespace tensorflow {

// Each is the bytes of an entry.
enum DataType { DT_UINT8 = 1, DT_FLOAT = 4 };

class TensorShape {
 public:
  TensorShape(std::initializer_list<int64_t> sizes) : sizes_(sizes) {}

  int dims() const { return static_cast<int>(sizes_.size()); }
  int64_t dim_size(int axis) const { return sizes_[axis]; }
  int64_t num_elements() const {
    return std::accumulate(sizes_.begin(), sizes_.end(), int64_t{1}, std::multiplies<>());
  }
  bool operator==(const TensorShape& other) const { return sizes_ == other.sizes_; }

 private:
  std::vector<int64_t> sizes_;
};

class Tensor {
 public:
  Tensor() : Tensor(DT_UINT8, {0}) {}
  Tensor(DataType type, const TensorShape& shape)
      : buffer_(std::make_shared<std::vector<uint8_t>>(type * shape.num_elements())),
        shape_(shape) {}
  Tensor(const std::vector<uint8_t>& entries, const TensorShape& shape)
      : Tensor(DT_UINT8, shape) {
    std::copy(entries.begin(), entries.end(), buffer_->begin());
  }

  // The same entries in a buffer of their own.
  Tensor Copy() const { return Tensor(*buffer_, shape_); }

  void* data() const { return buffer_->data(); }
  const TensorShape& shape() const { return shape_; }
  int64_t dim_size(int axis) const { return shape_.dim_size(axis); }
  int64_t NumElements() const { return shape_.num_elements(); }

  template <typename T>
  struct Flat {
    T* entries;
    int64_t count;
    T* data() const { return entries; }
    int64_t size() const { return count; }
    T operator()(int64_t i) const { return entries[i]; }
  };
  template <typename T>
  Flat<T> flat() const {
    return {reinterpret_cast<T*>(buffer_->data()), NumElements()};
  }

 private:
  std::shared_ptr<std::vector<uint8_t>> buffer_;
  TensorShape shape_;
};

}  // namespace tensorflow

#endif  // TOPKAST_STAND_IN_TENSOR_H_
