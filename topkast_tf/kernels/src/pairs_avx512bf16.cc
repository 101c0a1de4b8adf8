// The weight gradient from bfloat16 numbers by `vdpbf16ps`, which multiplies two of them in
// each lane, and adds both products: panels of pairs of positions, and planes of pairs of
// images.
#define TOPKAST_ISA avx512bf16

#include <immintrin.h>

#include <algorithm>

#include "accumulate.h"
#include "conv_accumulate.h"
#include "kernels.h"
#include "transposes.h"

namespace topkast {
namespace TOPKAST_ISA {
namespace {

struct PairDots {
  static TOPKAST_INLINE Vec Of(Vec row, Vec col) { return Add(Vec{}, row, col); }
  static TOPKAST_INLINE Vec Add(Vec sum, Vec row, Vec col) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)row, (__m512bh)col);
  }
};

constexpr int64_t kPositions = 2 * kLanes;  // of a vector

// to[(c + k) * distance + i] = the pair (low(i)[c + k], high(i)[c + k]), for k < 2 kLanes.
// Pairs of channels are transposed, of either half of the positions, and then divided.
template <typename Low, typename High>
TOPKAST_INLINE void PackWide(Low low, High high, int64_t c, float* to, int64_t distance) {
  Vec a[kLanes], b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) a[i] = LoadPairs(low(i) + c);
  TransposeRows(a);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) b[i] = LoadPairs(high(i) + c);
  TransposeRows(b);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const Bits of_low = (Bits)a[i], of_high = (Bits)b[i];
    float* even = to + (c + 2 * i) * distance;
    Store(even, (Vec)((of_low & 0xFFFF) | of_high << 16));
    Store(even + distance, (Vec)(of_low >> 16 | (of_high & 0xFFFF0000)));
  }
}

// The same for k < kLanes.
template <typename Low, typename High>
TOPKAST_INLINE void PackNarrow(Low low, High high, int64_t c, float* to,
                               int64_t distance) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const Bits of_low = (Bits)LoadChannels(low(i) + c);
    rows[i] = (Vec)(of_low >> 16 | (Bits)LoadChannels(high(i) + c));
  }
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) Store(to + (c + i) * distance, rows[i]);
}

// Packs as many of the channels as fill vectors; returns their number.
template <typename Low, typename High>
inline int64_t PackMost(Low low, High high, int64_t channels, float* to,
                        int64_t distance) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes) PackWide(low, high, c, to, distance);
  for (; c + kLanes <= channels; c += kLanes) PackNarrow(low, high, c, to, distance);
  return c;
}

// A lane of a vector has positions i and 16 + i.
void PackPairs(const Bfloat16* x, int64_t positions, int64_t channels, float* panel) {
  for (int v = 0; v < kBlockVectors; ++v) {
    const int64_t p = v * kPositions;
    const int64_t live = std::clamp<int64_t>(positions - p, 0, kPositions);
    const Bfloat16* from = x + p * channels;
    float* to = panel + v * kLanes;
    int64_t c = 0;
    if (live == kPositions) {
      c = PackMost([=](int64_t i) { return from + i * channels; },
                   [=](int64_t i) { return from + (kLanes + i) * channels; }, channels, to,
                   kBlock);
    }
    for (; c < channels; ++c) {
      Bits pairs = {};
      for (int64_t i = 0; i < live; ++i) {
        pairs[i % kLanes] |= uint32_t{from[i * channels + c].bits} << (i / kLanes * 16);
      }
      Store(to + c * kBlock, (Vec)pairs);
    }
  }
}

void PackVectorPairs(const Bfloat16* const* low, const Bfloat16* const* high,
                     int64_t channels, float* to, int64_t distance) {
  const auto of_low = [=](int64_t lane) { return low[lane]; };
  const auto of_high = [=](int64_t lane) { return high[lane]; };
  const int64_t done = PackMost(of_low, of_high, channels, to, distance);
  if (done == channels) return;
  if (channels >= kLanes) {  // the last overlap
    return PackNarrow(of_low, of_high, channels - kLanes, to, distance);
  }
  for (int64_t c = 0; c < channels; ++c) {
    Bits pairs;
    for (int lane = 0; lane < kLanes; ++lane) {
      pairs[lane] = low[lane][c].bits | uint32_t{high[lane][c].bits} << 16;
    }
    Store(to + c * distance, (Vec)pairs);
  }
}

}  // namespace

extern const PairKernels kPairKernels;
const PairKernels kPairKernels = {
    2 * kBlock,      PackPairs,
    Accumulate<PairDots>, PackVectorPairs,
    ConvAccumulate<PairDots>,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast
