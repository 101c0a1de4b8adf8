// Dot products over a block of positions: the inner loop of the weight gradients.
#ifndef TOPKAST_DOTS_H_
#define TOPKAST_DOTS_H_

#include <cstdint>

#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of positions of a block: those of one row stay in registers.
constexpr int kBlockVectors = 8;
constexpr int64_t kBlock = kBlockVectors * kLanes;

TOPKAST_INLINE Vec DotOf(const Vec* row, const float* col) {
  Vec sum = row[0] * LoadAligned(col);
#pragma GCC unroll 8
  for (int v = 1; v < kBlockVectors; ++v) sum += row[v] * LoadAligned(col + v * kLanes);
  return sum;
}

// Four entries of a row at once: enough sums in flight, and one transpose of them.
TOPKAST_INLINE void AccumulateRun(const Vec* row, const float* in_tile, const int32_t* col,
                                  int32_t count, float* to) {
  int32_t z = 0;
  for (; z + 4 <= count; z += 4) {
    const float* col0 = in_tile + col[z] * kBlock;
    const float* col1 = in_tile + col[z + 1] * kBlock;
    const float* col2 = in_tile + col[z + 2] * kBlock;
    const float* col3 = in_tile + col[z + 3] * kBlock;
    Vec a = row[0] * LoadAligned(col0), b = row[0] * LoadAligned(col1);
    Vec c = row[0] * LoadAligned(col2), d = row[0] * LoadAligned(col3);
#pragma GCC unroll 8
    for (int v = 1; v < kBlockVectors; ++v) {
      a += row[v] * LoadAligned(col0 + v * kLanes);
      b += row[v] * LoadAligned(col1 + v * kLanes);
      c += row[v] * LoadAligned(col2 + v * kLanes);
      d += row[v] * LoadAligned(col3 + v * kLanes);
    }
    *reinterpret_cast<UnalignedQuad*>(to + z) += SumsOf(a, b, c, d);
  }
  for (; z < count; ++z) {
    const Vec sum = DotOf(row, in_tile + col[z] * kBlock);
    to[z] += SumsOf(sum, Vec{}, Vec{}, Vec{})[0];
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_DOTS_H_
