// The products of a sparse weight, for one instruction set.
//
// Included once for each set (`products_*.cc`), which defines TOPKAST_ISA and is compiled
// with the flags of the set.
#include <algorithm>

#include "conv.h"
#include "dots.h"
#include "kernels.h"
#include "panels.h"
#include "plan.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of positions for each row in registers. Every entry loads a value, and this many
// vectors of the panel, each of which is an operand of one fused operation.
constexpr int kVectors = 4;
constexpr int64_t kPanel = kVectors * kLanes;

// outputs[row] (+)= sum of value * inputs[col], over the entries of one tile of a plan.
inline void MultiplyTile(const Plan& plan, int tile, const float* values,
                         const float* inputs, float* outputs) {
  const bool is_first = tile == 0;
  for (int32_t run = plan.first_run[tile]; run < plan.first_run[tile + 1]; ++run) {
    float* output = outputs + plan.row[run] * kPanel;
    Vec sums[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = is_first ? Vec{} : LoadAligned(output + v * kLanes);
    }
    const int32_t end = plan.first_entry[run + 1];
    for (int32_t entry = plan.first_entry[run]; entry < end; ++entry) {
      const float* input = inputs + plan.col[entry] * kPanel;
      const float value = values[entry];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] += value * LoadAligned(input + v * kLanes);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) StoreAligned(output + v * kLanes, sums[v]);
  }
}

inline void Multiply(const Plan& plan, const float* values, const float* x,
                     int64_t positions, float* y, float* scratch) {
  float* inputs = scratch;
  float* outputs = scratch + plan.cols * kPanel;
  Pack(x, positions, plan.cols, inputs, kPanel);
  const int tiles = static_cast<int>(plan.first_run.size()) - 1;
  for (int tile = 0; tile < tiles; ++tile) {
    MultiplyTile(plan, tile, values,
                 inputs + static_cast<int64_t>(tile) * plan.tile * kPanel, outputs);
  }
  Unpack(outputs, kPanel, y, positions, plan.rows);
}

inline int64_t Scratch(const Plan& plan) { return (plan.cols + plan.rows) * kPanel; }

inline void PackBlock(const float* x, int64_t positions, int64_t channels,
                      float* panel) {
  Pack(x, positions, channels, panel, kBlock);
}

inline void Accumulate(const Plan& plan, int64_t begin, int64_t end,
                       const float* of_rows, const float* of_cols, float* sums) {
  int tile = 0;
  for (int64_t run = begin; run < end; ++run) {
    while (run >= plan.first_run[tile + 1]) ++tile;
    const float* in_tile = of_cols + static_cast<int64_t>(tile) * plan.tile * kBlock;
    const float* of_row = of_rows + plan.row[run] * kBlock;
    Vec row[kBlockVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kBlockVectors; ++v) row[v] = LoadAligned(of_row + v * kLanes);
    const int64_t first = plan.first_entry[run];
    AccumulateRun(row, in_tile, plan.col.data() + first,
                  plan.first_entry[run + 1] - plan.first_entry[run], sums + first);
  }
}

extern const Kernels kKernels;
const Kernels kKernels = {
    TOPKAST_NAME, kPanel, Scratch, Multiply, kBlock, PackBlock, Accumulate, &kConvKernels,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast
