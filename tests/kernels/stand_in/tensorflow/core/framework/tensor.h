// As much of TensorFlow's tensor as plans.cc uses: a shared buffer with a shape.
//
// TensorFlow's own library is not built with the thread sanitizer, which then reports its
// reference counts.
#ifndef TOPKAST_STAND_IN_TENSOR_H_
#define TOPKAST_STAND_IN_TENSOR_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace tensorflow {

class Tensor {
 public:
  using Shape = std::vector<int64_t>;

  Tensor() : Tensor({}, {0}) {}
  Tensor(std::vector<uint8_t> entries, Shape shape)
      : buffer_(std::make_shared<std::vector<uint8_t>>(std::move(entries))),
        shape_(std::move(shape)) {}

  // The same entries in a buffer of their own.
  Tensor Copy() const { return Tensor(*buffer_, shape_); }

  void* data() const { return buffer_->data(); }
  const Shape& shape() const { return shape_; }
  int64_t dim_size(int axis) const { return shape_[axis]; }
  int64_t NumElements() const { return static_cast<int64_t>(buffer_->size()); }

  struct Flat {
    uint8_t* entries;
    uint8_t* data() const { return entries; }
  };
  template <typename T>
  Flat flat() const {
    return {buffer_->data()};
  }

 private:
  std::shared_ptr<std::vector<uint8_t>> buffer_;
  Shape shape_;
};

}  // namespace tensorflow

#endif  // TOPKAST_STAND_IN_TENSOR_H_
