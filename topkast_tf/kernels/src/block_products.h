// The products of a weight whose sets are whole blocks, for one instruction set.
//
// Included by products.h. A block has 16 lanes of one line (block_plan.h), whose values are
// neighbours, so that an operation takes a vector of them, and its other operand is one
// float that is broadcast from memory. Of the activations, the side of the lines is packed
// into panels; that of the lanes is read and written as TensorFlow keeps it.
#ifndef TOPKAST_BLOCK_PRODUCTS_H_
#define TOPKAST_BLOCK_PRODUCTS_H_

#include <algorithm>
#include <cstdint>

#include "block_plan.h"
#include "kernels.h"
#include "panels.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of a block, and positions whose sums of a block stay in registers: 16 vectors
// of 32, or 8 of 16, as many as hide the latency of a sum.
constexpr int kBlockParts = static_cast<int>(kBlockLanes) / kLanes;
constexpr int kSpread = kLanes == 16 ? 16 : kLanes / 2;

// Blocks that are summed at once where each has a sum of its own.
constexpr int kBlocksAtOnce = 4;

// A call has one panel, of as many positions as a vector has lanes. It stays near the core
// while blocks come from farther away: the other way round, with the blocks of a group for
// four panels, takes 5 to 40 % longer.
inline int64_t BlockScratch(const BlockPlan& plan) { return plan.lines * kLanes; }

inline void PackBlockPanel(const float* x, int64_t positions, int64_t channels,
                           float* panel) {
  Pack(x, positions, channels, panel, kLanes);
}

// rows[i] = kLanes channels of position i; zero beyond those that exist.
TOPKAST_INLINE void LoadRows(const float* from, int64_t stride, int64_t positions,
                             int64_t channels, Vec* rows) {
  if (positions >= kLanes && channels >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = Load(from + i * stride);
    return;
  }
  alignas(64) float copy[kLanes * kLanes] = {};
  const int64_t live = std::min<int64_t>(kLanes, channels);
  for (int64_t i = 0; i < std::min<int64_t>(kLanes, positions); ++i) {
    std::copy(from + i * stride, from + i * stride + live, copy + i * kLanes);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = LoadAligned(copy + i * kLanes);
}

// to[0 .. lanes) = the vectors of a block.
TOPKAST_INLINE void StoreLanes(const Vec* parts, int64_t lanes, float* to) {
  if (lanes == kBlockLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kBlockParts; ++v) Store(to + v * kLanes, parts[v]);
    return;
  }
  alignas(64) float copy[kBlockLanes];
#pragma GCC unroll 4
  for (int v = 0; v < kBlockParts; ++v) StoreAligned(copy + v * kLanes, parts[v]);
  std::copy(copy, copy + lanes, to);
}

// y[p, lane] = sum over the blocks of x[p, line] * value, for the positions of a panel.
//
// The sums of a group stay in registers, positions by lanes.
inline void ToLanes(const BlockPlan& plan, const float* values, const float* x,
                    int64_t positions, float* y, float* panel) {
  Pack(x, positions, plan.lines, panel, kLanes);
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    const int64_t lanes = plan.lanes_of(group);
    for (int64_t p = 0; p < positions; p += kSpread) {
      Vec sums[kSpread][kBlockParts] = {};
      for (int32_t b = begin; b < end; ++b) {
        const float* input = panel + static_cast<int64_t>(plan.line[b]) * kLanes + p;
        Vec value[kBlockParts];
#pragma GCC unroll 4
        for (int v = 0; v < kBlockParts; ++v) {
          value[v] = LoadAligned(values + b * kBlockLanes + v * kLanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kSpread; ++i) {
#pragma GCC unroll 4
          for (int v = 0; v < kBlockParts; ++v) sums[i][v] += input[i] * value[v];
        }
      }
      float* to = y + p * plan.lanes + group * kBlockLanes;
#pragma GCC unroll 16
      for (int i = 0; i < kSpread; ++i) {
        if (p + i < positions) StoreLanes(sums[i], lanes, to + i * plan.lanes);
      }
    }
  }
}

// sums(b) += sum over k of scalars(b)[k] * held[k], for the blocks from `begin` to `end`.
template <typename Scalars, typename Sums>
TOPKAST_INLINE void AddHeld(const Vec* held, int32_t begin, int32_t end, Scalars scalars,
                            Sums sums) {
  int32_t b = begin;
  for (; b + kBlocksAtOnce <= end; b += kBlocksAtOnce) {
    const float* from[kBlocksAtOnce];
    float* to[kBlocksAtOnce];
    Vec sum[kBlocksAtOnce];
#pragma GCC unroll 4
    for (int j = 0; j < kBlocksAtOnce; ++j) {
      from[j] = scalars(b + j);
      to[j] = sums(b + j);
      sum[j] = LoadAligned(to[j]);
    }
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) {
#pragma GCC unroll 4
      for (int j = 0; j < kBlocksAtOnce; ++j) sum[j] += from[j][k] * held[k];
    }
#pragma GCC unroll 4
    for (int j = 0; j < kBlocksAtOnce; ++j) StoreAligned(to[j], sum[j]);
  }
  for (; b < end; ++b) {
    const float* from = scalars(b);
    Vec sum = LoadAligned(sums(b));
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) sum += from[k] * held[k];
    StoreAligned(sums(b), sum);
  }
}

// y[p, line] = sum over the blocks of x[p, lane] * value, for the positions of a panel.
//
// A square of x, positions by lanes of a group, is transposed and stays in registers; the
// sums are a panel. Each is added up in the order of the lanes.
inline void ToLines(const BlockPlan& plan, const float* values, const float* x,
                    int64_t positions, float* y, float* panel) {
  std::fill_n(panel, plan.lines * kLanes, 0.0f);
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (begin == end) continue;
    for (int64_t part = 0; part < plan.lanes_of(group); part += kLanes) {
      const int64_t lane = group * kBlockLanes + part;
      Vec held[kLanes];
      LoadRows(x + lane, plan.lanes, positions, plan.lanes - lane, held);
      TransposeRows(held);
      AddHeld(
          held, begin, end, [&](int32_t b) { return values + b * kBlockLanes + part; },
          [&](int32_t b) { return panel + static_cast<int64_t>(plan.line[b]) * kLanes; });
    }
  }
  Unpack(panel, kLanes, y, positions, plan.lines);
}

// sums[block] += sum over the positions of a panel of of_lanes[p, lane] * panel[line][p],
// for the blocks of some groups.
//
// The rows of a group, positions by lanes, stay in registers.
inline void AccumulateBlocks(const BlockPlan& plan, int64_t first_group,
                             int64_t last_group, const float* of_lanes,
                             const float* panel, int64_t positions, float* sums) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (begin == end) continue;
    for (int64_t part = 0; part < plan.lanes_of(group); part += kLanes) {
      const int64_t lane = group * kBlockLanes + part;
      Vec held[kLanes];
      LoadRows(of_lanes + lane, plan.lanes, positions, plan.lanes - lane, held);
      AddHeld(
          held, begin, end,
          [&](int32_t b) { return panel + static_cast<int64_t>(plan.line[b]) * kLanes; },
          [&](int32_t b) { return sums + b * kBlockLanes + part; });
    }
  }
}

const BlockKernels kBlockKernels = {
    kLanes, BlockScratch, ToLanes, ToLines, PackBlockPanel, AccumulateBlocks,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_BLOCK_PRODUCTS_H_
