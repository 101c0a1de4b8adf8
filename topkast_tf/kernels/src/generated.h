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

// The code of a product, in blocks: a group of rows by a tile of columns. Each output is
// summed by increasing column, as by `Plan`.
struct Generated {
  // A block, for a panel of kCodeLanes positions: sums[row of the group] +=
  // values[entry] * inputs[column of the tile]. In the first tile, sums are set.
  using Block = void (*)(const float* inputs, const float* values, float* sums);

  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  int64_t tiles = 0;
  // Where the values are in the weight: of each group, and in it of each column, the rows
  // that have an entry, as bits, if rows are neighbours there and entries are many;
  // otherwise the place of each entry.
  std::vector<uint32_t> masks;
  std::vector<int32_t> source;
  // Of each block, tile by tile, and in a tile group by group; and the end.
  std::vector<int32_t> begin;  // where its code begins
  std::vector<int32_t> first_entry;
  CodePages pages;

  explicit Generated(int64_t bytes) : pages(bytes) {}

  int64_t entries() const { return first_entry.back(); }
  int64_t bytes() const {
    return pages.bytes() +
           4 * static_cast<int64_t>(masks.size() + source.size() + begin.size() +
                                    first_entry.size());
  }
  Block block(int64_t index) const {
    return reinterpret_cast<Block>(pages.data() + begin[index]);
  }
  // Panels of a call, at most. Much code is read from memory beyond the L2 cache, and less
  // often if a call has more panels; measured from 4 to 16 MB.
  int64_t panels() const { return pages.bytes() > (int64_t{6} << 20) ? 16 : 4; }
  // Whether the code of a block takes longer to read than its inputs: from one entry in 14
  // on, about two for each column of a group.
  bool is_long() const { return entries() * 14 >= rows * cols; }
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
//
// Args:
//   pattern: where the entries are.
//   may_mask: whether masks may stand for places, as values lie where the codes do.
std::shared_ptr<Generated> Generate(const Pattern& pattern, bool may_mask);

}  // namespace topkast

#endif  // TOPKAST_GENERATED_H_
