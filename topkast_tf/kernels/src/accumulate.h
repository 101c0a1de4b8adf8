// The weight gradient of a matrix: dot products of rows and columns of panels.
//
// Included once for each instruction set, by `products.h` and `pairs.h`.
#ifndef TOPKAST_ACCUMULATE_H_
#define TOPKAST_ACCUMULATE_H_

#include <cstdint>

#include "matrix_plan.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of a block: those of one row stay in registers.
constexpr int kBlockVectors = 8;
constexpr int64_t kBlock = kBlockVectors * kLanes;

// Products of floats.
struct FloatDots {
  static TOPKAST_INLINE Vec Of(Vec row, Vec col) { return row * col; }
  static TOPKAST_INLINE Vec Add(Vec sum, Vec row, Vec col) { return sum + row * col; }
};

template <typename Dots>
TOPKAST_INLINE Vec DotOf(const Vec* row, const float* col) {
  Vec sum = Dots::Of(row[0], LoadAligned(col));
#pragma GCC unroll 8
  for (int v = 1; v < kBlockVectors; ++v) {
    sum = Dots::Add(sum, row[v], LoadAligned(col + v * kLanes));
  }
  return sum;
}

// sums[entry] += the dot product of its row and its column, of kBlock lanes, for the runs
// from `begin` up to `end` of a plan. `Dots` multiplies lanes, and adds the products.
//
// Four entries of a row at once: enough sums in flight, and one transpose of them.
template <typename Dots>
inline void Accumulate(const MatrixPlan& plan, int64_t begin, int64_t end,
                       const float* of_rows, const float* of_cols, float* sums) {
  int tile = 0;
  for (int64_t run = begin; run < end; ++run) {
    while (run >= plan.first_run[tile + 1]) ++tile;
    const float* in_tile = of_cols + static_cast<int64_t>(tile) * plan.tile * kBlock;
    const float* of_row = of_rows + plan.row[run] * kBlock;
    const int64_t first = plan.first_entry[run];
    const uint8_t* col = plan.col.data() + first;
    float* to = sums + first;
    const int32_t count = plan.first_entry[run + 1] - plan.first_entry[run];
    Vec row[kBlockVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kBlockVectors; ++v) row[v] = LoadAligned(of_row + v * kLanes);
    int32_t z = 0;
    for (; z + 4 <= count; z += 4) {
      const float* col0 = in_tile + col[z] * kBlock;
      const float* col1 = in_tile + col[z + 1] * kBlock;
      const float* col2 = in_tile + col[z + 2] * kBlock;
      const float* col3 = in_tile + col[z + 3] * kBlock;
      Vec a = Dots::Of(row[0], LoadAligned(col0)), b = Dots::Of(row[0], LoadAligned(col1));
      Vec c = Dots::Of(row[0], LoadAligned(col2)), d = Dots::Of(row[0], LoadAligned(col3));
#pragma GCC unroll 8
      for (int v = 1; v < kBlockVectors; ++v) {
        a = Dots::Add(a, row[v], LoadAligned(col0 + v * kLanes));
        b = Dots::Add(b, row[v], LoadAligned(col1 + v * kLanes));
        c = Dots::Add(c, row[v], LoadAligned(col2 + v * kLanes));
        d = Dots::Add(d, row[v], LoadAligned(col3 + v * kLanes));
      }
      *reinterpret_cast<UnalignedQuad*>(to + z) += SumsOf(a, b, c, d);
    }
    for (; z < count; ++z) {
      const Vec sum = DotOf<Dots>(row, in_tile + col[z] * kBlock);
      to[z] += SumsOf(sum, Vec{}, Vec{}, Vec{})[0];
    }
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_ACCUMULATE_H_
