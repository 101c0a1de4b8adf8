// The products of a convolution, for one instruction set.
//
// Included by products.h. Sources are planes (conv_geometry.h): a channel is a constant
// distance from the next one, and an entry of the weight a constant offset.
#ifndef TOPKAST_CONV_H_
#define TOPKAST_CONV_H_

#include <algorithm>
#include <cstdint>

#include "conv_accumulate.h"
#include "kernels.h"
#include "plan.h"
#include "transposes.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Vectors of targets for each row in registers. Six, where the products of matrices have
// four: an entry's value and offset are loaded once for more of them, and what a block
// needs of a channel grows by less, as neighbours share their window.
constexpr int kConvVectors = 6;

// Copies one vector of positions, channel by channel:
// to[c * distance + lane] = from[lane][c].
template <typename T>
inline void PackVector(const T* const* from, int64_t channels, float* to,
                       int64_t distance) {
  if (channels < kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < channels; ++c) {
        to[c * distance + lane] = ToFloat(from[lane][c]);
      }
    }
    return;
  }
  const auto row = [=](int64_t lane) { return from[lane]; };
  if (TransposeMostIn(row, channels, to, distance) < channels) {
    TransposeIn(row, channels - kLanes, to, distance);  // the last overlap
  }
}

// The reverse: to[lane][c] = from[c * distance + lane].
template <typename T>
inline void UnpackVector(const float* from, int64_t distance, int64_t channels,
                         T* const* to) {
  if (channels < kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < channels; ++c) {
        Assign(from[c * distance + lane], to[lane] + c);
      }
    }
    return;
  }
  const auto row = [=](int64_t lane) { return to[lane]; };
  if (TransposeMostOut(from, distance, channels, row) < channels) {
    TransposeOut(from, distance, channels - kLanes, row);
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

const ConvKernels kConvKernels = {
    kLanes,
    kConvVectors,
    kConvBlockVectors,
    PackVector<float>,
    UnpackVector<float>,
    ConvMultiply,
    ConvAccumulate<FloatDots>,
    PackVector<Bfloat16>,
    UnpackVector<Bfloat16>,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_CONV_H_
