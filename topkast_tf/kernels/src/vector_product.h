// The product with a few positions: 16 rows at once, inputs in two registers.
#ifndef TOPKAST_VECTOR_PRODUCT_H_
#define TOPKAST_VECTOR_PRODUCT_H_

#include <immintrin.h>

#include <algorithm>

#include "panels.h"
#include "vec.h"
#include "vector_plan.h"

namespace topkast {
namespace TOPKAST_ISA {

// One group of rows for kPositions positions. Each output is summed by increasing column in
// one accumulator, as by `Plan`: a lane without an entry keeps its sum.
template <int kPositions>
inline void MultiplyGroup(const VectorPlan& plan, int64_t group, const float* values,
                          const float* x, __m512* sums) {
  const int32_t* first_slot = plan.first_slot.data() + group * plan.tiles;
  const float* value = values + plan.first_entry[group];
  for (int p = 0; p < kPositions; ++p) sums[p] = _mm512_setzero_ps();
  for (int64_t tile = 0; tile < plan.tiles; ++tile) {
    __m512 low[kPositions], high[kPositions];
    for (int p = 0; p < kPositions; ++p) {
      const float* inputs = x + p * plan.padded_cols() + tile * kVectorTile;
      low[p] = _mm512_loadu_ps(inputs);
      high[p] = _mm512_loadu_ps(inputs + 16);
    }
    for (int32_t slot = first_slot[tile]; slot < first_slot[tile + 1]; ++slot) {
      const __mmask16 rows = plan.rows_of[slot];
      const __m512i cols = _mm512_cvtepu8_epi32(_mm_loadu_si128(
          reinterpret_cast<const __m128i*>(plan.cols_of.data() + 16 * int64_t{slot})));
      const __m512 factors = _mm512_maskz_expandloadu_ps(rows, value);
      value += __builtin_popcount(rows);
      for (int p = 0; p < kPositions; ++p) {
        const __m512 inputs = _mm512_permutex2var_ps(low[p], cols, high[p]);
        sums[p] = _mm512_mask3_fmadd_ps(factors, inputs, sums[p], rows);
      }
    }
  }
}

template <int kPositions, typename T>
inline void MultiplyGroups(const VectorPlan& plan, const float* values, const float* x,
                           int64_t begin, int64_t end, T* y) {
  for (int64_t group = begin; group < end; ++group) {
    __m512 sums[kPositions];
    MultiplyGroup<kPositions>(plan, group, values, x, sums);
    const int64_t row = group * kVectorRows;
    const int64_t live = std::min<int64_t>(kVectorRows, plan.rows - row);
    for (int p = 0; p < kPositions; ++p) {
      float found[kVectorRows];
      _mm512_storeu_ps(found, sums[p]);
      for (int64_t r = 0; r < live; ++r) Assign(found[r], y + p * plan.rows + row + r);
    }
  }
}

// y[p, row] = sum over the entries of value * x[p, col], for some groups of rows.
//
// Args:
//   x: floats, `padded_cols` of each position.
//   positions: up to kFewPositions.
template <typename T>
inline void MultiplyFew(const VectorPlan& plan, const float* values, const float* x,
                        int64_t positions, int64_t begin, int64_t end, T* y) {
  switch (positions) {
    case 1:
      return MultiplyGroups<1>(plan, values, x, begin, end, y);
    case 2:
      return MultiplyGroups<2>(plan, values, x, begin, end, y);
    case 3:
      return MultiplyGroups<3>(plan, values, x, begin, end, y);
    default:
      return MultiplyGroups<4>(plan, values, x, begin, end, y);
  }
}
static_assert(kFewPositions == 4, "the positions of MultiplyFew");

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_VECTOR_PRODUCT_H_
