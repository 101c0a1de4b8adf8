#include "repack.h"

#include <algorithm>
#include <cstring>

namespace topkast {
namespace {

// Codes that are read at once: most of them are outside B.
constexpr int64_t kWord = 8;

uint64_t WordAt(const uint8_t* codes) {
  uint64_t word;
  std::memcpy(&word, codes, kWord);
  return word;
}

}  // namespace

bool WriteEntries(const uint8_t* codes, int64_t places, const float* entries,
                  int64_t size, float* theta) {
  int64_t next = 0;
  for (int64_t i = 0; i < places;) {
    if (i + kWord <= places && WordAt(codes + i) == 0) {
      i += kWord;
      continue;
    }
    const int64_t end = std::min(places, i + kWord);
    for (; i < end; ++i) {
      if (codes[i] == 0) continue;
      if (next == size) return false;
      theta[i] = entries[next++];
    }
  }
  return true;
}

void Repack(const uint8_t* before, const uint8_t* after, int64_t places,
            const float* theta, int64_t size, float* entries, uint8_t* members,
            const std::vector<Follower>& followers) {
  int64_t from = 0, to = 0;
  for (int64_t i = 0; i < places;) {
    if (i + kWord <= places && (WordAt(before + i) | WordAt(after + i)) == 0) {
      i += kWord;
      continue;
    }
    const int64_t end = std::min(places, i + kWord);
    for (; i < end; ++i) {
      if (after[i] != 0 && to < size) {
        entries[to] = theta[i];
        members[to] = after[i];
        const bool stays = before[i] != 0 && from < size;
        for (const Follower& each : followers) {
          each.after[to] = stays ? each.before[from] : 0.0f;
        }
        ++to;
      }
      from += before[i] != 0;
    }
  }
  std::fill(entries + to, entries + size, 0.0f);
  std::fill(members + to, members + size, uint8_t{0});
  for (const Follower& each : followers) {
    std::fill(each.after + to, each.after + size, 0.0f);
  }
}

}  // namespace topkast
