// Sparse activations: their entries, by channel.
//
// Included once for each instruction set, by `products.h`.
#ifndef TOPKAST_ACTIVATIONS_H_
#define TOPKAST_ACTIVATIONS_H_

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "transposes.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// count[c] = number of entries that are not zero, of each channel of some positions.
template <typename T>
inline void CountEntries(const T* x, int64_t positions, int64_t channels,
                         int32_t* count) {
  std::fill(count, count + channels, 0);
  for (int64_t p = 0; p < positions; ++p) {
    const T* of = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) count[c] += ToFloat(of[c]) != 0.0f;
  }
}

// Copies the entries that are not zero of up to kCompressTile positions, by channel.
//
// Args:
//   first: where the entries of each channel go.
//   places: of each entry, its position.
template <typename T>
inline void CopyEntries(const T* x, int64_t positions, int64_t channels,
                        const int32_t* first, int32_t* places, float* values) {
  // The positions of kLanes channels: 12 KiB at most, which stay in the L1 cache.
  alignas(64) float panel[kLanes * kCompressTile];
  const int64_t width = (positions + kLanes - 1) / kLanes * kLanes;
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t live = std::min<int64_t>(kLanes, channels - c);
    int64_t p = 0;
    for (; live == kLanes && p + kLanes <= positions; p += kLanes) {
      const auto row = [=](int64_t i) { return x + (p + i) * channels + c; };
      TransposeIn(row, 0, panel + p, kCompressTile);
    }
    for (; p < width; ++p) {
      for (int64_t i = 0; i < live; ++i) {
        panel[i * kCompressTile + p] =
            p < positions ? ToFloat(x[p * channels + c + i]) : 0.0f;
      }
    }
    for (int64_t i = 0; i < live; ++i) {
      int32_t at = first[c + i];
      const float* of = panel + i * kCompressTile;
      for (int64_t begin = 0; begin < width; begin += kLanes) {
        for (uint32_t bits = NonZero(LoadAligned(of + begin)); bits; bits &= bits - 1) {
          const int32_t place = static_cast<int32_t>(begin) + __builtin_ctz(bits);
          places[at] = place;
          values[at++] = of[place];
        }
      }
    }
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_ACTIVATIONS_H_
