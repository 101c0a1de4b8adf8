// The product by generated code: panels are packed, and the blocks called in order.
#ifndef TOPKAST_GENERATED_PRODUCT_H_
#define TOPKAST_GENERATED_PRODUCT_H_

#include <algorithm>

#include "generated.h"
#include "panels.h"

namespace topkast {
namespace TOPKAST_ISA {

static_assert(kLanes == kCodeLanes, "Generated code is for vectors of 16 floats.");

// Groups whose outputs are unpacked together: 480 rows, which is a multiple of 16.
constexpr int64_t kGroupsAtOnce = 16;
constexpr int64_t kRowsAtOnce = kGroupsAtOnce * kCodeGroup;

inline int64_t GeneratedScratch(const Generated& code) {
  return code.panels() * kLanes * (code.cols + kRowsAtOnce);
}

// One tile of some groups, for `panels` panels. The inner loop is over panels, whose inputs
// then come from the L2 cache while the code stays in L1, or over groups, the other way
// round.
inline void CallBlocks(const Generated& code, int64_t tile, int64_t first_group,
                       int64_t last_group, const float* values, const float* inputs,
                       int64_t panels, float* sums) {
  const int64_t at_once = code.is_long() ? panels : 1;
  for (int64_t first = 0; first < panels; first += at_once) {
    for (int64_t g = first_group; g < last_group; ++g) {
      const int64_t index = tile * code.groups + g;
      const Generated::Block block = code.block(index);
      const float* of_block = values + code.first_entry[index];
      for (int64_t q = first; q < first + at_once; ++q) {
        block(inputs + (q * code.cols + tile * kCodeTile) * kLanes, of_block,
              sums + (q * kRowsAtOnce + (g - first_group) * kCodeGroup) * kLanes);
      }
    }
  }
}

// y[p, row] = sum over the entries of value * x[p, col], for positions <= panels of the
// code.
template <typename T>
inline void MultiplyGenerated(const Generated& code, const float* values, const T* x,
                              int64_t positions, T* y, float* scratch) {
  const int64_t panels = (positions + kLanes - 1) / kLanes;
  float* inputs = scratch;
  float* sums = scratch + code.panels() * code.cols * kLanes;
  for (int64_t q = 0; q < panels; ++q) {
    const int64_t p = q * kLanes;
    Pack(x + p * code.cols, std::min<int64_t>(kLanes, positions - p), code.cols,
         inputs + p * code.cols, kLanes);
  }
  for (int64_t g = 0; g < code.groups; g += kGroupsAtOnce) {
    const int64_t last = std::min(code.groups, g + kGroupsAtOnce);
    for (int64_t tile = 0; tile < code.tiles; ++tile) {
      CallBlocks(code, tile, g, last, values, inputs, panels, sums);
    }
    const int64_t row = g * kCodeGroup;
    for (int64_t q = 0; q < panels; ++q) {
      const int64_t p = q * kLanes;
      UnpackPart(sums + p * kRowsAtOnce, kLanes, y + p * code.rows + row,
                 std::min<int64_t>(kLanes, positions - p),
                 std::min(kRowsAtOnce, code.rows - row), code.rows);
    }
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_GENERATED_PRODUCT_H_
