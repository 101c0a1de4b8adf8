// The plan of a product of a matrix, small enough to be kept beside packed weights.
#ifndef TOPKAST_MATRIX_PLAN_H_
#define TOPKAST_MATRIX_PLAN_H_

#include <cstdint>
#include <vector>

#include "plan.h"

namespace topkast {

// The runs of a matrix, with a byte for each entry: its column in its tile, which has up to 256.
//
// Where the values are is computed, not kept. Of a whole weight it follows from row and
// column. In the vector of the entries of B, in the order of the weight, it is the place at
// which a line begins, and 16 bits: a line is up to kLine outputs of one input. If each run
// is a part of a line with all of its entries, as of B by inputs, it is where the run begins.
struct MatrixPlan : Runs {
  // Outputs of a line: a multiple of each tile, whose entries a 16-bit number counts.
  static constexpr int64_t kLine = 192 * 256;

  std::vector<uint8_t> col;  // of each entry, in its tile

  // The place of entry (row, col) in the weight.
  int64_t row_stride = 0;
  int64_t col_stride = 0;

  // In a vector of entries, where `in_line` or `run_source` says it.
  bool rows_are_inputs = false;
  int64_t lines = 0;                // of an input
  std::vector<int32_t> line_start;  // of each line of each input
  std::vector<uint16_t> in_line;    // of each entry
  std::vector<int32_t> run_source;  // of each run

  int64_t entries() const { return static_cast<int64_t>(col.size()); }
  int64_t bytes() const {
    return Runs::bytes() + 4 * static_cast<int64_t>(line_start.size() + run_source.size()) +
           static_cast<int64_t>(col.size() + 2 * in_line.size());
  }

  // Calls `visit(entry, place)` for each entry of some runs, where `place` is that of its
  // value: in the weight, or in the vector of entries.
  template <typename Visit>
  void VisitPlaces(int64_t begin, int64_t end, Visit visit) const;
};

// Which entries the vector has beside those of the plan, if values are in a vector.
enum class Vector {
  kNone,     // values are in the whole weight
  kOfMore,   // entries of B that are not in A
  kOfThese,  // no others: the plan is by inputs
};

// Makes a plan.
//
// Args:
//   pattern: of a matrix of inputs x outputs in the order of memory, by inputs or by outputs.
//   tile: columns in a tile, which divide kLine.
//   vector: where the values are.
MatrixPlan MakeMatrixPlan(const Pattern& pattern, int tile, Vector vector);

template <typename Visit>
void MatrixPlan::VisitPlaces(int64_t begin, int64_t end, Visit visit) const {
  int64_t tile_index = 0;
  for (int64_t run = begin; run < end; ++run) {
    while (run >= first_run[tile_index + 1]) ++tile_index;
    const int64_t of_row = row[run], of_tile = tile_index * tile;
    const int32_t first = first_entry[run], last = first_entry[run + 1];
    if (!run_source.empty()) {
      int64_t place = run_source[run];
      for (int32_t entry = first; entry < last; ++entry) visit(entry, place++);
    } else if (in_line.empty()) {
      const int64_t start = of_row * row_stride + of_tile * col_stride;
      for (int32_t entry = first; entry < last; ++entry) {
        visit(entry, start + col[entry] * col_stride);
      }
    } else if (rows_are_inputs) {
      const int64_t start = line_start[of_row * lines + of_tile / kLine];
      for (int32_t entry = first; entry < last; ++entry) {
        visit(entry, start + in_line[entry]);
      }
    } else {
      const int32_t* start = line_start.data() + of_tile * lines + of_row / kLine;
      for (int32_t entry = first; entry < last; ++entry) {
        visit(entry, int64_t{start[col[entry] * lines]} + in_line[entry]);
      }
    }
  }
}

}  // namespace topkast

#endif  // TOPKAST_MATRIX_PLAN_H_
