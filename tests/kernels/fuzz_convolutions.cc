// The products of a convolution.
#include "conv_slab.h"
#include "fuzz.h"

namespace {

using topkast::Kernels;
using topkast::Plan;

// A random convolution, of some sizes, in images so small that each sum is checked.
struct RandomConv {
  topkast::Window window;
  int64_t images, groups, inputs, outputs, sizes[2], targets[2], before[2];
  std::vector<float> x, dy, theta;
  std::vector<uint8_t> codes;

  int64_t taps() const { return window[0].size * window[1].size; }
  int64_t of_group() const { return inputs / groups; }
  int64_t weights() const { return taps() * of_group() * outputs; }
  topkast::ConvWeight WeightOf(int64_t group) const {
    const int64_t targets = outputs / groups;
    return {codes.data(), taps(), of_group(), targets, group * targets, outputs};
  }
};

RandomConv MakeRandomConv(std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  RandomConv conv;
  conv.images = 1 + below(35);
  conv.groups = below(2) == 0 ? 1 : 1 + below(5);
  conv.inputs = conv.groups * (1 + below(40 / static_cast<int>(conv.groups)));
  conv.outputs = conv.groups * (1 + below(40 / static_cast<int>(conv.groups)));
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
          transpose ? conv.inputs : conv.outputs, conv.groups};
}

// The forward pass of x, or the input gradient of dy, as `source`.
template <typename T>
std::vector<T> Convolved(const Kernels& kernels, const RandomConv& conv,
                         const std::vector<T>& source, bool transpose, int64_t parts) {
  topkast::ConvProduct product;
  product.kernels = kernels.conv;
  product.shape = ShapeOf(conv, transpose);
  product.layout = topkast::LayoutOf(product.shape, kernels.conv->lanes, parts);
  std::vector<std::vector<topkast::ConvEntry>> entries;
  for (const topkast::Phase& y : product.shape.y.phases) {
    for (const topkast::Phase& x : product.shape.x.phases) {
      product.parts.push_back({&y, &x, {}});
      for (int64_t group = 0; group < conv.groups; ++group) {
        const auto plan = std::make_shared<const Plan>(topkast::MakeConvPlan(
            conv.WeightOf(group), topkast::TapsOf(conv.window, y, x),
            transpose ? topkast::ConvPlanKind::kInputGradient
                      : topkast::ConvPlanKind::kForward));
        const auto placed = topkast::Place(product.shape, product.layout, y, x, plan);
        std::vector<topkast::ConvEntry> of;
        for (int64_t k = 0; k < plan->entries(); ++k) {
          of.push_back({placed.offsets[plan->col[k]],
                        conv.theta[plan->places[plan->source[k]]]});
        }
        entries.push_back(std::move(of));  // whose memory stays where it is
        product.parts.back().groups.push_back({placed, entries.back().data()});
      }
    }
  }
  std::vector<T> target(transpose ? conv.x.size() : conv.dy.size());
  const auto scratch = Aligned(product.scratch_floats());
  for (int64_t s = 0; s < product.layout.slabs(product.shape); ++s) {
    topkast::MultiplySlab(product, product.layout.SlabAt(product.shape, s), source.data(),
                          target.data(), scratch.get());
  }
  return target;
}

