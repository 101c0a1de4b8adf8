// Panels: some positions of an activation, channel by channel.
//
// An activation is `positions` x `channels`, channels fastest, of floats or bfloat16. A
// panel of `width` positions is `channels` x `width` floats: the inner loops of the kernels
// run over positions.
#ifndef TOPKAST_PANELS_H_
#define TOPKAST_PANELS_H_

#include <algorithm>
#include <cstdint>

#include "bfloat16.h"
#include "transposes.h"
#include "vec.h"

namespace topkast {
namespace TOPKAST_ISA {

// Copies `positions` <= `width` positions into a panel; the rest of the panel is zero.
//
// Args:
//   from: the first position.
//   channels: entries of a position, and their distance in memory.
//   width: positions in a panel, a multiple of kLanes.
template <typename T>
inline void Pack(const T* from, int64_t positions, int64_t channels, float* panel,
                 int64_t width) {
  for (int64_t p = 0; p < width; p += kLanes) {
    const int64_t live = std::min<int64_t>(kLanes, positions - p);
    const auto row = [=](int64_t i) { return from + (p + i) * channels; };
    int64_t c = live < kLanes ? 0 : TransposeMostIn(row, channels, panel + p, width);
    for (; c < channels; ++c) {
      float* to = panel + c * width + p;
      for (int64_t i = 0; i < kLanes; ++i) to[i] = i < live ? ToFloat(row(i)[c]) : 0.0f;
    }
  }
}

// Copies the first `positions` <= `width` positions of a panel back, to `channels` of the
// `stride` channels of an activation.
template <typename T>
inline void UnpackPart(const float* panel, int64_t width, T* to, int64_t positions,
                       int64_t channels, int64_t stride) {
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t live = std::min<int64_t>(kLanes, positions - p);
    const auto row = [=](int64_t i) { return to + (p + i) * stride; };
    int64_t c = live < kLanes ? 0 : TransposeMostOut(panel + p, width, channels, row);
    for (; c < channels; ++c) {
      const float* from = panel + c * width + p;
      for (int64_t i = 0; i < live; ++i) Assign(from[i], row(i) + c);
    }
  }
}

// Copies the first `positions` <= `width` positions of a panel back.
template <typename T>
inline void Unpack(const float* panel, int64_t width, T* to, int64_t positions,
                   int64_t channels) {
  UnpackPart(panel, width, to, positions, channels, channels);
}

}  // namespace TOPKAST_ISA
}  // namespace topkast

#endif  // TOPKAST_PANELS_H_
