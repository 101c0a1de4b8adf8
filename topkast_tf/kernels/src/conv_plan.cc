#include "conv_plan.h"

#include <algorithm>
#include <cstring>

namespace topkast {
namespace {

constexpr uint8_t kForwardCode = 2;
constexpr uint8_t kBackwardCode = 1;

// Bytes of a tile's sources that a block of targets reads, near the core. A channel has
// taps.rows rows of the block's vectors, 6 or 8, and the window's margin.
constexpr int64_t kMultiplyBytes = 48 << 10;
constexpr int64_t kAccumulateBytes = 32 << 10;
constexpr int64_t kVectorBytes = 64;

int64_t ChannelsOfTile(const PhaseTaps& taps, ConvPlanKind kind) {
  const bool accumulates = kind == ConvPlanKind::kWeightGradient;
  const int64_t vectors = accumulates ? 8 : 6;
  const int64_t bytes = taps.rows * (vectors + taps.cols - 1) * kVectorBytes;
  return std::max<int64_t>(1, (accumulates ? kAccumulateBytes : kMultiplyBytes) / bytes);
}

// Makes `source` an index of `places`: a weight is then read in the order of memory, and
// brought into the plan's order by way of a list as short as the entries. A weight that
// is not in a cache costs two fifths of the reads in the plan's order.
void ListPlaces(Plan* plan, int64_t weights) {
  std::vector<uint64_t> exists((weights + 63) / 64);
  for (const int32_t place : plan->source) {
    exists[place / 64] |= uint64_t{1} << (place % 64);
  }
  std::vector<int32_t> before(exists.size());
  plan->places.reserve(plan->source.size());
  for (size_t word = 0; word < exists.size(); ++word) {
    before[word] = static_cast<int32_t>(plan->places.size());
    for (uint64_t bits = exists[word]; bits != 0; bits &= bits - 1) {
      plan->places.push_back(static_cast<int32_t>(64 * word) + __builtin_ctzll(bits));
    }
  }
  for (int32_t& source : plan->source) {
    const uint64_t below = exists[source / 64] & ((uint64_t{1} << (source % 64)) - 1);
    source = before[source / 64] + __builtin_popcountll(below);
  }
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

Plan MakeConvPlan(const ConvWeight& weight, const PhaseTaps& taps, ConvPlanKind kind) {
  const bool transpose = kind == ConvPlanKind::kInputGradient;
  const uint8_t threshold =
      kind == ConvPlanKind::kWeightGradient ? kBackwardCode : kForwardCode;
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
      const uint8_t* from = weight.codes + weight.first_output +
                            (taps.taps[t] * inputs + i) * weight.all_outputs;
      if (!transpose) {
        std::memcpy(codes.data() + (i * count + t) * outputs, from, outputs);
        continue;
      }
      uint8_t* to = codes.data() + i * outputs * count + t;
      for (int64_t o = 0; o < outputs; ++o) to[o * count] = from[o];
    }
  }
  const int64_t channels =
      std::min(ChannelsOfTile(taps, kind), transpose ? outputs : inputs);
  const int tile = static_cast<int>(std::max<int64_t>(1, channels) * count);
  const Pattern by_output = {codes.data(), outputs, inputs * count, 1, outputs, threshold};
  const Pattern by_input = {codes.data(), inputs, outputs * count, outputs * count, 1,
                            threshold};
  Plan plan = MakePlan(transpose ? by_input : by_output, tile);
  // The place of an entry, without divisions: from its column, its tile and its row.
  const int64_t of_input = weight.all_outputs;
  const int64_t of_channel = transpose ? 1 : of_input, of_row = transpose ? of_input : 1;
  std::vector<int64_t> of_col(tile);
  for (int64_t col = 0; col < tile; ++col) {
    of_col[col] = weight.first_output + taps.taps[col % count] * inputs * of_input +
                  col / count * of_channel;
  }
  for (size_t k = 0; k + 1 < plan.first_run.size(); ++k) {
    const int64_t of_tile = static_cast<int64_t>(k) * (tile / count) * of_channel;
    for (int32_t run = plan.first_run[k]; run < plan.first_run[k + 1]; ++run) {
      const int64_t start = of_tile + plan.row[run] * of_row;
      for (int32_t z = plan.first_entry[run]; z < plan.first_entry[run + 1]; ++z) {
        plan.source[z] = static_cast<int32_t>(start + of_col[plan.col[z]]);
      }
    }
  }
  ListPlaces(&plan, weight.taps * inputs * of_input);
  return plan;
}

}  // namespace topkast
