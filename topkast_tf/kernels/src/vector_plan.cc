#include "vector_plan.h"

#include <algorithm>

namespace topkast {

VectorPlan MakeVectorPlan(const Pattern& pattern) {
  VectorPlan plan;
  plan.rows = pattern.rows;
  plan.cols = pattern.cols;
  plan.groups = (pattern.rows + kVectorRows - 1) / kVectorRows;
  plan.tiles = (pattern.cols + kVectorTile - 1) / kVectorTile;
  uint8_t cols[kVectorRows][kVectorTile];
  for (int64_t group = 0; group < plan.groups; ++group) {
    plan.first_entry.push_back(static_cast<int32_t>(plan.entries()));
    const int64_t first_row = group * kVectorRows;
    const int lanes =
        static_cast<int>(std::min<int64_t>(kVectorRows, pattern.rows - first_row));
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      plan.first_slot.push_back(static_cast<int32_t>(plan.rows_of.size()));
      const int64_t first_col = tile * kVectorTile;
      const int64_t width = std::min<int64_t>(kVectorTile, pattern.cols - first_col);
      int counts[kVectorRows] = {};
      for (int lane = 0; lane < lanes; ++lane) {
        const uint8_t* codes = pattern.codes + (first_row + lane) * pattern.row_stride;
        for (int64_t c = 0; c < width; ++c) {
          if (codes[(first_col + c) * pattern.col_stride] >= pattern.threshold) {
            cols[lane][counts[lane]++] = static_cast<uint8_t>(c);
          }
        }
      }
      const int slots = *std::max_element(counts, counts + kVectorRows);
      for (int slot = 0; slot < slots; ++slot) {
        uint16_t rows = 0;
        for (int lane = 0; lane < kVectorRows; ++lane) {
          const bool exists = slot < counts[lane];
          const int col = exists ? cols[lane][slot] : 0;
          plan.cols_of.push_back(static_cast<uint8_t>(col));
          if (!exists) continue;
          rows = static_cast<uint16_t>(rows | 1u << lane);
          plan.source.push_back(
              static_cast<int32_t>((first_row + lane) * pattern.row_stride +
                                   (first_col + col) * pattern.col_stride));
        }
        plan.rows_of.push_back(rows);
      }
    }
  }
  plan.first_slot.push_back(static_cast<int32_t>(plan.rows_of.size()));
  plan.first_entry.push_back(static_cast<int32_t>(plan.entries()));
  return plan;
}

}  // namespace topkast
