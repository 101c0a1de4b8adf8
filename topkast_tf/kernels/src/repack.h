// The vectors of packed weights, as the sets of a weight change.
#ifndef TOPKAST_REPACK_H_
#define TOPKAST_REPACK_H_

#include <cstdint>
#include <vector>

namespace topkast {

// theta[place] = the next of the entries, at each place of B.
//
// Args:
//   codes: of the weight; those above 0 are in B.
//   places: their number.
//   entries: `size` floats.
//
// Returns:
//   Whether B has at most `size` entries. If not, nothing is written beyond.
bool WriteEntries(const uint8_t* codes, int64_t places, const float* entries,
                  int64_t size, float* theta);

// A vector with a float for each entry of B, before and after.
struct Follower {
  const float* before;
  float* after;
};

// Makes the vectors of the new B. What stays in B keeps its values, in the new order; what
// enters it takes those of theta, and zeros in the followers. Zeros are behind the end.
//
// Args:
//   before, after: the codes, of `places` each.
//   theta: the weight.
//   size: the length of each vector, at least the entries of either B.
//   entries: receives theta on the new B.
//   members: receives its codes.
//   followers: such as the optimizer's slots.
void Repack(const uint8_t* before, const uint8_t* after, int64_t places,
            const float* theta, int64_t size, float* entries, uint8_t* members,
            const std::vector<Follower>& followers);

}  // namespace topkast

#endif  // TOPKAST_REPACK_H_
