// What depends only on where the entries of a weight are: the order of the work.
//
// A weight has `rows` x `cols` entries; a plan is made of a mask and used for as many
// products as the mask stays.
#ifndef TOPKAST_PLAN_H_
#define TOPKAST_PLAN_H_

#include <cstdint>
#include <vector>

namespace topkast {

// A matrix by rows, of which some entries exist. It reads the codes of a weight in place:
// entry (row, col) is `codes[row * row_stride + col * col_stride]`, and exists if its code
// is at least `threshold`.
struct Pattern {
  const uint8_t* codes;
  int64_t rows;
  int64_t cols;
  int64_t row_stride;
  int64_t col_stride;
  uint8_t threshold;
};

// The order in which a product visits the entries.
//
// Columns are divided into tiles whose panel fits the L1 cache. In a tile, a run is the
// entries of one row. Runs are sorted by their length, so that the length of the inner
// loop changes rarely, and the branch that ends it is predicted.
struct Runs {
  int64_t rows = 0;
  int64_t cols = 0;
  int tile = 0;
  std::vector<int32_t> first_run;    // of each tile, and the end
  std::vector<int32_t> row;          // of each run
  std::vector<int32_t> first_entry;  // of each run, and the end

  int64_t runs() const { return static_cast<int64_t>(row.size()); }
  int64_t bytes() const {
    return 4 * static_cast<int64_t>(first_run.size() + row.size() + first_entry.size());
  }
};

// The runs, with what is in them.
struct Plan : Runs {
  std::vector<int32_t> col;     // of each entry, in its tile
  std::vector<int32_t> source;  // of each entry: its place in the weight
  std::vector<int32_t> places;  // of a convolution: those of `source`, ascending,
                                // and `source` is an index of this list

  int64_t entries() const { return static_cast<int64_t>(col.size()); }
  int64_t bytes() const {
    return Runs::bytes() +
           4 * static_cast<int64_t>(col.size() + source.size() + places.size());
  }
};

// The order of rows by their number of entries; equal ones keep their order.
//
// Args:
//   count: of each row.
//   starts: scratch.
void OrderByCount(const std::vector<int32_t>& count, std::vector<int32_t>& starts,
                  std::vector<int32_t>& order);

// Makes a plan, whose first tile has a run of each row, also without entries.
//
// Args:
//   pattern: where the entries are; at most 2^31 - 1 places.
//   tile: columns in a tile.
Plan MakePlan(const Pattern& pattern, int tile);

}  // namespace topkast

#endif  // TOPKAST_PLAN_H_
