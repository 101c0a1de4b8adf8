// The products of a convolution, for one instruction set.
//
// Included by products.h. Sources are planes (conv_geometry.h): a channel is a constant
// distance from the next one, and an entry of the weight a constant offset.
#ifndef TOPKAST_CONV_H_
#define TOPKAST_CONV_H_

#include <algorithm>
#include <cstdint>

#include "dots.h"
#include "kernels.h"
#include "plan.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of targets for each row in registers. Six, where the products of matrices have
// four: an entry's value and offset are loaded once for more of them, and what a block
// needs of a channel grows by less, as neighbours share their window.
constexpr int kConvVectors = 6;

// Copies one vector of positions, channel by channel:
// to[c * distance + lane] = from[lane][c].
inline void PackVector(const float* const* from, int64_t channels, float* to,
                       int64_t distance) {
  if (channels < kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < channels; ++c) to[c * distance + lane] = from[lane][c];
    }
    return;
  }
  for (int64_t next = 0; next < channels; next += kLanes) {
    const int64_t c = std::min(next, channels - kLanes);  // the last overlap
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = Load(from[lane] + c);
    TransposeRows(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) StoreAligned(to + (c + i) * distance, rows[i]);
  }
}

// The reverse: to[lane][c] = from[c * distance + lane].
inline void UnpackVector(const float* from, int64_t distance, int64_t channels,
                         float* const* to) {
  if (channels < kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < channels; ++c) to[lane][c] = from[c * distance + lane];
    }
    return;
  }
  for (int64_t next = 0; next < channels; next += kLanes) {
    const int64_t c = std::min(next, channels - kLanes);
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = LoadAligned(from + (c + i) * distance);
    TransposeRows(rows);
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) Store(to[lane] + c, rows[lane]);
  }
}

template <int kCount>
inline void ConvMultiplyVectors(const Plan& plan, const ConvEntry* entries,
                                const float* const* bases, int64_t tile_distance,
                                float* outputs) {
  const float* base[kCount];
  for (int v = 0; v < kCount; ++v) base[v] = bases[v];
  const int tiles = static_cast<int>(plan.first_run.size()) - 1;
  for (int tile = 0; tile < tiles; ++tile) {
    for (int32_t run = plan.first_run[tile]; run < plan.first_run[tile + 1]; ++run) {
      float* output = outputs + plan.row[run] * (kConvVectors * kLanes);
      Vec sums[kCount];
#pragma GCC unroll 8
      for (int v = 0; v < kCount; ++v) {
        sums[v] = tile == 0 ? Vec{} : LoadAligned(output + v * kLanes);
      }
      const ConvEntry* end = entries + plan.first_entry[run + 1];
      for (const ConvEntry* entry = entries + plan.first_entry[run]; entry < end; ++entry) {
        const int64_t offset = entry->offset;
        const float value = entry->value;
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) sums[v] += value * Load(base[v] + offset);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kCount; ++v) StoreAligned(output + v * kLanes, sums[v]);
    }
    for (int v = 0; v < kCount; ++v) base[v] += tile_distance;
  }
}

inline void ConvMultiply(const Plan& plan, const ConvEntry* entries,
                         const float* const* bases, int count, int64_t tile_distance,
                         float* outputs) {
  static_assert(kConvVectors == 6, "the cases below");
  switch (count) {
    case 1:
      return ConvMultiplyVectors<1>(plan, entries, bases, tile_distance, outputs);
    case 2:
      return ConvMultiplyVectors<2>(plan, entries, bases, tile_distance, outputs);
    case 3:
      return ConvMultiplyVectors<3>(plan, entries, bases, tile_distance, outputs);
    case 4:
      return ConvMultiplyVectors<4>(plan, entries, bases, tile_distance, outputs);
    case 5:
      return ConvMultiplyVectors<5>(plan, entries, bases, tile_distance, outputs);
    default:
      return ConvMultiplyVectors<6>(plan, entries, bases, tile_distance, outputs);
  }
}

// sums[entry] += the dot product of the shifted sources of a row and of_cols[col].
inline void ConvAccumulate(const Plan& plan, int64_t begin, int64_t end,
                           const float* const* bases, const int32_t* offsets,
                           const float* of_cols, float* sums) {
  int tile = 0;
  for (int64_t run = begin; run < end; ++run) {
    while (run >= plan.first_run[tile + 1]) ++tile;
    const float* in_tile = of_cols + static_cast<int64_t>(tile) * plan.tile * kBlock;
    const int64_t offset = offsets[plan.row[run]];
    Vec row[kBlockVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kBlockVectors; ++v) row[v] = Load(bases[v] + offset);
    const int64_t first = plan.first_entry[run];
    AccumulateRun(row, in_tile, plan.col.data() + first,
                  plan.first_entry[run + 1] - plan.first_entry[run], sums + first);
  }
}

const ConvKernels kConvKernels = {
    kLanes,       kConvVectors, kBlockVectors,  PackVector,
    UnpackVector, ConvMultiply, ConvAccumulate,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_CONV_H_
