// The products of a matrix: forward pass, input gradient, and weight gradient on B.
#include "fuzz.h"
#include "generated.h"

namespace {

using topkast::Generated;
using topkast::Kernels;

std::vector<float> ValuesOf(const PlacedPlan& plan, const std::vector<float>& theta) {
  std::vector<float> values;
  for (int32_t place : plan.source) values.push_back(theta[place]);
  return values;
}

}  // namespace

void CheckProducts(const Kernels& kernels, std::mt19937& random) {
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
  const PlacedPlan forward(by_output, topkast::kMultiplyTile);
  const PlacedPlan backward(by_input, topkast::kMultiplyTile);
  const PlacedPlan gradient({of, inputs, outputs, outputs, 1, 1},
                                          topkast::kAccumulateTile);

  auto multiply = [&](const PlacedPlan& plan, const std::vector<float>& from) {
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
    const auto code = topkast::Generate(pattern, true);
    Expect(code != nullptr, 1, "code", kernels.name);
    std::vector<float> to(positions * pattern.rows);
    std::vector<float> values(code->entries());
    const int64_t middle = below(static_cast<int>(code->groups) + 1);  // as of two threads
    kernels.gather_generated(*code, theta.data(), 0, middle, values.data());
    kernels.gather_generated(*code, theta.data(), middle, code->groups, values.data());
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
