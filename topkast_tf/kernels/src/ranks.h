// Places of a weight as places in the vector of its entries in B.
#ifndef TOPKAST_RANKS_H_
#define TOPKAST_RANKS_H_

#include <cstdint>
#include <vector>

namespace topkast {

// How many entries of B are in front of each place of a weight, which is the entry's own
// place in the vector that holds those of B alone, in the order of the weight.
//
// 4 bytes for each 64 places, and a count of up to 64 codes for each question.
class Ranks {
 public:
  // Args:
  //   codes: of the whole weight; those above 0 are in B. They must stay.
  //   places: their number, less than 2^31.
  Ranks(const uint8_t* codes, int64_t places);

  int32_t Of(int64_t place) const {
    const int64_t word = place / kWord;
    int32_t rank = before_[word];
    for (int64_t i = word * kWord; i < place; ++i) rank += codes_[i] != 0;
    return rank;
  }

  // Entries of B.
  int32_t total() const { return before_.back(); }

  // Replaces each place by its rank.
  void Replace(std::vector<int32_t>* places) const {
    for (int32_t& place : *places) place = Of(place);
  }

 private:
  static constexpr int64_t kWord = 64;

  const uint8_t* codes_;
  std::vector<int32_t> before_;  // of each word, and the end
};

}  // namespace topkast

#endif  // TOPKAST_RANKS_H_
