// Places of a weight as places in the vector of its entries in B.
#ifndef TOPKAST_RANKS_H_
#define TOPKAST_RANKS_H_

#include <cstdint>
#include <vector>

namespace topkast {

// How many entries of B are in front of each place of a weight, which is the entry's own
// place in the vector that holds those of B alone, in the order of the weight.
//
// 12 bytes for each 64 places.
class Ranks {
 public:
  // Args:
  //   codes: of the whole weight; those above 0 are in B.
  //   places: their number, less than 2^31.
  Ranks(const uint8_t* codes, int64_t places);

  int32_t Of(int64_t place) const {
    const int64_t word = place / kWord;
    const uint64_t in_front = (uint64_t{1} << (place % kWord)) - 1;
    return before_[word] + __builtin_popcountll(in_b_[word] & in_front);
  }

  // Entries of B.
  int32_t total() const { return before_.back(); }

  // Replaces each place by its rank.
  void Replace(std::vector<int32_t>* places) const {
    for (int32_t& place : *places) place = Of(place);
  }

 private:
  static constexpr int64_t kWord = 64;

  std::vector<uint64_t> in_b_;   // a bit of each place, by words
  std::vector<int32_t> before_;  // of each word, and the end
};

}  // namespace topkast

#endif  // TOPKAST_RANKS_H_
