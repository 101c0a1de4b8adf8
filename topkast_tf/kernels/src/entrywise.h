// Passes over the entries of one weight: the scan of a selection, the masked update, the
// exploration loss. One set of them for each instruction set.
#ifndef TOPKAST_ENTRYWISE_H_
#define TOPKAST_ENTRYWISE_H_

#include <cstdint>

namespace topkast {

// Codes of the entries: 0 outside B, 1 on B \ A, 2 on A.
constexpr uint8_t kOnA = 2;

// The bits of a float32 without its sign: ordered as magnitudes are.
constexpr int32_t kMagnitude = 0x7fffffff;
// The largest key of a number; those above it are NaN's.
constexpr int32_t kInfinityKey = 0x7f800000;

// Keys from `end` upwards are selected, those below `low` are not, and those between are
// candidates.
struct KeyRange {
  int32_t low, end;
};

struct Candidate {
  uint32_t place;
  int32_t key;
};

// What a scan has found.
struct Scanned {
  int64_t on_a = 0, on_b = 0;  // entries at or above the windows
  int64_t candidates = 0;      // -1 if there was no room for them
  int32_t largest = 0;         // the largest key
};

enum class Step { kAdd, kSubtract, kAssign };

struct Entrywise {
  const char* name;

  // Writes codes by two windows, as if no candidate were selected, and the candidates of
  // either, in order.
  Scanned (*scan)(const float* theta, int64_t size, KeyRange a, KeyRange b, uint8_t* codes,
                  Candidate* candidates, int64_t room);

  // to = from stepped by `by` on B, bitwise `from` elsewhere. `to` may be `from`.
  void (*step)(Step step, const uint8_t* codes, const float* by, const float* from,
               float* to, int64_t size);

  // to = x on B, 0 elsewhere.
  void (*mask)(const uint8_t* codes, const float* x, float* to, int64_t size);

  // to = scale * g, with the entries of the exploration loss's gradient:
  // g = theta * rate on B, times `density` on A; 0 elsewhere.
  void (*exploration_gradient)(const uint8_t* codes, const float* theta, float rate,
                               float density, float scale, float* to, int64_t size);

  // The sum of theta * g.
  float (*exploration_sum)(const uint8_t* codes, const float* theta, float rate,
                           float density, int64_t size);
};

// The passes that a name selects, as `FindKernels` does.
const Entrywise* FindEntrywise(const char* name);

}  // namespace topkast

#endif  // TOPKAST_ENTRYWISE_H_
