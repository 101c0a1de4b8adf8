// The weight gradient from bfloat16 numbers by `vdpbf16ps`, which multiplies two of them in
// each lane, and adds both products: a panel of pairs of positions.
#define TOPKAST_ISA avx512bf16

#include <immintrin.h>

#include <algorithm>

#include "accumulate.h"
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

// 32 channels of 32 positions. A lane has positions i and 16 + i: pairs of channels are
// transposed, of either half of the positions, and then divided.
TOPKAST_INLINE void PackSquare(const Bfloat16* from, int64_t channels, float* to) {
  Vec low[kLanes], high[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    low[i] = LoadPairs(from + i * channels);
  }
  TransposeRows(low);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    high[i] = LoadPairs(from + (kLanes + i) * channels);
  }
  TransposeRows(high);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const Bits a = (Bits)low[i], b = (Bits)high[i];
    Store(to + 2 * i * kBlock, (Vec)((a & 0xFFFF) | b << 16));
    Store(to + (2 * i + 1) * kBlock, (Vec)(a >> 16 | (b & 0xFFFF0000)));
  }
}

void PackPairs(const Bfloat16* x, int64_t positions, int64_t channels, float* panel) {
  for (int v = 0; v < kBlockVectors; ++v) {
    const int64_t p = v * kPositions;
    const int64_t live = std::clamp<int64_t>(positions - p, 0, kPositions);
    const Bfloat16* from = x + p * channels;
    int64_t c = 0;
    if (live == kPositions) {
      for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
        PackSquare(from + c, channels, panel + c * kBlock + v * kLanes);
      }
    }
    for (; c < channels; ++c) {
      Bits pairs = {};
      for (int64_t i = 0; i < live; ++i) {
        pairs[i % kLanes] |= uint32_t{from[i * channels + c].bits} << (i / kLanes * 16);
      }
      Store(panel + c * kBlock + v * kLanes, (Vec)pairs);
    }
  }
}

}  // namespace

extern const PairKernels kPairKernels;
const PairKernels kPairKernels = {2 * kBlock, PackPairs, Accumulate<PairDots>};

}  // namespace TOPKAST_ISA
}  // namespace topkast
