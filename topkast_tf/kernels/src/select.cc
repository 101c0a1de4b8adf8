// Selection in one pass: a sample says between which two magnitudes a threshold lies, a
// scan writes the codes of all entries that are not between them, and the candidates that
// are decide exactly. Where the sample has misled, thresholds come from histograms.
#include "select.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

namespace topkast {
namespace {

// Weights below this size are not sampled: histograms take less.
constexpr int64_t kSampled = 4096;
// Half the width of a window, in standard deviations of a rank in the sample. One
// threshold in 15,000 lies outside of it.
constexpr double kDeviations = 4;

// Memory that is kept from call to call: to touch new pages takes as long as to use them.
template <typename T>
class Scratch {
 public:
  T* Get(int64_t size) {
    if (size > size_) {
      data_.reset(new T[size]);
      size_ = size;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

thread_local Scratch<Candidate> candidates_scratch;
thread_local Scratch<int32_t> keys_scratch;

int32_t KeyAt(const float* theta, int64_t i) {
  int32_t bits;
  std::memcpy(&bits, theta + i, sizeof bits);
  return bits & kMagnitude;
}

// The window of nothing (k = 0) or of everything (k = size), which has no candidates.
KeyRange Certain(bool everything) {
  const int32_t end = everything ? 0 : kMagnitude;
  return {end, end};
}

// One entry of each of size^(2/3) parts of a weight: what the sample costs, and what the
// candidates cost that it leaves, are then of one order. At places that look random:
// those at equal distances would all lie in a few columns of a matrix.
std::vector<int32_t> SampleOf(const float* theta, int64_t size) {
  const double root = std::cbrt(static_cast<double>(size));
  const int64_t count = static_cast<int64_t>(root * root);
  const int64_t part = size / count;
  std::vector<int32_t> keys(count);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const int64_t within = static_cast<int64_t>((state >> 33) % part);
    keys[i] = std::min(KeyAt(theta, i * part + within), kInfinityKey);
  }
  return keys;
}

// The key that `rank` of `count` keys precede in descending order. The keys, all in
// [low, end), are overwritten.
//
// A histogram leaves few of them to sort: it has no branches that depend on a key.
int32_t KeyOfRank(int32_t* keys, int64_t count, int64_t rank, int32_t low, int32_t end) {
  int shift = 0;
  while (((end - 1 - low) >> shift) >= 1024) ++shift;
  std::array<int64_t, 1024> counts = {};
  for (int64_t i = 0; i < count; ++i) ++counts[(keys[i] - low) >> shift];
  int32_t digit = 1023;
  for (; counts[digit] <= rank; --digit) rank -= counts[digit];
  int64_t left = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t key = keys[i];
    keys[left] = key;
    left += ((key - low) >> shift) == digit;
  }
  std::nth_element(keys, keys + rank, keys + left, std::greater<int32_t>());
  return keys[rank];
}

// The keys between which the k-th largest of a weight most likely lies.
KeyRange SampledWindow(const std::vector<int32_t>& sample, int64_t size, int64_t k) {
  if (k == 0 || k == size) return Certain(k == size);
  const int64_t count = sample.size();
  const double share = static_cast<double>(k) / size;
  const double rank = share * count;
  const double slack = 2 + kDeviations * std::sqrt(rank * (1 - share));
  auto key_at = [&](double place) {
    int32_t* keys = keys_scratch.Get(count);
    std::copy(sample.begin(), sample.end(), keys);
    return KeyOfRank(keys, count, static_cast<int64_t>(place), 0, kMagnitude);
  };
  const int32_t end = rank - slack >= 0 ? key_at(rank - slack) : kMagnitude;
  const int32_t low = rank + slack < count ? key_at(rank + slack) : 0;
  // Many entries of one magnitude, as of a reservoir that began with zeros, are taken for
  // ones below the threshold, not for candidates.
  const bool is_tie = std::count(sample.begin(), sample.end(), low) > slack;
  return {is_tie ? std::min(low + 1, end) : low, end};
}

// Adds 1 to the code of the `needed` largest candidates of a window. Candidates are in
// order, so that of equal keys the first are taken. False if there are not so many.
//
// Without branches: which candidates are in the window, and which are taken, is random.
bool TakeLargest(const Candidate* candidates, int64_t count, KeyRange window,
                 int64_t needed, uint8_t* codes) {
  int32_t* keys = keys_scratch.Get(count + 1);
  int64_t within = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t key = candidates[i].key;
    keys[within] = key;
    within += (key >= window.low) & (key < window.end);
  }
  if (needed < 0 || needed > within) return false;
  if (needed == 0) return true;
  const int32_t threshold =
      KeyOfRank(keys, within, needed - 1, window.low, window.end);
  int64_t ties = needed;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t key = candidates[i].key;
    ties -= (key > threshold) & (key < window.end);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t key = candidates[i].key;
    const bool is_tie = (key == threshold) & (ties > 0);
    ties -= is_tie;
    codes[candidates[i].place] += ((key > threshold) & (key < window.end)) | is_tie;
  }
  return true;
}

// Selects by two windows. False if a threshold lies outside of its window, or if more
// than a quarter of the entries are candidates.
bool SelectWithin(const Entrywise& passes, const float* theta, int64_t size, KeyRange a,
                  KeyRange b, int64_t kept_a, int64_t kept_b, uint8_t* codes,
                  int32_t* largest) {
  const int64_t room = size / 4;
  Candidate* candidates = candidates_scratch.Get(room);
  const Scanned found = passes.scan(theta, size, a, b, codes, candidates, room);
  *largest = found.largest;
  const int64_t count = found.candidates;
  return count >= 0 &&
         TakeLargest(candidates, count, a, kept_a - found.on_a, codes) &&
         TakeLargest(candidates, count, b, kept_b - found.on_b, codes);
}

// Where the k largest keys of a weight end: those above `key`, and the first `needed` of
// those equal to it.
struct Threshold {
  int32_t key;
  int64_t needed;
};

// By histograms of 11, 10 and 10 bits.
Threshold KthLargest(const float* theta, int64_t size, int64_t k) {
  if (k == 0) return {kMagnitude, 0};
  int32_t prefix = 0, known = 0;  // the bits that are known, and which they are
  for (int shift : {20, 10, 0}) {
    const int32_t digits = shift == 20 ? 2047 : 1023;
    std::array<int64_t, 2048> counts = {};
    for (int64_t i = 0; i < size; ++i) {
      const int32_t key = KeyAt(theta, i);
      counts[(key >> shift) & digits] += (key & known) == prefix;
    }
    int32_t digit = digits;
    for (; counts[digit] < k; --digit) k -= counts[digit];
    prefix |= digit << shift;
    known |= digits << shift;
  }
  return {prefix, k};
}

// Selects by thresholds, whatever the weight. Returns the largest key.
int32_t SelectExactly(const float* theta, int64_t size, int64_t kept_a, int64_t kept_b,
                      uint8_t* codes) {
  Threshold a = KthLargest(theta, size, kept_a);
  Threshold b = kept_b == kept_a ? a : KthLargest(theta, size, kept_b);
  int32_t largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t key = KeyAt(theta, i);
    const bool tie_a = (key == a.key) & (a.needed > 0);
    const bool tie_b = (key == b.key) & (b.needed > 0);
    a.needed -= tie_a;
    b.needed -= tie_b;
    codes[i] = ((key > a.key) | tie_a) + ((key > b.key) | tie_b);
    largest = std::max(largest, key);
  }
  return largest;
}

}  // namespace

bool SelectLargest(const Entrywise& passes, const float* theta, int64_t size,
                   int64_t kept_a, int64_t kept_b, uint8_t* codes) {
  if (size >= kSampled) {
    const std::vector<int32_t> sample = SampleOf(theta, size);
    const KeyRange a = SampledWindow(sample, size, kept_a);
    const KeyRange b = SampledWindow(sample, size, kept_b);
    int32_t largest = 0;
    const bool done =
        SelectWithin(passes, theta, size, a, b, kept_a, kept_b, codes, &largest);
    if (done || largest > kInfinityKey) return largest <= kInfinityKey;
  }
  return SelectExactly(theta, size, kept_a, kept_b, codes) <= kInfinityKey;
}

}  // namespace topkast
