// The values of generated code, gathered from theta.
#ifndef TOPKAST_GENERATED_VALUES_H_
#define TOPKAST_GENERATED_VALUES_H_

#include <immintrin.h>

#include <algorithm>

#include "generated.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Writes the floats at `from` whose bits are set in `mask` to `to`, one after the other;
// returns the place behind them. No others are read or written.
TOPKAST_INLINE float* Compress(const float* from, uint32_t mask, float* to) {
  const auto bits = static_cast<__mmask16>(mask);
  const int count = __builtin_popcount(bits);
  const auto first = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(to, first,
                        _mm512_maskz_compress_ps(bits, _mm512_maskz_loadu_ps(bits, from)));
  return to + count;
}

// The values of a group and a column are neighbours, as they are in theta: vectors of theta
// are compressed to those that exist. No places are read, and theta is read in order, row
// by row.
inline void GatherByMasks(const Generated& code, const float* theta, int64_t tile,
                          int64_t first_group, int64_t last_group, float* values) {
  constexpr int64_t kMost = 256;  // groups, 30 KB of a row of theta
  const int64_t first_col = tile * kCodeTile;
  const int64_t last_col = std::min(code.cols, first_col + kCodeTile);
  for (int64_t begin = first_group; begin < last_group; begin += kMost) {
    const int64_t count = std::min(kMost, last_group - begin);
    float* next[kMost];
    for (int64_t g = 0; g < count; ++g) {
      next[g] = values + code.first_entry[tile * code.groups + begin + g];
    }
    for (int64_t c = first_col; c < last_col; ++c) {
      const float* from = theta + c * code.rows + begin * kCodeGroup;
      const uint32_t* masks = code.masks.data() + begin * code.cols + c;
      for (int64_t g = 0; g < count; ++g, from += kCodeGroup, masks += code.cols) {
        next[g] = Compress(from, *masks & 0xFFFF, next[g]);
        next[g] = Compress(from + kLanes, *masks >> kLanes, next[g]);
      }
    }
  }
}

inline void GatherGenerated(const Generated& code, const float* theta, int64_t first_group,
                            int64_t last_group, float* values) {
  for (int64_t tile = 0; tile < code.tiles; ++tile) {
    if (!code.masks.empty()) {
      GatherByMasks(code, theta, tile, first_group, last_group, values);
      continue;
    }
    const int32_t* first_entry = code.first_entry.data() + tile * code.groups;
    for (int64_t k = first_entry[first_group]; k < first_entry[last_group]; ++k) {
      values[k] = theta[code.source[k]];
    }
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_GENERATED_VALUES_H_
