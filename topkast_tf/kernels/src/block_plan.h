// Where the whole blocks of a weight are, if its sets consist of blocks.
//
// A block is 16 neighbouring channels of one axis of the weight, its lanes, by one channel
// of the other axis, its line. The last block of a line may have fewer lanes.
#ifndef TOPKAST_BLOCK_PLAN_H_
#define TOPKAST_BLOCK_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace topkast {

// Lanes of a block: a vector of AVX-512.
constexpr int64_t kBlockLanes = 16;

// The codes of a weight, read in place: that of (lane, line) is
// `codes[lane * lane_stride + line * line_stride]`, and one of the strides is 1. Blocks
// whose codes are at least `threshold` exist.
struct BlockPattern {
  const uint8_t* codes;
  int64_t lanes;
  int64_t lines;
  int64_t lane_stride;
  int64_t line_stride;
  uint8_t threshold;
};

// The blocks in the order in which all products visit them: by groups of 16 lanes, and in
// a group by line. One plan serves a product and its transpose.
struct BlockPlan {
  int64_t lanes = 0;
  int64_t lines = 0;
  int64_t lane_stride = 0;
  int64_t line_stride = 0;
  std::vector<int32_t> first_block;  // of each group, and the end
  std::vector<int32_t> line;         // of each block

  int64_t groups() const { return static_cast<int64_t>(first_block.size()) - 1; }
  int64_t blocks() const { return static_cast<int64_t>(line.size()); }
  int64_t lanes_of(int64_t group) const {
    return std::min(kBlockLanes, lanes - group * kBlockLanes);
  }
  int64_t bytes() const {
    return 4 * static_cast<int64_t>(first_block.size() + line.size());
  }
};

// Makes a plan; false if a block has different codes.
//
// Args:
//   pattern: at most 2^31 - 1 places.
bool MakeBlockPlan(const BlockPattern& pattern, BlockPlan* plan);

// Copies the blocks of some groups from theta, 16 values each: those of lanes that the
// weight does not have are zero.
void GatherBlocks(const BlockPlan& plan, const float* theta, int64_t first_group,
                  int64_t last_group, float* values);

// The reverse; writes to no other entries of `theta`.
void ScatterBlocks(const BlockPlan& plan, const float* values, int64_t first_group,
                   int64_t last_group, float* theta);

}  // namespace topkast

#endif  // TOPKAST_BLOCK_PLAN_H_
