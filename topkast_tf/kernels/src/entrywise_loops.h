// The loops of `Entrywise`, in vectors of the instruction set that a file is for.
//
// They are bound by memory: what counts is that each array is read or written once.
#ifndef TOPKAST_ENTRYWISE_LOOPS_H_
#define TOPKAST_ENTRYWISE_LOOPS_H_

#include <algorithm>
#include <cstring>

#include "entrywise.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {
namespace {

// Entries of a block: as many as bits in the word in which a scan marks candidates.
constexpr int kBlock = 64;

// The 8 bytes, each 0 or 1, as 8 bits (of a machine that stores the lowest byte first).
TOPKAST_INLINE uint64_t BitsOfBytes(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, 8);
  return (word * 0x0102040810204080) >> 56;
}

// Scans up to `kBlock` entries; bit i is set if entry i is a candidate.
TOPKAST_INLINE uint64_t ScanBlock(const int32_t* bits, int count, KeyRange a, KeyRange b,
                                  uint8_t* codes, Scanned* found) {
  uint8_t open[kBlock] = {};
  int32_t on_a = 0, on_b = 0, largest = found->largest;
  for (int i = 0; i < count; ++i) {
    const int32_t key = bits[i] & kMagnitude;
    const int32_t in_a = key >= a.end, in_b = key >= b.end;
    codes[i] = in_a + in_b;
    open[i] = (in_a ^ (key >= a.low)) | (in_b ^ (key >= b.low));
    on_a += in_a;
    on_b += in_b;
    largest = std::max(largest, key);
  }
  found->on_a += on_a;
  found->on_b += on_b;
  found->largest = largest;
  uint64_t candidates = 0;
  for (int i = 0; i < kBlock; i += 8) candidates |= BitsOfBytes(open + i) << i;
  return candidates;
}

Scanned Scan(const float* theta, int64_t size, KeyRange a, KeyRange b, uint8_t* codes,
             Candidate* candidates, int64_t room) {
  Scanned found;
  for (int64_t first = 0; first < size; first += kBlock) {
    int32_t bits[kBlock];
    uint64_t open;
    if (first + kBlock <= size) {
      std::memcpy(bits, theta + first, sizeof bits);
      open = ScanBlock(bits, kBlock, a, b, codes + first, &found);
    } else {
      const int left = static_cast<int>(size - first);
      std::memcpy(bits, theta + first, left * sizeof(float));
      open = ScanBlock(bits, left, a, b, codes + first, &found);
    }
    if (found.candidates + __builtin_popcountll(open) > room) {
      found.candidates = -1;
      return found;
    }
    for (; open != 0; open &= open - 1) {
      const int i = __builtin_ctzll(open);
      candidates[found.candidates++] = {static_cast<uint32_t>(first + i),
                                        bits[i] & kMagnitude};
    }
  }
  return found;
}

typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// A block of codes, as wide as floats. (GCC 12 converts vectors of bytes one by one, and
// this loop in vectors.)
struct WideCodes {
  alignas(64) int32_t codes[kBlock];

  TOPKAST_INLINE explicit WideCodes(const uint8_t* from) {
    for (int i = 0; i < kBlock; ++i) codes[i] = from[i];
  }
  TOPKAST_INLINE Ints At(int i) const {
    Ints found;
    std::memcpy(&found, codes + i, sizeof found);
    return found;
  }
};

// to[i] = of(codes[i], x[i], y[i]) for a block. `to` may be x or y.
template <typename Of>
TOPKAST_INLINE void MapBlock(const uint8_t* codes, const float* x, const float* y,
                             float* to, Of of) {
  const WideCodes wide(codes);
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; i += kLanes) {
    Store(to + i, of(wide.At(i), Load(x + i), Load(y + i)));
  }
}

// The same for any number of entries.
template <typename Of>
TOPKAST_INLINE void Map(const uint8_t* codes, const float* x, const float* y, float* to,
                        int64_t size, Of of) {
  int64_t i = 0;
  for (; i + kBlock <= size; i += kBlock) MapBlock(codes + i, x + i, y + i, to + i, of);
  const int64_t left = size - i;
  if (left == 0) return;
  uint8_t last_codes[kBlock] = {};
  float last[2][kBlock] = {};
  std::memcpy(last_codes, codes + i, left);
  std::memcpy(last[0], x + i, left * sizeof(float));
  std::memcpy(last[1], y + i, left * sizeof(float));
  MapBlock(last_codes, last[0], last[1], last[0], of);
  std::memcpy(to + i, last[0], left * sizeof(float));
}

void TakeStep(Step step, const uint8_t* codes, const float* by, const float* from,
              float* to, int64_t size) {
  auto add = [](Ints code, Vec by, Vec from) { return code != 0 ? from + by : from; };
  auto subtract = [](Ints code, Vec by, Vec from) { return code != 0 ? from - by : from; };
  auto assign = [](Ints code, Vec by, Vec from) { return code != 0 ? by : from; };
  if (step == Step::kAdd) return Map(codes, by, from, to, size, add);
  if (step == Step::kSubtract) return Map(codes, by, from, to, size, subtract);
  Map(codes, by, from, to, size, assign);
}

void Mask(const uint8_t* codes, const float* x, float* to, int64_t size) {
  auto masked = [](Ints code, Vec x, Vec) { return code != 0 ? x : Vec{}; };
  Map(codes, x, x, to, size, masked);
}

// Rounded as `core.exploration` rounds: first times the rate, then times the density.
TOPKAST_INLINE Vec GradientAt(Ints code, Vec theta, float rate, float density) {
  const Vec scaled = code != 0 ? theta * rate : Vec{};
  return scaled * (code == kOnA ? Vec{} + density : Vec{} + 1.0f);
}

void ExplorationGradient(const uint8_t* codes, const float* theta, float rate,
                         float density, float scale, float* to, int64_t size) {
  auto gradient = [=](Ints code, Vec at, Vec) {
    return scale * GradientAt(code, at, rate, density);
  };
  Map(codes, theta, theta, to, size, gradient);
}

// In as many sums as a block has entries, so that vectors of any width add in one order.
float ExplorationSum(const uint8_t* codes, const float* theta, float rate, float density,
                     int64_t size) {
  constexpr int kVectors = kBlock / kLanes;
  Vec sums[kVectors] = {};
  auto add = [&](const uint8_t* code, const float* from) {
    const WideCodes wide(code);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vec at = Load(from + v * kLanes);
      sums[v] += GradientAt(wide.At(v * kLanes), at, rate, density) * at;
    }
  };
  int64_t i = 0;
  for (; i + kBlock <= size; i += kBlock) add(codes + i, theta + i);
  float last[kBlock] = {};
  if (i < size) {
    uint8_t last_codes[kBlock] = {};
    std::memcpy(last_codes, codes + i, size - i);
    std::memcpy(last, theta + i, (size - i) * sizeof(float));
    add(last_codes, last);
  }
  for (int v = 0; v < kVectors; ++v) Store(last + v * kLanes, sums[v]);
  for (int half = kBlock / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) last[k] += last[k + half];
  }
  return last[0];
}

}  // namespace

extern const Entrywise kEntrywise;
const Entrywise kEntrywise = {
    TOPKAST_NAME, Scan, TakeStep, Mask, ExplorationGradient, ExplorationSum,
};

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_ENTRYWISE_LOOPS_H_
