// The products of a sparse weight, for one instruction set.
//
// Included once for each set (`products_*.cc`), which defines TOPKAST_ISA and is compiled
// with the flags of the set.
#include <algorithm>

#include "block_products.h"
#include "conv.h"
#include "kernels.h"
#include "panels.h"
#include "plan.h"
#include "vec.h"
#if defined(__AVX512F__)
#include "generated_product.h"
#include "generated_values.h"
#endif

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of positions for each row in registers. Every entry loads a value, and this many
// vectors of the panel, each of which is an operand of one fused operation.
constexpr int kVectors = 4;
constexpr int64_t kPanel = kVectors * kLanes;

// outputs[row] (+)= sum of value * inputs[col], over the entries of one tile of a plan.
inline void MultiplyTile(const Plan& plan, int tile, bool is_first, const float* values,
                         const float* inputs, float* outputs) {
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
    MultiplyTile(plan, tile, tile == 0, values,
                 inputs + static_cast<int64_t>(tile) * plan.tile * kPanel, outputs);
  }
  Unpack(outputs, kPanel, y, positions, plan.rows);
}

inline int64_t Scratch(const Plan& plan) { return (plan.cols + plan.rows) * kPanel; }

// Vectors of positions of a block: those of one row stay in registers.
constexpr int kBlockVectors = 8;
constexpr int64_t kBlock = kBlockVectors * kLanes;

inline void PackBlock(const float* x, int64_t positions, int64_t channels,
                      float* panel) {
  Pack(x, positions, channels, panel, kBlock);
}

TOPKAST_INLINE Vec DotOf(const Vec* row, const float* col) {
  Vec sum = row[0] * LoadAligned(col);
#pragma GCC unroll 8
  for (int v = 1; v < kBlockVectors; ++v) sum += row[v] * LoadAligned(col + v * kLanes);
  return sum;
}

// Four entries of a row at once: enough sums in flight, and one transpose of them.
inline void Accumulate(const Plan& plan, int64_t begin, int64_t end,
                       const float* of_rows, const float* of_cols, float* sums) {
  int tile = 0;
  for (int64_t run = begin; run < end; ++run) {
    while (run >= plan.first_run[tile + 1]) ++tile;
    const float* in_tile = of_cols + static_cast<int64_t>(tile) * plan.tile * kBlock;
    const float* of_row = of_rows + plan.row[run] * kBlock;
    const int64_t first = plan.first_entry[run];
    const int32_t* col = plan.col.data() + first;
    float* to = sums + first;
    const int32_t count = plan.first_entry[run + 1] - plan.first_entry[run];
    Vec row[kBlockVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kBlockVectors; ++v) row[v] = LoadAligned(of_row + v * kLanes);
    int32_t z = 0;
    for (; z + 4 <= count; z += 4) {
      const float* col0 = in_tile + col[z] * kBlock;
      const float* col1 = in_tile + col[z + 1] * kBlock;
      const float* col2 = in_tile + col[z + 2] * kBlock;
      const float* col3 = in_tile + col[z + 3] * kBlock;
      Vec a = row[0] * LoadAligned(col0), b = row[0] * LoadAligned(col1);
      Vec c = row[0] * LoadAligned(col2), d = row[0] * LoadAligned(col3);
#pragma GCC unroll 8
      for (int v = 1; v < kBlockVectors; ++v) {
        a += row[v] * LoadAligned(col0 + v * kLanes);
        b += row[v] * LoadAligned(col1 + v * kLanes);
        c += row[v] * LoadAligned(col2 + v * kLanes);
        d += row[v] * LoadAligned(col3 + v * kLanes);
      }
      *reinterpret_cast<UnalignedQuad*>(to + z) += SumsOf(a, b, c, d);
    }
    for (; z < count; ++z) {
      const Vec sum = DotOf(row, in_tile + col[z] * kBlock);
      to[z] += SumsOf(sum, Vec{}, Vec{}, Vec{})[0];
    }
  }
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#include "activations.h"

namespace topkast {
namespace TOPKAST_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {
    TOPKAST_NAME, kPanel,       Scratch,      Multiply,    kBlock,       PackBlock,
    Accumulate,   CountEntries, CopyEntries,  MultiplyTile, &kConvKernels,
    &kBlockKernels,
#if defined(__AVX512F__)
    GatherGenerated, GeneratedScratch, MultiplyGenerated,
#endif
};

}  // namespace TOPKAST_ISA
}  // namespace topkast
