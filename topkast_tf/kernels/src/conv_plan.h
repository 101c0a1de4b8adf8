// The plans of a convolution: its weight as a matrix, channel by channel of the sources.
#ifndef TOPKAST_CONV_PLAN_H_
#define TOPKAST_CONV_PLAN_H_

#include <cstdint>
#include <vector>

#include "conv_geometry.h"
#include "plan.h"

namespace topkast {

// The weight of a convolution's group of channels: `taps` x `inputs` x `outputs`, the last
// the fastest. It is some of the columns of a whole weight, of taps x inputs x
// all_outputs.
struct ConvWeight {
  const uint8_t* codes;  // of the whole weight
  int64_t taps;
  int64_t inputs;
  int64_t outputs;
  int64_t first_output;
  int64_t all_outputs;
};

// The taps of a pair of phases, and their number on each axis.
struct PhaseTaps {
  std::vector<int64_t> taps;  // places in the window, rows first
  int64_t rows = 0;
  int64_t cols = 0;
};

PhaseTaps TapsOf(const Window& window, const Phase& y, const Phase& x);

enum class ConvPlanKind { kForward, kInputGradient, kWeightGradient };

// The plan of targets (rows) by sources and taps (columns, taps the fastest). Its places
// are those of the whole weight.
//
// Targets are the weight's outputs, or in the input gradient its inputs. The weight
// gradient has the forward pass's rows and columns, with the entries of B, not of A.
Plan MakeConvPlan(const ConvWeight& weight, const PhaseTaps& taps, ConvPlanKind kind);

}  // namespace topkast

#endif  // TOPKAST_CONV_PLAN_H_
