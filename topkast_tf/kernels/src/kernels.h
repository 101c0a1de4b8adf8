// The kernels of one instruction set, and which of them this machine runs.
#ifndef TOPKAST_KERNELS_H_
#define TOPKAST_KERNELS_H_

#include <cstdint>

#include "bfloat16.h"
#include "block_plan.h"
#include "generated.h"
#include "matrix_plan.h"
#include "plan.h"
#include "vector_plan.h"

namespace topkast {

// An entry of a convolution's plan: where its sources are, and its value.
struct ConvEntry {
  int32_t offset;  // in the planes of a tile, in floats
  float value;
};

// The kernels of convolutions (conv_slab.h), which work on vectors of `lanes` positions.
// Planes, panels and outputs are aligned to a vector.
struct ConvKernels {
  int lanes;
  int vectors;        // at most, of one call of `multiply`
  int block_vectors;  // of `accumulate`

  // to[c * distance + lane] = from[lane][c], and the reverse.
  void (*pack)(const float* const* from, int64_t channels, float* to, int64_t distance);
  void (*unpack)(const float* from, int64_t distance, int64_t channels, float* const* to);

  // outputs[(row * vectors + v) * lanes] = sum over the entries of the row of
  // value * the vector at bases[v] + offset + tile_distance * tile, for v < count.
  void (*multiply)(const Plan& plan, const ConvEntry* entries, const float* const* bases,
                   int count, int64_t tile_distance, float* outputs);

  // sums[entry] += the dot product of the vectors of of_rows[row] with those at bases[v] +
  // offsets[col] + tile_distance * tile, for the runs from `begin` up to `end` of a plan.
  void (*accumulate)(const Plan& plan, int64_t begin, int64_t end,
                     const float* const* bases, int64_t tile_distance,
                     const int32_t* offsets, const float* of_rows, float* sums);

  // As `pack` and `unpack`, for activations in bfloat16.
  void (*pack_bfloat16)(const Bfloat16* const* from, int64_t channels, float* to,
                        int64_t distance);
  void (*unpack_bfloat16)(const float* from, int64_t distance, int64_t channels,
                          Bfloat16* const* to);

  auto pack_of(const float*) const { return pack; }
  auto pack_of(const Bfloat16*) const { return pack_bfloat16; }
  auto unpack_of(const float*) const { return unpack; }
  auto unpack_of(const Bfloat16*) const { return unpack_bfloat16; }
};

// The kernels of `Kernels` for activations in bfloat16. Their panels, values and sums are
// floats, and what they write is rounded once, to nearest even.
struct Bfloat16Kernels {
  // Rounds values of a weight to bfloat16, to nearest even; a NaN stays one.
  void (*round)(float* values, int64_t count);

  void (*multiply)(const MatrixPlan& plan, const float* values, const Bfloat16* x,
                   int64_t positions, Bfloat16* y, float* scratch);
  void (*pack)(const Bfloat16* x, int64_t positions, int64_t channels, float* panel);
  void (*count_entries)(const Bfloat16* x, int64_t positions, int64_t channels,
                        int32_t* count);
  void (*copy_entries)(const Bfloat16* x, int64_t positions, int64_t channels,
                       const int32_t* first, int32_t* places, float* values);
  void (*multiply_generated)(const Generated& code, const float* values,
                             const Bfloat16* x, int64_t positions, Bfloat16* y,
                             float* scratch) = nullptr;
  void (*multiply_few)(const VectorPlan& plan, const float* values, const float* x,
                       int64_t positions, int64_t first_group, int64_t last_group,
                       Bfloat16* y) = nullptr;
};

// The weight gradient from bfloat16 numbers by products of pairs: `pack` and
// `accumulate` as of `Kernels`. A panel has `block` positions of each channel, as pairs of
// 32 bits, which is as much memory as a block of floats takes.
struct PairKernels {
  int64_t block;
  void (*pack)(const Bfloat16* x, int64_t positions, int64_t channels, float* panel);
  void (*accumulate)(const MatrixPlan& plan, int64_t begin, int64_t end,
                     const float* of_rows, const float* of_cols, float* sums);

  // As `pack` and `accumulate` of `ConvKernels`: to[c * distance + lane] is the pair of
  // low[lane][c] and high[lane][c].
  void (*pack_vector)(const Bfloat16* const* low, const Bfloat16* const* high,
                      int64_t channels, float* to, int64_t distance);
  void (*conv_accumulate)(const Plan& plan, int64_t begin, int64_t end,
                          const float* const* bases, int64_t tile_distance,
                          const int32_t* offsets, const float* of_rows, float* sums);
};

// The kernels of weights whose sets are whole blocks (block_products.h). `values` and
// `sums` have 16 floats for each block; what they are in and scratch are aligned to 64
// bytes.
struct BlockKernels {
  int64_t panel;  // positions of a panel: at most, of one call
  int64_t (*scratch)(const BlockPlan& plan);

  // y[p, lane] = sum over the blocks of value * x[p, line], and the transposed product,
  // y[p, line] = sum over the blocks of value * x[p, lane].
  //
  // Each output is summed in the order of x's channels, by one thread.
  void (*to_lanes)(const BlockPlan& plan, const float* values, const float* x,
                   int64_t positions, float* y, float* scratch);
  void (*to_lines)(const BlockPlan& plan, const float* values, const float* x,
                   int64_t positions, float* y, float* scratch);

