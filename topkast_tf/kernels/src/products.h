// The products of a sparse weight, for one instruction set.
//
// Included once for each set (`products_*.cc`), which defines TOPKAST_ISA and is compiled
// with the flags of the set.
#include <algorithm>

#include "accumulate.h"
#include "block_products.h"
#include "conv.h"
#include "kernels.h"
#include "matrix_plan.h"
#include "panels.h"
#include "plan.h"
#include "transposes.h"
#include "vec.h"
#if defined(__AVX512F__)
#include "generated_product.h"
#include "generated_values.h"
#include "vector_product.h"
#endif

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of positions for each row in registers. Every entry loads a value, and this many
// vectors of the panel, each of which is an operand of one fused operation.
constexpr int kVectors = 4;
constexpr int64_t kPanel = kVectors * kLanes;

// outputs[row] (+)= sum of value * inputs[col], over the entries of one tile of a plan.
template <typename AnyPlan>
inline void MultiplyTile(const AnyPlan& plan, int tile, bool is_first, const float* values,
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

template <typename T>
inline void Multiply(const MatrixPlan& plan, const float* values, const T* x,
                     int64_t positions, T* y, float* scratch) {
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

inline int64_t Scratch(const MatrixPlan& plan) { return (plan.cols + plan.rows) * kPanel; }

template <typename T>
inline void PackBlock(const T* x, int64_t positions, int64_t channels, float* panel) {
  Pack(x, positions, channels, panel, kBlock);
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#include "activations.h"

namespace topkast {
namespace TOPKAST_ISA {

// A weight may hold a NaN of any bits: it is kept by a bit of its upper half.
TOPKAST_INLINE Vec RoundedWeight(Vec value) {
  const Bits bits = (Bits)value, is_nan = (Bits)(value != value);
  const Bits rounded = (is_nan & (bits | 0x00400000)) | (~is_nan & Rounded(value));
  return (Vec)(rounded & 0xFFFF0000);
}

inline void RoundToBfloat16(float* values, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Store(values + i, RoundedWeight(Load(values + i)));
  }
  float rest[kLanes] = {};
  std::copy(values + i, values + count, rest);
  Store(rest, RoundedWeight(Load(rest)));
  std::copy_n(rest, count - i, values + i);
}

const Bfloat16Kernels kBfloat16Kernels = {
    RoundToBfloat16,
    Multiply<Bfloat16>,
    PackBlock<Bfloat16>,
    CountEntries<Bfloat16>,
    CopyEntries<Bfloat16>,
#if defined(__AVX512F__)
    MultiplyGenerated<Bfloat16>,
    MultiplyFew<Bfloat16>,
#endif
};

extern const Kernels kKernels;
const Kernels kKernels = {
    TOPKAST_NAME,
    kPanel,
    Scratch,
    Multiply<float>,
    kBlock,
    PackBlock<float>,
    Accumulate<FloatDots>,
    CountEntries<float>,
    CopyEntries<float>,
    MultiplyTile<Plan>,
    &kConvKernels,
    &kBlockKernels,
    &kBfloat16Kernels,
#if defined(__AVX512F__)
    GatherGenerated,
    GeneratedScratch,
    MultiplyGenerated<float>,
    MultiplyFew<float>,
#endif
};

}  // namespace TOPKAST_ISA
}  // namespace topkast
