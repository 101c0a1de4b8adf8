#include "conv_plan.h"

#include <algorithm>
#include <cstring>

namespace topkast {
namespace {

constexpr uint8_t kForwardCode = 2;

// Bytes of a tile's sources that a block of targets reads: 48 KiB, as in the products of
// matrices. A channel has taps.rows rows of a block's 6 vectors and the window's margin.
constexpr int64_t kTileBytes = 48 << 10;
constexpr int64_t kVectorBytes = 64;
constexpr int64_t kBlockVectors = 6;

int64_t ChannelsOfTile(const PhaseTaps& taps) {
  const int64_t bytes = taps.rows * (kBlockVectors + taps.cols - 1) * kVectorBytes;
  return std::max<int64_t>(1, kTileBytes / bytes);
}

}  // namespace

PhaseTaps TapsOf(const Window& window, const Phase& y, const Phase& x) {
  PhaseTaps found;
  found.rows = static_cast<int64_t>(y.taps.size());
  found.cols = static_cast<int64_t>(x.taps.size());
  for (const Tap& row : y.taps) {
    for (const Tap& col : x.taps) {
      found.taps.push_back(row.index * window[1].size + col.index);
    }
  }
  return found;
}

Plan MakeConvPlan(const ConvWeight& weight, const PhaseTaps& taps, bool transpose) {
  const int64_t count = static_cast<int64_t>(taps.taps.size());
  const int64_t inputs = weight.inputs, outputs = weight.outputs;
  if (count == 0) {
    Plan empty;
    empty.rows = transpose ? inputs : outputs;
    empty.first_run = empty.first_entry = {0};
    return empty;
  }
  // The codes with taps next to their channel: one pass, and a plan is made as of a matrix.
  std::vector<uint8_t> codes(inputs * outputs * count);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t i = 0; i < inputs; ++i) {
      const uint8_t* from = weight.codes + (taps.taps[t] * inputs + i) * outputs;
      if (!transpose) {
        std::memcpy(codes.data() + (i * count + t) * outputs, from, outputs);
        continue;
      }
      uint8_t* to = codes.data() + i * outputs * count + t;
      for (int64_t o = 0; o < outputs; ++o) to[o * count] = from[o];
    }
  }
  const int64_t channels = std::min(ChannelsOfTile(taps), transpose ? outputs : inputs);
  const int tile = static_cast<int>(std::max<int64_t>(1, channels) * count);
  const Pattern by_output = {codes.data(), outputs, inputs * count, 1, outputs,
                             kForwardCode};
  const Pattern by_input = {codes.data(), inputs, outputs * count, outputs * count, 1,
                            kForwardCode};
  Plan plan = MakePlan(transpose ? by_input : by_output, tile);
  for (int32_t& source : plan.source) {
    int64_t i, o, t;
    if (transpose) {
      i = source / (outputs * count);
      o = source / count % outputs;
      t = source % count;
    } else {
      i = source / outputs / count;
      o = source % outputs;
      t = source / outputs % count;
    }
    source = static_cast<int32_t>((taps.taps[t] * inputs + i) * outputs + o);
  }
  return plan;
}

}  // namespace topkast
