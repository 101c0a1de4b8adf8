#include "ranks.h"

#include <algorithm>

namespace topkast {

Ranks::Ranks(const uint8_t* codes, int64_t places) {
  in_b_.reserve((places + kWord - 1) / kWord);
  before_.reserve((places + kWord - 1) / kWord + 1);
  int32_t rank = 0;
  for (int64_t begin = 0; begin < places; begin += kWord) {
    before_.push_back(rank);
    const int64_t end = std::min(places, begin + kWord);
    uint64_t bits = 0;
    for (int64_t i = begin; i < end; ++i) bits |= uint64_t{codes[i] != 0} << (i - begin);
    in_b_.push_back(bits);
    rank += __builtin_popcountll(bits);
  }
  before_.push_back(rank);
}

}  // namespace topkast