// The weight gradient, of single images or of pairs; NaN outside B.
template <typename T>
std::vector<float> WeightGradientOf(const Kernels& kernels, const RandomConv& conv,
                                    const std::vector<T>& activations,
                                    const std::vector<T>& errors, std::mt19937& random,
                                    const topkast::PairKernels* pairs = nullptr) {
  topkast::ConvGradient of;
  of.kernels = kernels.conv;
  of.shape = ShapeOf(conv, false);
  of.batch = conv.images;
  of.pairs = pairs;
  if (pairs != nullptr) of.shape.images = (conv.images + 1) / 2;
  of.layout = topkast::LayoutOf(of.shape, kernels.conv->lanes, 1);
  const topkast::Phase& y = of.shape.y.phases[0];
  const topkast::Phase& x = of.shape.x.phases[0];
  for (int64_t group = 0; group < conv.groups; ++group) {
    const auto plan = std::make_shared<const Plan>(topkast::MakeConvPlan(
        conv.WeightOf(group), topkast::TapsOf(conv.window, y, x),
        topkast::ConvPlanKind::kWeightGradient));
    of.placed.push_back(topkast::Place(of.shape, of.layout, y, x, plan));
  }
  std::vector<float> sums(of.entries());
  const auto packed = Aligned(of.slab_floats());
  const int64_t runs = of.runs();
  for (int64_t s = 0; s < of.layout.slabs(of.shape); ++s) {
    const topkast::Slab slab = of.layout.SlabAt(of.shape, s);
    topkast::PackSlab(of, slab, activations.data(), errors.data(), packed.get());
    const int64_t middle = static_cast<int64_t>(random() % (runs + 1));
    topkast::AccumulateSlab(of, slab, packed.get(), 0, middle, sums.data());
    topkast::AccumulateSlab(of, slab, packed.get(), middle, runs, sums.data());
  }
  std::vector<float> gradient(conv.weights(), std::nanf(""));
  const float* sum = sums.data();
  for (const topkast::PlacedPlan& group : of.placed) {
    for (int32_t source : group.plan->source) {
      gradient[group.plan->places[source]] = *sum++;
    }
  }
  return gradient;
}

// In bfloat16: as in floats, and rounded.
void CheckInBfloat16(const Kernels& kernels, const RandomConv& conv, int64_t parts,
                     std::mt19937& random) {
  const auto x = Halves(conv.x), dy = Halves(conv.dy);
  const std::vector<float> wide_x = Floats(x), wide_dy = Floats(dy);
  ExpectRounded(Convolved(kernels, conv, x, false, parts),
                Convolved(kernels, conv, wide_x, false, parts), "convolution in bfloat16",
                kernels.name);
  ExpectRounded(Convolved(kernels, conv, dy, true, parts),
                Convolved(kernels, conv, wide_dy, true, parts),
                "input gradient of a convolution in bfloat16", kernels.name);
  const auto found = WeightGradientOf(kernels, conv, x, dy, random);
  const auto expected = WeightGradientOf(kernels, conv, wide_x, wide_dy, random);
  for (size_t k = 0; k < found.size(); ++k) {
    if (conv.codes[k] && found[k] != expected[k]) {
      Expect(found[k], std::nan(""), "weight gradient in bfloat16", kernels.name);
    }
  }
  const topkast::PairKernels* pairs = topkast::FindPairKernels(kernels);
  if (pairs == nullptr || conv.images < 2) return;
  const auto of_pairs = WeightGradientOf(kernels, conv, x, dy, random, pairs);
  for (size_t k = 0; k < found.size(); ++k) {
    if (conv.codes[k]) {
      Expect(of_pairs[k], expected[k], "weight gradient of pairs of images", kernels.name);
    }
  }
}

}  // namespace

void CheckConvolution(const Kernels& kernels, std::mt19937& random) {
  const RandomConv conv = MakeRandomConv(random);
  if (conv.dy.empty()) return;
  const int64_t inputs = conv.inputs, outputs = conv.outputs;
  const int64_t sources = conv.of_group(), targets = outputs / conv.groups;
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
      const int64_t group = i / sources;
      const int64_t place =
          ((k * conv.window[1].size + l) * sources + i % sources) * outputs;
      for (int64_t o = group * targets; o < (group + 1) * targets; ++o) {
        const double dyo = conv.dy[to + o];
        dtheta[place + o] += conv.x[from + i] * dyo;
        if (conv.codes[place + o] < 2) continue;
        y[to + o] += static_cast<double>(conv.x[from + i]) * conv.theta[place + o];
        dx[from + i] += dyo * conv.theta[place + o];
      }
    }
  }
  const int64_t parts = 1 + random() % 9;
  const auto forward = Convolved(kernels, conv, conv.x, false, parts);
  const auto backward = Convolved(kernels, conv, conv.dy, true, parts);
  const auto gradient = WeightGradientOf(kernels, conv, conv.x, conv.dy, random);
  CheckInBfloat16(kernels, conv, parts, random);
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
