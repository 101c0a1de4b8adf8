// The products of a weight whose sets are whole blocks.
#include "fuzz.h"

namespace {

using topkast::BlockKernels;
using topkast::BlockPattern;
using topkast::BlockPlan;
using topkast::kBlockLanes;

// A weight of lanes x lines, and activations of both sides.
struct Case {
  int64_t positions, lanes, lines;
  bool lanes_are_outputs;
  std::vector<float> of_lanes, of_lines, theta;
  std::vector<uint8_t> codes;

  int64_t lane_stride() const { return lanes_are_outputs ? 1 : lines; }
  int64_t line_stride() const { return lanes_are_outputs ? lanes : 1; }
  int64_t place(int64_t lane, int64_t line) const {
    return lane * lane_stride() + line * line_stride();
  }
  BlockPlan PlanOf(uint8_t threshold, const char* name) const {
    const BlockPattern pattern = {codes.data(),  lanes,         lines,
                                  lane_stride(), line_stride(), threshold};
    BlockPlan plan;
    Expect(topkast::MakeBlockPlan(pattern, &plan), 1, "whole blocks", name);
    return plan;
  }
};

void CheckProduct(const BlockKernels& kernels, const Case& of, bool to_lanes,
                  const char* name) {
  const BlockPlan plan = of.PlanOf(2, name);
  const auto values = Aligned(plan.blocks() * kBlockLanes);
  topkast::GatherBlocks(plan, of.theta.data(), 0, plan.groups(), values.get());
  const std::vector<float>& x = to_lanes ? of.of_lines : of.of_lanes;
  const int64_t from = to_lanes ? of.lines : of.lanes;
  const int64_t to = to_lanes ? of.lanes : of.lines;
  std::vector<float> y(of.positions * to);
  const auto scratch = Aligned(kernels.scratch(plan));
  for (int64_t p = 0; p < of.positions; p += kernels.panel) {
    (to_lanes ? kernels.to_lanes : kernels.to_lines)(
        plan, values.get(), x.data() + p * from,
        std::min(kernels.panel, of.positions - p), y.data() + p * to, scratch.get());
  }
  for (int64_t p = 0; p < of.positions; ++p) {
    for (int64_t c = 0; c < to; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < from; ++k) {
        const int64_t place = to_lanes ? of.place(c, k) : of.place(k, c);
        if (of.codes[place] == 2) {
          sum += static_cast<double>(x[p * from + k]) * of.theta[place];
        }
      }
      Expect(y[p * to + c], sum, "product of blocks", name);
    }
  }
}

void CheckGradient(const BlockKernels& kernels, const Case& of, int64_t middle,
                   const char* name) {
  const BlockPlan plan = of.PlanOf(1, name);
  const auto sums = Aligned(plan.blocks() * kBlockLanes);
  std::fill_n(sums.get(), plan.blocks() * kBlockLanes, 0.0f);
  const auto panels = Aligned(kernels.scratch(plan));
  middle %= plan.groups() + 1;  // as of two threads
  for (int64_t p = 0; p < of.positions; p += kernels.panel) {
    const int64_t live = std::min(kernels.panel, of.positions - p);
    kernels.pack(of.of_lines.data() + p * of.lines, live, of.lines, panels.get());
    const float* of_lanes = of.of_lanes.data() + p * of.lanes;
    kernels.accumulate(plan, 0, middle, of_lanes, panels.get(), live, sums.get());
    kernels.accumulate(plan, middle, plan.groups(), of_lanes, panels.get(), live,
                       sums.get());
  }
  std::vector<float> gradient(of.codes.size());
  topkast::ScatterBlocks(plan, sums.get(), 0, plan.groups(), gradient.data());
  for (int64_t lane = 0; lane < of.lanes; ++lane) {
    for (int64_t line = 0; line < of.lines; ++line) {
      double sum = 0;
      for (int64_t p = 0; p < of.positions && of.codes[of.place(lane, line)] > 0; ++p) {
        sum += static_cast<double>(of.of_lanes[p * of.lanes + lane]) *
               of.of_lines[p * of.lines + line];
      }
      Expect(gradient[of.place(lane, line)], sum, "weight gradient of blocks", name);
    }
  }
}

}  // namespace

void CheckBlocks(const topkast::Kernels& kernels, std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  Case of;
  of.positions = 1 + below(150);
  of.lanes = 1 + below(150);
  of.lines = 1 + below(150);
  of.lanes_are_outputs = below(2) == 0;
  std::normal_distribution<float> normal;
  of.of_lanes.resize(of.positions * of.lanes);
  of.of_lines.resize(of.positions * of.lines);
  of.theta.resize(of.lanes * of.lines);
  for (auto* values : {&of.of_lanes, &of.of_lines, &of.theta}) {
    for (float& value : *values) value = normal(random);
  }
  const int densities[] = {0, 1, 5, 30, 100};
  const int bwd = densities[below(5)], fwd = std::min(bwd, densities[below(5)]);
  of.codes.resize(of.theta.size());
  for (int64_t first = 0; first < of.lanes; first += kBlockLanes) {
    for (int64_t line = 0; line < of.lines; ++line) {
      const int64_t draw = below(100);
      const uint8_t code = draw < fwd ? 2 : draw < bwd ? 1 : 0;
      for (int64_t lane = first; lane < std::min(of.lanes, first + kBlockLanes); ++lane) {
        of.codes[of.place(lane, line)] = code;
      }
    }
  }
  CheckProduct(*kernels.blocks, of, true, kernels.name);
  CheckProduct(*kernels.blocks, of, false, kernels.name);
  CheckGradient(*kernels.blocks, of, below(20), kernels.name);
}
