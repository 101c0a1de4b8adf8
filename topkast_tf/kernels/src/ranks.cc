#include "ranks.h"

#include <algorithm>

namespace topkast {

Ranks::Ranks(const uint8_t* codes, int64_t places) : codes_(codes) {
  before_.reserve((places + kWord - 1) / kWord + 1);
  int32_t rank = 0;
  for (int64_t begin = 0; begin < places; begin += kWord) {
    before_.push_back(rank);
    const int64_t end = std::min(places, begin + kWord);
    for (int64_t i = begin; i < end; ++i) rank += codes[i] != 0;
  }
  before_.push_back(rank);
}

}  // namespace topkast