  // Packs up to `panel` positions, channel by channel, into as many floats as `scratch`.
  void (*pack)(const float* x, int64_t positions, int64_t channels, float* panel);

  // sums[block] += sum over up to `panel` positions of of_lanes[p, lane] *
  // of_lines[p, line], for the blocks of some groups; of_lines is packed.
  void (*accumulate)(const BlockPlan& plan, int64_t first_group, int64_t last_group,
                     const float* of_lanes, const float* of_lines, int64_t positions,
                     float* sums);
};

// Activations are `positions` x `channels`, channels fastest; a weight has the entries of
// a plan, `rows` x `cols`. Panels and scratch are aligned to 64 bytes.
struct Kernels {
  const char* name;

  // Positions of one call of `multiply`, and floats of scratch for it.
  int64_t panel;
  int64_t (*scratch)(const MatrixPlan& plan);

  // y[p, row] = sum over the entries of value * x[p, col], for positions <= panel.
  //
  // Each output is summed in the order of the plan, by one thread.
  void (*multiply)(const MatrixPlan& plan, const float* values, const float* x,
                   int64_t positions, float* y, float* scratch);

  // Positions of a block of `accumulate`.
  int64_t block;

  // Copies up to `block` positions into a panel of that width, channel by channel.
  void (*pack)(const float* x, int64_t positions, int64_t channels, float* panel);

  // sums[entry] += sum over the positions of a block of of_rows[row] * of_cols[col], for
  // the runs from `begin` up to `end` of a plan.
  void (*accumulate)(const MatrixPlan& plan, int64_t begin, int64_t end,
                     const float* of_rows, const float* of_cols, float* sums);

  // The entries of sparse activations, by channel: see activations.h.
  void (*count_entries)(const float* x, int64_t positions, int64_t channels,
                        int32_t* count);
  void (*copy_entries)(const float* x, int64_t positions, int64_t channels,
                       const int32_t* first, int32_t* places, float* values);

  // outputs[row] (+)= sum of value * inputs[col] over the entries of a tile of a plan;
  // both have `panel` floats a row. The first tile sets the outputs.
  void (*multiply_tile)(const Plan& plan, int tile, bool is_first, const float* values,
                        const float* inputs, float* outputs);

  // Of convolutions with a window.
  const ConvKernels* conv;

  // Of weights whose sets are whole blocks.
  const BlockKernels* blocks;

  // Of activations in bfloat16.
  const Bfloat16Kernels* bfloat16;

  // The same by generated code; null where there is none for the instruction set.
  //
  // `gather` takes the values of some groups from theta; scratch and product are as above,
  // for positions <= code.panels() panels of 16. The same bits as `multiply`.
  void (*gather_generated)(const Generated& code, const float* theta, int64_t first_group,
                           int64_t last_group, float* values) = nullptr;
  int64_t (*generated_scratch)(const Generated& code) = nullptr;
  void (*multiply_generated)(const Generated& code, const float* values, const float* x,
                             int64_t positions, float* y, float* scratch) = nullptr;

  // The product with up to kFewPositions positions, for some groups of rows; null where
  // there is none for the instruction set. The same bits as `multiply`.
  //
  // Args:
  //   x: floats, `plan.padded_cols()` of each position.
  void (*multiply_few)(const VectorPlan& plan, const float* values, const float* x,
                       int64_t positions, int64_t first_group, int64_t last_group,
                       float* y) = nullptr;

  // Those of a type of activations.
  auto multiply_few_of(const float*) const { return multiply_few; }
  auto multiply_few_of(const Bfloat16*) const { return bfloat16->multiply_few; }
  auto multiply_of(const float*) const { return multiply; }
  auto multiply_of(const Bfloat16*) const { return bfloat16->multiply; }
  auto multiply_generated_of(const float*) const { return multiply_generated; }
  auto multiply_generated_of(const Bfloat16*) const { return bfloat16->multiply_generated; }
  auto pack_of(const float*) const { return pack; }
  auto pack_of(const Bfloat16*) const { return bfloat16->pack; }
  auto count_entries_of(const float*) const { return count_entries; }
  auto count_entries_of(const Bfloat16*) const { return bfloat16->count_entries; }
  auto copy_entries_of(const float*) const { return copy_entries; }
  auto copy_entries_of(const Bfloat16*) const { return bfloat16->copy_entries; }
};

// Columns in a tile: 48 KiB of a panel of `multiply`, 32 KiB of a block of `accumulate`.
constexpr int kMultiplyTile = 192;
constexpr int kAccumulateTile = 64;

// Positions in a tile of sparse activations, as many as columns of `multiply`.
constexpr int kCompressTile = kMultiplyTile;

// The kernels that a name selects ("avx512", "avx2", "portable"); null if this machine
// does not run them. An empty name selects those that the environment
// variable TOPKAST_CPU names, or the fastest.
const Kernels* FindKernels(const char* name);

// The products of pairs that go with kernels; null if this machine has none.
const PairKernels* FindPairKernels(const Kernels& kernels);

}  // namespace topkast

#endif  // TOPKAST_KERNELS_H_
