#include "codes.h"

#include <algorithm>

namespace topkast {
namespace {

constexpr int64_t kSkipped = 255;  // by a gap of 0

// Calls `visit` for the place of each entry; returns the place of the last one.
template <typename Visit>
int64_t VisitPlaces(const tensorflow::Tensor& gaps, Visit visit) {
  const auto values = gaps.flat<uint8_t>();
  int64_t place = -1;
  for (int64_t i = 0; i < values.size(); ++i) {
    if (values(i) == 0) {
      place += kSkipped;
    } else {
      place += values(i);
      visit(place);
    }
  }
  return place;
}

}  // namespace

int64_t Codes::InB() const {
  int64_t count = 0;
  if (are_gaps_) {
    const int64_t last = VisitPlaces(tensor_, [&](int64_t) { ++count; });
    return last < NumElements() ? count : -1;
  }
  const auto codes = tensor_.flat<uint8_t>();
  for (int64_t i = 0; i < codes.size(); ++i) count += codes(i) != 0;
  return count;
}

tensorflow::Tensor Codes::Whole() const {
  if (!are_gaps_) return tensor_;
  constexpr uint8_t kForward = 2;
  tensorflow::Tensor whole(tensorflow::DT_UINT8, shape_);
  uint8_t* codes = whole.flat<uint8_t>().data();
  std::fill(codes, codes + NumElements(), uint8_t{0});
  VisitPlaces(tensor_, [&](int64_t place) { codes[place] = kForward; });
  return whole;
}

}  // namespace topkast
