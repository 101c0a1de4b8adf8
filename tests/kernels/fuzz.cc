// Random products by all kernels that the machine runs, against sums in double precision.
//
// Compiled with sanitizers by test_sanitizers.py. Buffers have exactly the size that the
// kernels may touch, so that a sanitizer sees each access beyond.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "generated.h"
#include "kernels.h"

namespace {

using topkast::Generated;
using topkast::Kernels;
using topkast::Plan;

struct Free {
  void operator()(float* data) const { std::free(data); }
};

// Aligned memory without a byte more than is asked for.
std::unique_ptr<float, Free> Aligned(int64_t floats) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, std::max<int64_t>(1, floats) * sizeof(float))) abort();
  return std::unique_ptr<float, Free>(static_cast<float*>(data));
}

// The values of a plan or of generated code; no more may be read.
template <typename Order>
std::vector<float> ValuesOf(const Order& order, const std::vector<float>& theta) {
  std::vector<float> values;
  for (int32_t place : order.source) values.push_back(theta[place]);
  values.shrink_to_fit();
  return values;
}

void Expect(double found, double expected, const char* what, const char* name) {
  if (std::abs(found - expected) <= 1e-3 * (1 + std::abs(expected))) return;
  std::printf("%s of %s: %g, expected %g\n", what, name, found, expected);
  std::exit(1);
}

void Check(const Kernels& kernels, std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  // Now and then more than a tile of columns, and than the groups that are done at once.
  const int longest = below(16) == 0 ? 1200 : 260;
  const int64_t positions = 1 + below(longest == 260 ? 300 : 20);
  const int64_t inputs = 1 + below(longest), outputs = 1 + below(longest);
  const int densities[] = {0, 1, 5, 30, 100};
  const int bwd = densities[below(5)], fwd = std::min(bwd, densities[below(5)]);
  std::normal_distribution<float> normal;
  std::vector<float> x(positions * inputs), dy(positions * outputs);
  std::vector<float> theta(inputs * outputs);
  std::vector<uint8_t> codes(inputs * outputs);
  for (auto* values : {&x, &dy, &theta}) {
    for (float& value : *values) value = normal(random);
  }
  for (uint8_t& code : codes) {
    const int64_t draw = below(100);
    code = draw < fwd ? 2 : draw < bwd ? 1 : 0;
  }

  const uint8_t* of = codes.data();
  const topkast::Pattern by_output = {of, outputs, inputs, 1, outputs, 2};
  const topkast::Pattern by_input = {of, inputs, outputs, outputs, 1, 2};
  const Plan forward = topkast::MakePlan(by_output, topkast::kMultiplyTile);
  const Plan backward = topkast::MakePlan(by_input, topkast::kMultiplyTile);
  const Plan gradient = topkast::MakePlan({of, inputs, outputs, outputs, 1, 1},
                                          topkast::kAccumulateTile);

  auto multiply = [&](const Plan& plan, const std::vector<float>& from) {
    std::vector<float> to(positions * plan.rows);
    const std::vector<float> values = ValuesOf(plan, theta);
    const auto scratch = Aligned(kernels.scratch(plan));
    for (int64_t p = 0; p < positions; p += kernels.panel) {
      kernels.multiply(plan, values.data(), from.data() + p * plan.cols,
                       std::min(kernels.panel, positions - p),
                       to.data() + p * plan.rows, scratch.get());
    }
    return to;
  };
  auto generated = [&](const topkast::Pattern& pattern, const std::vector<float>& from) {
    const auto code = topkast::Generate(pattern);
    Expect(code != nullptr, 1, "code", kernels.name);
    std::vector<float> to(positions * pattern.rows);
    const std::vector<float> values = ValuesOf(*code, theta);
    const auto scratch = Aligned(kernels.generated_scratch(*code));
    const int64_t at_once = topkast::kCodeLanes * (1 + below(code->panels()));
    for (int64_t p = 0; p < positions; p += at_once) {
      kernels.multiply_generated(*code, values.data(), from.data() + p * pattern.cols,
                                 std::min(at_once, positions - p),
                                 to.data() + p * pattern.rows, scratch.get());
    }
    return to;
  };
  const bool has_code = kernels.multiply_generated != nullptr;
  const std::vector<float> y = multiply(forward, x), dx = multiply(backward, dy);
  const std::vector<float> code_y = has_code ? generated(by_output, x) : y;
  const std::vector<float> code_dx = has_code ? generated(by_input, dy) : dx;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        if (codes[i * outputs + o] == 2) {
          sum += static_cast<double>(x[p * inputs + i]) * theta[i * outputs + o];
        }
      }
      Expect(y[p * outputs + o], sum, "output", kernels.name);
      Expect(code_y[p * outputs + o], sum, "output by generated code", kernels.name);
    }
    for (int64_t i = 0; i < inputs; ++i) {
      double sum = 0;
      for (int64_t o = 0; o < outputs; ++o) {
        if (codes[i * outputs + o] == 2) {
          sum += static_cast<double>(dy[p * outputs + o]) * theta[i * outputs + o];
        }
      }
      Expect(dx[p * inputs + i], sum, "input gradient", kernels.name);
      Expect(code_dx[p * inputs + i], sum, "input gradient by generated code",
             kernels.name);
    }
  }

  std::vector<float> sums(gradient.entries());
  const auto of_x = Aligned(inputs * kernels.block), of_dy = Aligned(outputs * kernels.block);
  for (int64_t p = 0; p < positions; p += kernels.block) {
    const int64_t live = std::min(kernels.block, positions - p);
    kernels.pack(x.data() + p * inputs, live, inputs, of_x.get());
    kernels.pack(dy.data() + p * outputs, live, outputs, of_dy.get());
    const int64_t middle = below(static_cast<int>(gradient.runs()) + 1);  // as of two threads
    kernels.accumulate(gradient, 0, middle, of_x.get(), of_dy.get(), sums.data());
    kernels.accumulate(gradient, middle, gradient.runs(), of_x.get(), of_dy.get(),
                       sums.data());
  }
  int64_t in_b = 0;
  for (uint8_t code : codes) in_b += code > 0;
  Expect(static_cast<double>(gradient.entries()), static_cast<double>(in_b), "entries",
         kernels.name);
  for (int64_t k = 0; k < gradient.entries(); ++k) {
    const int64_t i = gradient.source[k] / outputs, o = gradient.source[k] % outputs;
    double sum = 0;
    for (int64_t p = 0; p < positions; ++p) {
      sum += static_cast<double>(x[p * inputs + i]) * dy[p * outputs + o];
    }
    Expect(sums[k], sum, "weight gradient", kernels.name);
  }
}

// The weight gradient from the entries of sparse activations.
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

}  // namespace

int main(int, char** argv) {
  std::mt19937 random(7);
  int checked = 0;
  for (const char* name : {"avx512", "avx2", "portable"}) {
    const Kernels* kernels = topkast::FindKernels(name);
    if (kernels == nullptr) continue;
    for (int k = 0; k < std::atoi(argv[1]); ++k, ++checked) {
      Check(*kernels, random);
      CheckActivations(*kernels, random);
    }
  }
  std::printf("%d products agree\n", checked);
  return 0;
}
