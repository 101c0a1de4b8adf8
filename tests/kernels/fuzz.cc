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

#include "conv_slab.h"
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

// A random convolution, of some sizes, in images so small that each sum is checked.
struct RandomConv {
  topkast::Window window;
  int64_t images, inputs, outputs, sizes[2], targets[2], before[2];
  std::vector<float> x, dy, theta;
  std::vector<uint8_t> codes;

  int64_t weights() const { return window[0].size * window[1].size * inputs * outputs; }
};

RandomConv MakeRandomConv(std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  RandomConv conv;
  conv.images = 1 + below(35);
  conv.inputs = 1 + below(40);
  conv.outputs = 1 + below(40);
  for (int axis = 0; axis < 2; ++axis) {
    topkast::WindowAxis& window = conv.window[axis];
    window = {1 + below(4), 1 + below(3), 1 + below(3)};
    conv.sizes[axis] = 1 + below(9);
    conv.before[axis] = below(static_cast<int>(window.reach()));
    const int64_t after = below(static_cast<int>(window.reach()));
    const int64_t room = conv.sizes[axis] + conv.before[axis] + after - window.reach();
    conv.targets[axis] = room < 0 ? 0 : room / window.stride + 1;
  }
  const int densities[] = {0, 1, 5, 30, 100};
  const int bwd = densities[below(5)], fwd = std::min(bwd, densities[below(5)]);
  std::normal_distribution<float> normal;
  conv.x.resize(conv.images * conv.sizes[0] * conv.sizes[1] * conv.inputs);
  conv.dy.resize(conv.images * conv.targets[0] * conv.targets[1] * conv.outputs);
  conv.theta.resize(conv.weights());
  conv.codes.resize(conv.weights());
  for (auto* values : {&conv.x, &conv.dy, &conv.theta}) {
    for (float& value : *values) value = normal(random);
  }
  for (uint8_t& code : conv.codes) {
    const int64_t draw = below(100);
    code = draw < fwd ? 2 : draw < bwd ? 1 : 0;
  }
  return conv;
}

topkast::ConvShape ShapeOf(const RandomConv& conv, bool transpose) {
  const auto axis_of = transpose ? topkast::GradientAxis : topkast::ForwardAxis;
  topkast::ConvAxis axes[2];
  for (int axis = 0; axis < 2; ++axis) {
    axes[axis] = axis_of(conv.window[axis], conv.sizes[axis], conv.targets[axis],
                         conv.before[axis]);
  }
  return {conv.images, axes[0], axes[1], transpose ? conv.outputs : conv.inputs,
          transpose ? conv.inputs : conv.outputs};
}

// The forward pass, or the input gradient.
std::vector<float> Convolved(const Kernels& kernels, const RandomConv& conv,
                             bool transpose, int64_t parts) {
  topkast::ConvProduct product;
  product.kernels = kernels.conv;
  product.shape = ShapeOf(conv, transpose);
  product.layout = topkast::LayoutOf(product.shape, kernels.conv->lanes, parts);
  const topkast::ConvWeight weight = {conv.codes.data(),
                                      conv.window[0].size * conv.window[1].size,
                                      conv.inputs, conv.outputs};
  std::vector<std::vector<topkast::ConvEntry>> entries;
  for (const topkast::Phase& y : product.shape.y.phases) {
    for (const topkast::Phase& x : product.shape.x.phases) {
      const auto plan = std::make_shared<const Plan>(topkast::MakeConvPlan(
          weight, topkast::TapsOf(conv.window, y, x),
          transpose ? topkast::ConvPlanKind::kInputGradient
                    : topkast::ConvPlanKind::kForward));
      topkast::ConvProduct::Part part = {
          &y, &x, topkast::Place(product.shape, product.layout, y, x, plan)};
      std::vector<topkast::ConvEntry> of;
      for (int64_t k = 0; k < plan->entries(); ++k) {
        of.push_back({part.placed.offsets[plan->col[k]],
                      conv.theta[plan->places[plan->source[k]]]});
      }
      entries.push_back(std::move(of));
      product.parts.push_back(part);
    }
  }
  for (size_t k = 0; k < entries.size(); ++k) product.parts[k].entries = entries[k].data();
  std::vector<float> target(transpose ? conv.x.size() : conv.dy.size());
  const auto scratch = Aligned(product.scratch_floats());
  const float* source = transpose ? conv.dy.data() : conv.x.data();
  for (int64_t s = 0; s < product.layout.slabs(product.shape); ++s) {
    topkast::MultiplySlab(product, product.layout.SlabAt(product.shape, s), source,
                          target.data(), scratch.get());
  }
  return target;
}

