// The order of a product with one position, or a few: rows are lanes.
#ifndef TOPKAST_VECTOR_PLAN_H_
#define TOPKAST_VECTOR_PLAN_H_

#include <cstdint>
#include <vector>

#include "plan.h"

namespace topkast {

constexpr int kVectorRows = 16;   // of a group, one in each lane
constexpr int kVectorTile = 32;   // columns that two registers hold
constexpr int kFewPositions = 4;  // of one product, at most

// Rows are divided into groups of 16, columns into tiles of 32. In a tile, slot k has the
// k-th entry of each row that has as many: which rows, as bits, and for each lane the column
// in the tile. The values of a slot are neighbours, without gaps.
//
// Why it is fast: a permutation of two registers reads 16 inputs at any places, where a gather
// would take 16 loads. At 90 % half of the lanes have an entry.
struct VectorPlan {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  int64_t tiles = 0;
  std::vector<int32_t> first_slot;   // of each group and in it of each tile, and the end
  std::vector<int32_t> first_entry;  // of each group, and the end
  std::vector<uint16_t> rows_of;     // of each slot, the rows with an entry, as bits
  std::vector<uint8_t> cols_of;      // of each slot 16 columns
  std::vector<int32_t> source;       // of each entry: its place in the weight

  int64_t padded_cols() const { return tiles * kVectorTile; }
  int64_t entries() const { return static_cast<int64_t>(source.size()); }
  int64_t bytes() const {
    return static_cast<int64_t>(
        4 * (first_slot.size() + first_entry.size() + source.size()) +
        2 * rows_of.size() + cols_of.size());
  }
};

VectorPlan MakeVectorPlan(const Pattern& pattern);

}  // namespace topkast

#endif  // TOPKAST_VECTOR_PLAN_H_
