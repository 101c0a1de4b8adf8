// Transposes between activations, of floats or bfloat16, and channels of floats.
//
// Activations are read and written position by position: `row(i)` points to the first
// channel of position i of kLanes. Channels are `distance` floats apart.
#ifndef TOPKAST_TRANSPOSES_H_
#define TOPKAST_TRANSPOSES_H_

#include <cstdint>
#include <type_traits>

#include "bfloat16.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

typedef uint32_t Bits __attribute__((vector_size(4 * TOPKAST_LANES)));
typedef uint16_t Half __attribute__((vector_size(2 * TOPKAST_LANES)));
typedef uint32_t UnalignedBits
    __attribute__((vector_size(4 * TOPKAST_LANES), aligned(2), may_alias));
typedef uint16_t UnalignedHalf
    __attribute__((vector_size(2 * TOPKAST_LANES), aligned(2), may_alias));

// The bits of bfloat16 numbers, to nearest even, in the upper half of each lane; the lower
// half is left as it comes. A NaN: see bfloat16.h.
TOPKAST_INLINE Bits Rounded(Vec value) {
  const Bits bits = (Bits)value;
  return bits + 0x7FFF + (bits >> 16 & 1);
}

// kLanes channels of a position.
TOPKAST_INLINE Vec LoadChannels(const float* from) { return Load(from); }
TOPKAST_INLINE void StoreChannels(float* to, Vec value) { Store(to, value); }
TOPKAST_INLINE Vec LoadChannels(const Bfloat16* from) {
  const Half half = *reinterpret_cast<const UnalignedHalf*>(from);
  return (Vec)(__builtin_convertvector(half, Bits) << 16);
}
TOPKAST_INLINE void StoreChannels(Bfloat16* to, Vec value) {
  *reinterpret_cast<UnalignedHalf*>(to) =
      __builtin_convertvector(Rounded(value) >> 16, Half);
}

// 2 kLanes channels of bfloat16, two in each lane. The lower half of a lane is the channel
// with the even number.
TOPKAST_INLINE Vec LoadPairs(const Bfloat16* from) {
  return (Vec)*reinterpret_cast<const UnalignedBits*>(from);
}
TOPKAST_INLINE void StorePairs(Bfloat16* to, Vec value) {
  *reinterpret_cast<UnalignedBits*>(to) = (Bits)value;
}

template <typename Row>
TOPKAST_INLINE void TransposeIn(Row row, int64_t c, float* to, int64_t distance) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = LoadChannels(row(i) + c);
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) Store(to + (c + i) * distance, rows[i]);
}

template <typename Row>
TOPKAST_INLINE void TransposeOut(const float* from, int64_t distance, int64_t c, Row row) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(from + (c + i) * distance);
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) StoreChannels(row(i) + c, rows[i]);
}

// The same for 2 kLanes channels of bfloat16, two of which are moved as one float: half as
// many shuffles.
template <typename Row>
TOPKAST_INLINE void TransposePairsIn(Row row, int64_t c, float* to, int64_t distance) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = LoadPairs(row(i) + c);
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    float* pair = to + (c + 2 * i) * distance;
    Store(pair, (Vec)((Bits)rows[i] << 16));
    Store(pair + distance, (Vec)((Bits)rows[i] & 0xFFFF0000));
  }
}

template <typename Row>
TOPKAST_INLINE void TransposePairsOut(const float* from, int64_t distance, int64_t c,
                                      Row row) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const float* pair = from + (c + 2 * i) * distance;
    rows[i] = (Vec)(Rounded(Load(pair)) >> 16 |
                    (Rounded(Load(pair + distance)) & 0xFFFF0000));
  }
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) StorePairs(row(i) + c, rows[i]);
}

template <typename Row>
constexpr bool kIsBfloat16 =
    std::is_same_v<std::remove_cv_t<std::remove_pointer_t<std::invoke_result_t<Row, int>>>,
                   Bfloat16>;

// Transposes as many of the channels as fill vectors; returns their number.
template <typename Row>
inline int64_t TransposeMostIn(Row row, int64_t channels, float* to, int64_t distance) {
  int64_t c = 0;
  if constexpr (kIsBfloat16<Row>) {
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
      TransposePairsIn(row, c, to, distance);
    }
  }
  for (; c + kLanes <= channels; c += kLanes) TransposeIn(row, c, to, distance);
  return c;
}

template <typename Row>
inline int64_t TransposeMostOut(const float* from, int64_t distance, int64_t channels,
                                Row row) {
  int64_t c = 0;
  if constexpr (kIsBfloat16<Row>) {
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
      TransposePairsOut(from, distance, c, row);
    }
  }
  for (; c + kLanes <= channels; c += kLanes) TransposeOut(from, distance, c, row);
  return c;
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_TRANSPOSES_H_
