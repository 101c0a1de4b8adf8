// A vector of floats as wide as the machine that a file is compiled for.
//
// The kernels are written once, with the vector extensions of GCC and Clang, and compiled
// once for each instruction set. Products and sums of vectors become fused operations
// where the set has them.
#ifndef TOPKAST_VEC_H_
#define TOPKAST_VEC_H_

#include <cstddef>

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

// The two halves of a and b, entry by entry in turn: a0 b0 a1 b1 ...
#if TOPKAST_LANES == 16
TOPKAST_INLINE Vec InterleaveLow(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                 22, 7, 23);
}
TOPKAST_INLINE Vec InterleaveHigh(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                 14, 30, 15, 31);
}
#elif TOPKAST_LANES == 8
TOPKAST_INLINE Vec InterleaveLow(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
TOPKAST_INLINE Vec InterleaveHigh(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
TOPKAST_INLINE Vec InterleaveLow(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
TOPKAST_INLINE Vec InterleaveHigh(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
#endif

// Transposes a square of kLanes x kLanes floats.
//
// Each round interleaves row i with row i + kLanes / 2; log2(kLanes) rounds of this
// perfect shuffle are a transpose.
TOPKAST_INLINE void TransposeRows(Vec* rows) {
  Vec next[kLanes];
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = InterleaveLow(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = InterleaveHigh(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

TOPKAST_INLINE void Transpose(const float* from, size_t from_stride, float* to,
                              size_t to_stride) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(from + i * from_stride);
  TransposeRows(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) Store(to + i * to_stride, rows[i]);
}

typedef float Quad __attribute__((vector_size(16)));
typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));

// The sums of four vectors. The order of the additions is fixed.
TOPKAST_INLINE Quad SumsOf(Vec a, Vec b, Vec c, Vec d) {
#if TOPKAST_LANES == 16
  Vec ab = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12,
                                   28, 13, 29) +
           __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14,
                                   30, 15, 31);
  Vec cd = __builtin_shufflevector(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12,
                                   28, 13, 29) +
           __builtin_shufflevector(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14,
                                   30, 15, 31);
  Vec all = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12,
                                    13, 28, 29) +
            __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27,
                                    14, 15, 30, 31);
  return (__builtin_shufflevector(all, all, 0, 1, 2, 3) +
          __builtin_shufflevector(all, all, 4, 5, 6, 7)) +
         (__builtin_shufflevector(all, all, 8, 9, 10, 11) +
          __builtin_shufflevector(all, all, 12, 13, 14, 15));
#elif TOPKAST_LANES == 8
  Vec ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  Vec cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
  Vec all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
            __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(all, all, 0, 1, 2, 3) +
         __builtin_shufflevector(all, all, 4, 5, 6, 7);
#else
  Vec ab = InterleaveLow(a, b) + InterleaveHigh(a, b);
  Vec cd = InterleaveLow(c, d) + InterleaveHigh(c, d);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
         __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#endif
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_VEC_H_
