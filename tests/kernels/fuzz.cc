// Random products by all kernels that the machine runs, against sums in double precision;
// and random selections and updates, against their definitions.
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

#include "entrywise.h"
#include "kernels.h"
#include "select.h"

namespace {

using topkast::Entrywise;
using topkast::Step;

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

std::vector<float> ValuesOf(const Plan& plan, const std::vector<float>& theta) {
  std::vector<float> values;
  for (int32_t place : plan.source) values.push_back(theta[place]);
  return values;
}

void Expect(double found, double expected, const char* what, const char* name) {
  if (std::abs(found - expected) <= 1e-3 * (1 + std::abs(expected))) return;
  std::printf("%s of %s: %g, expected %g\n", what, name, found, expected);
  std::exit(1);
}

void Check(const Kernels& kernels, std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  const int64_t positions = 1 + below(300), inputs = 1 + below(260);
  const int64_t outputs = 1 + below(260);
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
  const Plan forward = topkast::MakePlan({of, outputs, inputs, 1, outputs, 2},
                                         topkast::kMultiplyTile);
  const Plan backward = topkast::MakePlan({of, inputs, outputs, outputs, 1, 2},
                                          topkast::kMultiplyTile);
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
  const std::vector<float> y = multiply(forward, x), dx = multiply(backward, dy);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        if (codes[i * outputs + o] == 2) {
          sum += static_cast<double>(x[p * inputs + i]) * theta[i * outputs + o];
        }
      }
      Expect(y[p * outputs + o], sum, "output", kernels.name);
    }
    for (int64_t i = 0; i < inputs; ++i) {
      double sum = 0;
      for (int64_t o = 0; o < outputs; ++o) {
        if (codes[i * outputs + o] == 2) {
          sum += static_cast<double>(dy[p * outputs + o]) * theta[i * outputs + o];
        }
      }
      Expect(dx[p * inputs + i], sum, "input gradient", kernels.name);
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

// The codes of a selection are those of a stable sort by magnitude.
void CheckSelection(const Entrywise& passes, std::mt19937& random) {
  const int64_t size = 1 + static_cast<int64_t>(random() % 9000);
  std::normal_distribution<float> normal;
  const bool ties = random() % 2;
  std::vector<float> theta(size);
  for (float& value : theta) {
    value = normal(random);
    if (ties) value = std::round(2 * value);
  }
  int64_t kept_a = static_cast<int64_t>(random() % (size + 1));
  int64_t kept_b = random() % 4 ? static_cast<int64_t>(random() % (size + 1)) : size;
  if (kept_a > kept_b) std::swap(kept_a, kept_b);
  std::vector<uint8_t> codes(size);
  if (!topkast::SelectLargest(passes, theta.data(), size, kept_a, kept_b, codes.data())) {
    Expect(1, 0, "a NaN", passes.name);
  }
  std::vector<int64_t> order(size);
  for (int64_t i = 0; i < size; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    return std::abs(theta[i]) > std::abs(theta[j]);
  });
  for (int64_t i = 0; i < size; ++i) {
    Expect(codes[order[i]], i < kept_a ? 2 : i < kept_b ? 1 : 0, "code", passes.name);
  }
}

void CheckEntrywise(const Entrywise& passes, std::mt19937& random) {
  const int64_t size = static_cast<int64_t>(random() % 300);
  std::normal_distribution<float> normal;
  std::vector<float> x(size), y(size), to(size);
  std::vector<uint8_t> codes(size);
  for (auto* values : {&x, &y}) {
    for (float& value : *values) value = normal(random);
  }
  for (uint8_t& code : codes) code = random() % 3;
  passes.step(Step::kSubtract, codes.data(), y.data(), x.data(), to.data(), size);
  for (int64_t i = 0; i < size; ++i) {
    Expect(to[i], codes[i] ? x[i] - y[i] : x[i], "step", passes.name);
  }
  passes.mask(codes.data(), x.data(), to.data(), size);
  for (int64_t i = 0; i < size; ++i) {
    Expect(to[i], codes[i] ? x[i] : 0, "masked", passes.name);
  }
  const float factors[] = {0, 2, 1};  // rate 2, density 1/2
  double sum = 0;
  passes.exploration_gradient(codes.data(), x.data(), 2, 0.5f, 3, to.data(), size);
  for (int64_t i = 0; i < size; ++i) {
    Expect(to[i], 3 * factors[codes[i]] * x[i], "exploration gradient", passes.name);
    sum += factors[codes[i]] * static_cast<double>(x[i]) * x[i];
  }
  Expect(passes.exploration_sum(codes.data(), x.data(), 2, 0.5f, size), sum,
         "exploration sum", passes.name);
}

}  // namespace

int main(int, char** argv) {
  std::mt19937 random(7);
  int checked = 0;
  for (const char* name : {"avx512", "avx2", "portable"}) {
    const Kernels* kernels = topkast::FindKernels(name);
    if (kernels == nullptr) continue;
    const Entrywise& passes = *topkast::FindEntrywise(name);
    for (int k = 0; k < std::atoi(argv[1]); ++k, ++checked) {
      Check(*kernels, random);
      CheckSelection(passes, random);
      CheckEntrywise(passes, random);
    }
  }
  std::printf("%d products agree\n", checked);
  return 0;
}
