// Machine code for the product with one pattern. Only the pattern is in the code; values
// are read from an array, in the order in which the code uses them.
//
// Why it is fast: up to 30 outputs stay in registers, the vector of an input is loaded once
// for all of them that use it, and a weight is a float that the fused operation broadcasts
// from memory by itself. The static kernel reads no code but loads 64 bytes for each
// operation.
#ifndef TOPKAST_GENERATED_H_
#define TOPKAST_GENERATED_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "code_pages.h"
#include "plan.h"

namespace topkast {

// A product in blocks of code: a group of rows by a tile of columns, for a panel of
// kCodeLanes positions. Each output is summed by increasing column, as by `Plan`.
struct Generated {
  // sums[row of the group] += value * inputs[column of the tile], over the entries of a
  // block. In the first tile, sums are set. All three arrays are vectors of kCodeLanes
  // floats or, the values, floats.
  using Block = void (*)(const float* inputs, const float* values, float* sums);

  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  int64_t tiles = 0;
  // Of each block, tile by tile, and in a tile group by group.
  std::vector<int32_t> begin;        // where its code begins
  std::vector<int32_t> first_entry;
  std::vector<int32_t> source;       // of each entry: its place in the weight
  CodePages pages;

  explicit Generated(int64_t bytes) : pages(bytes) {}

  int64_t entries() const { return static_cast<int64_t>(source.size()); }
  int64_t bytes() const {
    return pages.bytes() +
           4 * static_cast<int64_t>(begin.size() + first_entry.size() + source.size());
  }
  Block block(int64_t index) const {
    return reinterpret_cast<Block>(pages.data() + begin[index]);
  }
  // Panels of one call: code that the caches do not hold is read less often.
  int64_t panels() const { return pages.bytes() > kCachedCode ? 16 : 4; }
  // Whether a block is used for all panels in turn, as its code is longer than its inputs.
  bool is_long() const { return entries() * kLongFrom >= rows * cols; }

  static constexpr int64_t kCachedCode = int64_t{8} << 20;
  static constexpr int64_t kLongFrom = 14;
};

constexpr int64_t kCodeLanes = 16;
// Rows of a group: the sums take all 32 registers but two, which hold inputs in turn.
constexpr int64_t kCodeGroup = 30;
// Columns of a tile, 32 KiB of a panel.
constexpr int64_t kCodeTile = 512;
// Bytes of the code of one product, at most.
constexpr int64_t kMostCode = int64_t{64} << 20;

// Generates the code of a product; null if it would be larger than kMostCode, or if the
// system does not let a program run what it has written.
std::shared_ptr<const Generated> Generate(const Pattern& pattern);

}  // namespace topkast

#endif  // TOPKAST_GENERATED_H_
