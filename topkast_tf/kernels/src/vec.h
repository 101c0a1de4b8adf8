// A vector of floats as wide as the machine that a file is compiled for.
//
// The kernels are written once, with the vector extensions of GCC and Clang, and compiled
// once for each instruction set. Products and sums of vectors become fused operations
// where the set has them.
#ifndef TOPKAST_VEC_H_
#define TOPKAST_VEC_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define TOPKAST_LANES 16
#elif defined(__AVX2__)
#define TOPKAST_LANES 8
#else
#define TOPKAST_LANES 4
#endif

#define TOPKAST_INLINE inline __attribute__((always_inline))

namespace topkast {
namespace TOPKAST_ISA {

constexpr int kLanes = TOPKAST_LANES;

typedef float Vec __attribute__((vector_size(4 * TOPKAST_LANES)));
typedef float Unaligned
    __attribute__((vector_size(4 * TOPKAST_LANES), aligned(4), may_alias));
typedef float Aligned __attribute__((vector_size(4 * TOPKAST_LANES), may_alias));

TOPKAST_INLINE Vec Load(const float* from) {
  return *reinterpret_cast<const Unaligned*>(from);
}
TOPKAST_INLINE Vec LoadAligned(const float* from) {
  return *reinterpret_cast<const Aligned*>(from);
}
TOPKAST_INLINE void Store(float* to, Vec value) {
  *reinterpret_cast<Unaligned*>(to) = value;
}
TOPKAST_INLINE void StoreAligned(float* to, Vec value) {
  *reinterpret_cast<Aligned*>(to) = value;
}

// The entries of a, then those of b, with the given numbers. GCC has the builtin of Clang
// from version 12 on.
#if defined(__clang__) || __GNUC__ >= 12
#define TOPKAST_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(4 * TOPKAST_LANES)));
#define TOPKAST_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#endif

// Vectors are divided into lanes of four floats; what stays in its lane is cheap.
//
// In each lane, the lower or upper two floats of a and b in turn: a0 b0 a1 b1.
#if TOPKAST_LANES == 16
#define TOPKAST_IN_LANES(w, x, y, z)                                                     \
  TOPKAST_SHUFFLE(a, b, w, x, y, z, w + 4, x + 4, y + 4, z + 4, w + 8, x + 8,    \
                          y + 8, z + 8, w + 12, x + 12, y + 12, z + 12)
#elif TOPKAST_LANES == 8
#define TOPKAST_IN_LANES(w, x, y, z)                                                     \
  TOPKAST_SHUFFLE(a, b, w, x, y, z, w + 4, x + 4, y + 4, z + 4)
#else
#define TOPKAST_IN_LANES(w, x, y, z) TOPKAST_SHUFFLE(a, b, w, x, y, z)
#endif
TOPKAST_INLINE Vec FloatsLow(Vec a, Vec b) {
  return TOPKAST_IN_LANES(0, kLanes, 1, kLanes + 1);
}
TOPKAST_INLINE Vec FloatsHigh(Vec a, Vec b) {
  return TOPKAST_IN_LANES(2, kLanes + 2, 3, kLanes + 3);
}
// In each lane, the lower or upper pair of a, then that of b.
TOPKAST_INLINE Vec PairsLow(Vec a, Vec b) {
  return TOPKAST_IN_LANES(0, 1, kLanes, kLanes + 1);
}
TOPKAST_INLINE Vec PairsHigh(Vec a, Vec b) {
  return TOPKAST_IN_LANES(2, 3, kLanes + 2, kLanes + 3);
}
#undef TOPKAST_IN_LANES

// The lanes of a with an even or odd number, then those of b.
#if TOPKAST_LANES == 16
TOPKAST_INLINE Vec LanesEven(Vec a, Vec b) {
  return TOPKAST_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25,
                                 26, 27);
}
TOPKAST_INLINE Vec LanesOdd(Vec a, Vec b) {
  return TOPKAST_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29,
                                 30, 31);
}
#elif TOPKAST_LANES == 8
TOPKAST_INLINE Vec LanesEven(Vec a, Vec b) {
  return TOPKAST_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}
TOPKAST_INLINE Vec LanesOdd(Vec a, Vec b) {
  return TOPKAST_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
#endif

// Transposes a square of kLanes x kLanes floats: squares of 4 x 4 in the lanes, then the
// lanes.
TOPKAST_INLINE void TransposeRows(Vec* rows) {
  Vec next[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = FloatsLow(rows[i], rows[i + 1]), b = FloatsHigh(rows[i], rows[i + 1]);
    const Vec c = FloatsLow(rows[i + 2], rows[i + 3]);
    const Vec d = FloatsHigh(rows[i + 2], rows[i + 3]);
    next[i] = PairsLow(a, c);
    next[i + 1] = PairsHigh(a, c);
    next[i + 2] = PairsLow(b, d);
    next[i + 3] = PairsHigh(b, d);
  }
  // Lane l of next[4 i + k] is column 4 l + k of the rows from 4 i.
#if TOPKAST_LANES == 16
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const Vec even01 = LanesEven(next[k], next[4 + k]);
    const Vec even23 = LanesEven(next[8 + k], next[12 + k]);
    const Vec odd01 = LanesOdd(next[k], next[4 + k]);
    const Vec odd23 = LanesOdd(next[8 + k], next[12 + k]);
    rows[k] = LanesEven(even01, even23);
    rows[4 + k] = LanesEven(odd01, odd23);
    rows[8 + k] = LanesOdd(even01, even23);
    rows[12 + k] = LanesOdd(odd01, odd23);
  }
#elif TOPKAST_LANES == 8
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    rows[k] = LanesEven(next[k], next[4 + k]);
    rows[4 + k] = LanesOdd(next[k], next[4 + k]);
  }
#else
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) rows[k] = next[k];
#endif
}

// Bit i is set if entry i is not zero; a NaN is not.
TOPKAST_INLINE uint32_t NonZero(Vec value) {
#if TOPKAST_LANES == 16
  return _mm512_cmp_ps_mask((__m512)value, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif TOPKAST_LANES == 8
  return _mm256_movemask_ps(
      _mm256_cmp_ps((__m256)value, _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
  uint32_t bits = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; ++i) bits |= uint32_t{value[i] != 0.0f} << i;
  return bits;
#endif
}

typedef float Quad __attribute__((vector_size(16)));
typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));

// The sums of four vectors. The order of the additions is fixed.
TOPKAST_INLINE Quad SumsOf(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = FloatsLow(a, b) + FloatsHigh(a, b);
  const Vec cd = FloatsLow(c, d) + FloatsHigh(c, d);
  const Vec all = PairsLow(ab, cd) + PairsHigh(ab, cd);
  Quad lanes[kLanes / 4];
  std::memcpy(lanes, &all, sizeof(all));
#if TOPKAST_LANES == 16
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
#elif TOPKAST_LANES == 8
  return lanes[0] + lanes[1];
#else
  return lanes[0];
#endif
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_VEC_H_
