// The weight gradient of a convolution: dot products of blocks of targets.
//
// Included once for each instruction set, by `conv.h` and `pairs_avx512bf16.cc`.
#ifndef TOPKAST_CONV_ACCUMULATE_H_
#define TOPKAST_CONV_ACCUMULATE_H_

#include <cstdint>

#include "accumulate.h"
#include "plan.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of targets in a block of the weight gradient: those of one target channel stay
// in registers.
constexpr int kConvBlockVectors = 8;

// to[i] += the dot product of `row` with the sources of the entry i, for i < kCount.
//
// Four entries at once: enough sums in flight, and one transpose of them.
template <typename Dots, int kCount>
TOPKAST_INLINE void AddDots(const Vec* row, const float* const* bases,
                            const int32_t* offsets, const int32_t* col, float* to) {
  int64_t offset[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) offset[i] = offsets[col[i]];
  Vec sums[4] = {};
#pragma GCC unroll 8
  for (int v = 0; v < kConvBlockVectors; ++v) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      sums[i] = Dots::Add(sums[i], row[v], Load(bases[v] + offset[i]));
    }
  }
  const Quad total = SumsOf(sums[0], sums[1], sums[2], sums[3]);
  if (kCount == 4) {
    *reinterpret_cast<UnalignedQuad*>(to) += total;
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) to[i] += total[i];
  }
}

template <typename Dots>
inline void ConvAccumulate(const Plan& plan, int64_t begin, int64_t end,
                           const float* const* bases, int64_t tile_distance,
                           const int32_t* offsets, const float* of_rows, float* sums) {
  int tile = -1;
  const float* base[kConvBlockVectors];
  for (int64_t run = begin; run < end; ++run) {
    if (tile < 0 || run >= plan.first_run[tile + 1]) {
      do ++tile;
      while (run >= plan.first_run[tile + 1]);
      for (int v = 0; v < kConvBlockVectors; ++v) base[v] = bases[v] + tile * tile_distance;
    }
    const float* of_row = of_rows + plan.row[run] * (kConvBlockVectors * kLanes);
    Vec row[kConvBlockVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kConvBlockVectors; ++v) row[v] = LoadAligned(of_row + v * kLanes);
    const int32_t first = plan.first_entry[run], last = plan.first_entry[run + 1];
    const int32_t* col = plan.col.data();
    int32_t z = first;
    for (; z + 4 <= last; z += 4) AddDots<Dots, 4>(row, base, offsets, col + z, sums + z);
    if (last - z == 3) AddDots<Dots, 3>(row, base, offsets, col + z, sums + z);
    if (last - z == 2) AddDots<Dots, 2>(row, base, offsets, col + z, sums + z);
    if (last - z == 1) AddDots<Dots, 1>(row, base, offsets, col + z, sums + z);
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_CONV_ACCUMULATE_H_
