// The weight gradient from the entries of sparse activations.
#include "fuzz.h"

using topkast::Kernels;
using topkast::Plan;

void CheckActivations(const Kernels& kernels, std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  const int64_t positions = 1 + below(400), channels = 1 + below(100);
  const int64_t outputs = 1 + below(200);
  const int64_t density = std::vector<int64_t>{0, 1, 10, 100}[below(4)];
  std::normal_distribution<float> normal;
  std::vector<float> x(positions * channels), dy(positions * outputs);
  for (float& value : x) value = below(100) < density ? normal(random) : 0.0f;
  for (float& value : dy) value = normal(random);

  Plan plan;
  plan.rows = channels;
  plan.cols = positions;
  plan.tile = topkast::kCompressTile;
  std::vector<float> values;
  std::vector<int32_t> count(channels), starts, order;
  for (int64_t p = 0; p < positions; p += plan.tile) {
    const int64_t live = std::min<int64_t>(plan.tile, positions - p);
    const float* from = x.data() + p * channels;
    kernels.count_entries(from, live, channels, count.data());
    topkast::OrderByCount(count, starts, order);
    plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
    std::vector<int32_t> first(channels);
    int32_t entries = static_cast<int32_t>(plan.entries());
    for (const int32_t channel : order) {
      plan.row.push_back(channel);
      plan.first_entry.push_back(first[channel] = entries);
      entries += count[channel];
    }
    plan.col.resize(entries);
    values.resize(entries);
    kernels.copy_entries(from, live, channels, first.data(), plan.col.data(),
                         values.data());
  }
  plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
  plan.first_entry.push_back(static_cast<int32_t>(plan.entries()));

  std::vector<float> gradient(channels * outputs);
  const auto sums = Aligned(channels * kernels.panel);
  const auto errors = Aligned(plan.tile * kernels.panel);
  for (int64_t o = 0; o < outputs; o += kernels.panel) {
    const int64_t width = std::min(kernels.panel, outputs - o);
    for (int tile = 0; tile * plan.tile < positions; ++tile) {
      const int64_t first = tile * plan.tile;
      for (int64_t p = 0; p < std::min<int64_t>(plan.tile, positions - first); ++p) {
        float* to = errors.get() + p * kernels.panel;
        std::fill(to, to + kernels.panel, 0.0f);
        std::copy_n(dy.data() + (first + p) * outputs + o, width, to);
      }
      kernels.multiply_tile(plan, tile, tile == 0, values.data(), errors.get(),
                            sums.get());
    }
    for (int64_t c = 0; c < channels; ++c) {
      std::copy_n(sums.get() + c * kernels.panel, width,
                  gradient.data() + c * outputs + o);
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (int64_t p = 0; p < positions; ++p) {
        sum += static_cast<double>(x[p * channels + c]) * dy[p * outputs + o];
      }
      Expect(gradient[c * outputs + o], sum, "gradient of activations", kernels.name);
    }
  }
}
