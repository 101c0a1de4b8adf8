#include "block_plan.h"


namespace topkast {
namespace {

// exists[line] = the blocks of a group that exist; false if one has different codes.
bool BlocksOf(const BlockPattern& pattern, int64_t group, uint8_t* exists) {
  const int64_t first = group * kBlockLanes;
  const int64_t lanes = std::min(kBlockLanes, pattern.lanes - first);
  const uint8_t* codes = pattern.codes + first * pattern.lane_stride;
  uint8_t differs = 0;
  // The codes are read in the order of memory, whichever axis that is.
  if (pattern.lane_stride == 1) {
    for (int64_t line = 0; line < pattern.lines; ++line) {
      const uint8_t* of = codes + line * pattern.line_stride;
      for (int64_t k = 1; k < lanes; ++k) differs |= of[k] ^ of[0];
      exists[line] = of[0] >= pattern.threshold;
    }
    return differs == 0;
  }
  for (int64_t k = 1; k < lanes; ++k) {
    const uint8_t* of = codes + k * pattern.lane_stride;
    for (int64_t line = 0; line < pattern.lines; ++line) differs |= of[line] ^ codes[line];
  }
  for (int64_t line = 0; line < pattern.lines; ++line) {
    exists[line] = codes[line] >= pattern.threshold;
  }
  return differs == 0;
}

}  // namespace

bool MakeBlockPlan(const BlockPattern& pattern, BlockPlan* plan) {
  plan->lanes = pattern.lanes;
  plan->lines = pattern.lines;
  plan->lane_stride = pattern.lane_stride;
  plan->line_stride = pattern.line_stride;
  std::vector<uint8_t> exists(pattern.lines);
  const int64_t groups = (pattern.lanes + kBlockLanes - 1) / kBlockLanes;
  for (int64_t group = 0; group < groups; ++group) {
    if (!BlocksOf(pattern, group, exists.data())) return false;
    plan->first_block.push_back(static_cast<int32_t>(plan->blocks()));
    for (int64_t line = 0; line < pattern.lines; ++line) {
      if (exists[line]) plan->line.push_back(static_cast<int32_t>(line));
    }
  }
  plan->first_block.push_back(static_cast<int32_t>(plan->blocks()));
  return true;
}

void GatherBlocks(const BlockPlan& plan, const float* theta, int64_t first_group,
                  int64_t last_group, float* values) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const int64_t lanes = plan.lanes_of(group);
    const float* from = theta + group * kBlockLanes * plan.lane_stride;
    const int64_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (lanes < kBlockLanes) {
      std::fill(values + begin * kBlockLanes, values + end * kBlockLanes, 0.0f);
    }
    if (plan.lane_stride == 1) {
      for (int64_t b = begin; b < end; ++b) {
        const float* block = from + plan.line[b] * plan.line_stride;
        std::copy(block, block + lanes, values + b * kBlockLanes);
      }
      continue;
    }
    for (int64_t k = 0; k < lanes; ++k) {
      const float* of_lane = from + k * plan.lane_stride;
      for (int64_t b = begin; b < end; ++b) {
        values[b * kBlockLanes + k] = of_lane[plan.line[b]];
      }
    }
  }
}

void ScatterBlocks(const BlockPlan& plan, const float* values, int64_t first_group,
                   int64_t last_group, float* theta) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const int64_t lanes = plan.lanes_of(group);
    float* to = theta + group * kBlockLanes * plan.lane_stride;
    const int64_t begin = plan.first_block[group], end = plan.first_block[group + 1];
    if (plan.lane_stride == 1) {
      for (int64_t b = begin; b < end; ++b) {
        const float* block = values + b * kBlockLanes;
        std::copy(block, block + lanes, to + plan.line[b] * plan.line_stride);
      }
      continue;
    }
    for (int64_t k = 0; k < lanes; ++k) {
      float* of_lane = to + k * plan.lane_stride;
      for (int64_t b = begin; b < end; ++b) {
        of_lane[plan.line[b]] = values[b * kBlockLanes + k];
      }
    }
  }
}

}  // namespace topkast
