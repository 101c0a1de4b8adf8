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

// Vectors of a block.
constexpr int kBlockParts = static_cast<int>(kBlockLanes) / kLanes;

// A call has one panel, of 16 positions with any set. It stays near the core while blocks
// come from farther away: the other way round, with the blocks of a group for four panels,
// takes 5 to 40 % longer.
constexpr int kBlockPanel = 16;

// Positions whose sums of a block stay in registers: 16 vectors of 32, or 8 of 16.
constexpr int kSpread = (kLanes == 16 ? 16 : 8) / kBlockParts;

// Rows of a square of 16 x 16 that stay in registers, in as many vectors.
constexpr int kHeld = (kLanes == 16 ? 16 : 8) / kBlockParts;

// Blocks that are summed at once where each has a sum of its own: four vectors of sums.
constexpr int kBlocksAtOnce = 4 / kBlockParts;

inline int64_t BlockScratch(const BlockPlan& plan) { return plan.lines * kBlockPanel; }

inline void PackBlockPanel(const float* x, int64_t positions, int64_t channels,
                           float* panel) {
  Pack(x, positions, channels, panel, kBlockPanel);
}

// A square of activations, of 16 positions by 16 channels.
using Square = Vec[kBlockPanel][kBlockParts];

// square[i] = the channels of position i; zero beyond those that exist.
TOPKAST_INLINE void LoadSquare(const float* from, int64_t stride, int64_t positions,
                               int64_t channels, Square& square) {
  alignas(64) float copy[kBlockPanel * kBlockLanes];
  const bool is_whole = positions >= kBlockPanel && channels >= kBlockLanes;
  if (!is_whole) {
    std::fill_n(copy, kBlockPanel * kBlockLanes, 0.0f);
    for (int64_t i = 0; i < std::min<int64_t>(kBlockPanel, positions); ++i) {
      std::copy_n(from + i * stride, std::min(kBlockLanes, channels),
                  copy + i * kBlockLanes);
    }
    from = copy;
    stride = kBlockLanes;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBlockPanel; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kBlockParts; ++v) {
      square[i][v] = Load(from + i * stride + v * kLanes);
    }
  }
}

// The channels by positions.
TOPKAST_INLINE void TransposeSquare(Square& square) {
#pragma GCC unroll 4
  for (int i = 0; i < kBlockParts; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j <= i; ++j) {
      Vec first[kLanes], second[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        first[k] = square[i * kLanes + k][j];
        second[k] = square[j * kLanes + k][i];
      }
      TransposeRows(first);
      if (i != j) TransposeRows(second);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        square[j * kLanes + k][i] = first[k];
        if (i != j) square[i * kLanes + k][j] = second[k];
      }
    }
  }
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
  PackBlockPanel(x, positions, plan.lines, panel);
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    const int64_t lanes = plan.lanes_of(group);
    for (int64_t p = 0; p < positions; p += kSpread) {
      Vec sums[kSpread][kBlockParts] = {};
      for (int32_t b = begin; b < end; ++b) {
        const float* input = panel + static_cast<int64_t>(plan.line[b]) * kBlockPanel + p;
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

// sums(b + j) += sum over k of scalars(b + j)[k] * held[k], for j < kCount.
template <int kCount, typename Scalars, typename Sums>
TOPKAST_INLINE void AddHeld(const Vec (*held)[kBlockParts], int32_t b, Scalars scalars,
                            Sums sums) {
  const float* from[kCount];
  float* to[kCount];
  Vec sum[kCount][kBlockParts];
#pragma GCC unroll 4
  for (int j = 0; j < kCount; ++j) {
    from[j] = scalars(b + j);
    to[j] = sums(b + j);
#pragma GCC unroll 4
    for (int v = 0; v < kBlockParts; ++v) sum[j][v] = LoadAligned(to[j] + v * kLanes);
  }
#pragma GCC unroll 16
  for (int k = 0; k < kHeld; ++k) {
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) {
#pragma GCC unroll 4
      for (int v = 0; v < kBlockParts; ++v) sum[j][v] += from[j][k] * held[k][v];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kCount; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < kBlockParts; ++v) StoreAligned(to[j] + v * kLanes, sum[j][v]);
  }
}

// sums(b) += sum over the first `rows` of scalars(b)[k] * square[k], for the blocks from
// `begin` up to `end`.
template <typename Scalars, typename Sums>
TOPKAST_INLINE void AddSquare(const Square& square, int64_t rows, int32_t begin,
                              int32_t end, Scalars scalars, Sums sums) {
  for (int64_t first = 0; first < rows; first += kHeld) {
    Vec held[kHeld][kBlockParts];
#pragma GCC unroll 16
    for (int k = 0; k < kHeld; ++k) {
#pragma GCC unroll 4
      for (int v = 0; v < kBlockParts; ++v) {
        held[k][v] = square[first + k][v];
      }
    }
    const auto of_rows = [&](int32_t b) { return scalars(b) + first; };
    int32_t b = begin;
    for (; b + kBlocksAtOnce <= end; b += kBlocksAtOnce) {
      AddHeld<kBlocksAtOnce>(held, b, of_rows, sums);
    }
    for (; b < end; ++b) AddHeld<1>(held, b, of_rows, sums);
  }
}

// y[p, line] = sum over the blocks of x[p, lane] * value, for the positions of a panel.
//
// A square of x, positions by lanes of a group, is transposed and stays in registers; the
// sums are a panel. Each is added up in the order of the lanes.
inline void ToLines(const BlockPlan& plan, const float* values, const float* x,
                    int64_t positions, float* y, float* panel) {
  std::fill_n(panel, plan.lines * kBlockPanel, 0.0f);
  for (int64_t group = 0; group < plan.groups(); ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (begin == end) continue;
    const int64_t lanes = plan.lanes_of(group);
    Square square;
    LoadSquare(x + group * kBlockLanes, plan.lanes, positions, lanes, square);
    TransposeSquare(square);
    AddSquare(
        square, lanes, begin, end, [&](int32_t b) { return values + b * kBlockLanes; },
        [&](int32_t b) {
          return panel + static_cast<int64_t>(plan.line[b]) * kBlockPanel;
        });
  }
  Unpack(panel, kBlockPanel, y, positions, plan.lines);
}

// sums[block] += sum over the positions of a panel of of_lanes[p, lane] * panel[line][p],
// for the blocks of some groups.
//
// A square of dy or x, positions by lanes of a group, stays in registers.
inline void AccumulateBlocks(const BlockPlan& plan, int64_t first_group,
                             int64_t last_group, const float* of_lanes,
                             const float* panel, int64_t positions, float* sums) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const int32_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (begin == end) continue;
    Square square;
    LoadSquare(of_lanes + group * kBlockLanes, plan.lanes, positions,
               plan.lanes_of(group), square);
    AddSquare(
        square, positions, begin, end,
        [&](int32_t b) {
          return panel + static_cast<int64_t>(plan.line[b]) * kBlockPanel;
        },
        [&](int32_t b) { return sums + b * kBlockLanes; });
  }
}

const BlockKernels kBlockKernels = {
    kBlockPanel, BlockScratch, ToLanes, ToLines, PackBlockPanel, AccumulateBlocks,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_BLOCK_PRODUCTS_H_
