#include "plan.h"

#include <algorithm>
#include <numeric>

namespace topkast {
namespace {

// The columns of the entries of each row, and where each row's begin.
struct Rows {
  std::vector<int64_t> first;
  std::vector<int32_t> col;
};

Rows RowsOf(const Pattern& pattern) {
  const int64_t rows = pattern.rows, cols = pattern.cols;
  Rows found;
  found.first.assign(rows + 1, 0);
  // The codes are read in the order of memory, whichever axis that is.
  if (pattern.col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* codes = pattern.codes + r * pattern.row_stride;
      int64_t count = 0;
      for (int64_t c = 0; c < cols; ++c) count += codes[c] >= pattern.threshold;
      found.first[r + 1] = found.first[r] + count;
    }
    found.col.resize(found.first[rows]);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* codes = pattern.codes + r * pattern.row_stride;
      int32_t* to = found.col.data() + found.first[r];
      for (int64_t c = 0; c < cols; ++c) {
        if (codes[c] >= pattern.threshold) *to++ = static_cast<int32_t>(c);
      }
    }
    return found;
  }
  for (int64_t c = 0; c < cols; ++c) {
    const uint8_t* codes = pattern.codes + c * pattern.col_stride;
    for (int64_t r = 0; r < rows; ++r) {
      found.first[r + 1] += codes[r * pattern.row_stride] >= pattern.threshold;
    }
  }
  std::partial_sum(found.first.begin(), found.first.end(), found.first.begin());
  found.col.resize(found.first[rows]);
  std::vector<int64_t> next(found.first.begin(), found.first.end() - 1);
  for (int64_t c = 0; c < cols; ++c) {
    const uint8_t* codes = pattern.codes + c * pattern.col_stride;
    for (int64_t r = 0; r < rows; ++r) {
      if (codes[r * pattern.row_stride] >= pattern.threshold) {
        found.col[next[r]++] = static_cast<int32_t>(c);
      }
    }
  }
  return found;
}

}  // namespace

void OrderByCount(const std::vector<int32_t>& count, std::vector<int32_t>& starts,
                  std::vector<int32_t>& order) {
  const int32_t rows = static_cast<int32_t>(count.size());
  const int32_t longest = rows ? *std::max_element(count.begin(), count.end()) : 0;
  starts.assign(longest + 2, 0);
  for (int32_t r = 0; r < rows; ++r) ++starts[count[r] + 1];
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  order.resize(rows);
  for (int32_t r = 0; r < rows; ++r) order[starts[count[r]]++] = r;
}

Plan MakePlan(const Pattern& pattern, int tile) {
  const Rows entries = RowsOf(pattern);
  const int64_t rows = pattern.rows;
  Plan plan;
  plan.rows = rows;
  plan.cols = pattern.cols;
  plan.tile = tile;
  plan.col.reserve(entries.col.size());
  plan.source.reserve(entries.col.size());

  std::vector<int64_t> next(entries.first.begin(), entries.first.end() - 1);
  std::vector<int64_t> begin(rows);
  std::vector<int32_t> count(rows), order, starts;
  for (int64_t tile_begin = 0; tile_begin < pattern.cols; tile_begin += tile) {
    for (int64_t r = 0; r < rows; ++r) {
      int64_t at = next[r], end = entries.first[r + 1];
      begin[r] = at;
      while (at < end && entries.col[at] < tile_begin + tile) ++at;
      next[r] = at;
      count[r] = static_cast<int32_t>(at - begin[r]);
    }
    OrderByCount(count, starts, order);

    plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
    for (const int32_t r : order) {
      // In the first tile, a run without entries sets the output to zero.
      if (count[r] == 0 && tile_begin > 0) continue;
      plan.row.push_back(r);
      plan.first_entry.push_back(static_cast<int32_t>(plan.entries()));
      for (int64_t at = begin[r]; at < begin[r] + count[r]; ++at) {
        const int64_t c = entries.col[at];
        plan.col.push_back(static_cast<int32_t>(c - tile_begin));
        plan.source.push_back(
            static_cast<int32_t>(r * pattern.row_stride + c * pattern.col_stride));
      }
    }
  }
  plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
  plan.first_entry.push_back(static_cast<int32_t>(plan.entries()));
  return plan;
}

}  // namespace topkast