// The weight gradient; NaN outside B.
std::vector<float> WeightGradientOf(const Kernels& kernels, const RandomConv& conv,
                                    std::mt19937& random) {
  topkast::ConvGradient of;
  of.kernels = kernels.conv;
  of.shape = ShapeOf(conv, false);
  of.layout = topkast::LayoutOf(of.shape, kernels.conv->lanes, 1);
  const topkast::Phase& y = of.shape.y.phases[0];
  const topkast::Phase& x = of.shape.x.phases[0];
  const int64_t count = conv.window[0].size * conv.window[1].size;
  const auto plan = std::make_shared<const Plan>(topkast::MakeConvPlan(
      {conv.codes.data(), count, conv.inputs, conv.outputs},
      topkast::TapsOf(conv.window, y, x), topkast::ConvPlanKind::kWeightGradient));
  of.placed = topkast::Place(of.shape, of.layout, y, x, plan);
  std::vector<float> sums(plan->entries());
  const auto packed = Aligned(of.slab_floats());
  const int64_t runs = plan->runs();
  for (int64_t s = 0; s < of.layout.slabs(of.shape); ++s) {
    const topkast::Slab slab = of.layout.SlabAt(of.shape, s);
    topkast::PackSlab(of, slab, conv.x.data(), conv.dy.data(), packed.get());
    const int64_t middle = static_cast<int64_t>(random() % (runs + 1));
    topkast::AccumulateSlab(of, slab, packed.get(), 0, middle, sums.data());
    topkast::AccumulateSlab(of, slab, packed.get(), middle, runs, sums.data());
  }
  std::vector<float> gradient(conv.weights(), std::nanf(""));
  for (size_t k = 0; k < sums.size(); ++k) {
    gradient[plan->places[plan->source[k]]] = sums[k];
  }
  return gradient;
}

void CheckConv(const Kernels& kernels, std::mt19937& random) {
  const RandomConv conv = MakeRandomConv(random);
  if (conv.dy.empty()) return;
  const int64_t inputs = conv.inputs, outputs = conv.outputs;
  std::vector<double> y(conv.dy.size()), dx(conv.x.size()), dtheta(conv.theta.size());
  for (int64_t n = 0; n < conv.images; ++n)
  for (int64_t r = 0; r < conv.targets[0]; ++r)
  for (int64_t c = 0; c < conv.targets[1]; ++c)
  for (int64_t k = 0; k < conv.window[0].size; ++k)
  for (int64_t l = 0; l < conv.window[1].size; ++l) {
    const int64_t row =
        r * conv.window[0].stride + k * conv.window[0].dilation - conv.before[0];
    const int64_t col =
        c * conv.window[1].stride + l * conv.window[1].dilation - conv.before[1];
    if (row < 0 || row >= conv.sizes[0] || col < 0 || col >= conv.sizes[1]) continue;
    const int64_t from = ((n * conv.sizes[0] + row) * conv.sizes[1] + col) * inputs;
    const int64_t to = ((n * conv.targets[0] + r) * conv.targets[1] + c) * outputs;
    for (int64_t i = 0; i < inputs; ++i) {
      const int64_t place = ((k * conv.window[1].size + l) * inputs + i) * outputs;
      for (int64_t o = 0; o < outputs; ++o) {
        const double dyo = conv.dy[to + o];
        dtheta[place + o] += conv.x[from + i] * dyo;
        if (conv.codes[place + o] < 2) continue;
        y[to + o] += static_cast<double>(conv.x[from + i]) * conv.theta[place + o];
        dx[from + i] += dyo * conv.theta[place + o];
      }
    }
  }
  const int64_t parts = 1 + random() % 9;
  const auto forward = Convolved(kernels, conv, false, parts);
  const auto backward = Convolved(kernels, conv, true, parts);
  const auto gradient = WeightGradientOf(kernels, conv, random);
  for (size_t k = 0; k < y.size(); ++k) Expect(forward[k], y[k], "convolution", kernels.name);
  for (size_t k = 0; k < dx.size(); ++k) {
    Expect(backward[k], dx[k], "input gradient of a convolution", kernels.name);
  }
  for (size_t k = 0; k < dtheta.size(); ++k) {
    if (std::isnan(gradient[k]) != (conv.codes[k] == 0)) {
      std::printf("gradient of entry %zu with code %d\n", k, conv.codes[k]);
      std::exit(1);
    }
    if (conv.codes[k]) {
      Expect(gradient[k], dtheta[k], "weight gradient of a convolution", kernels.name);
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
      CheckConv(*kernels, random);
    }
  }
  std::printf("%d products agree\n", checked);
  return 0;
}
