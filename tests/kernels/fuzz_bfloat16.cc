// Activations in bfloat16: the bits of the kernels for floats, rounded once.
#include <cstring>

#include "fuzz.h"
#include "generated.h"

namespace {

using topkast::Bfloat16;
using topkast::Kernels;

// A weight of a matrix, and activations and errors of some positions.
struct RandomMatrix {
  int64_t positions, inputs, outputs;
  std::vector<Bfloat16> x, dy;
  std::vector<float> theta;
  std::vector<uint8_t> codes;
};

RandomMatrix MakeRandomMatrix(std::mt19937& random) {
  auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  RandomMatrix of;
  of.positions = 1 + below(600);
  of.inputs = 1 + below(130);
  of.outputs = 1 + below(130);
  const int64_t density = std::vector<int64_t>{0, 1, 10, 40, 100}[below(5)];
  std::normal_distribution<float> normal;
  std::vector<float> x(of.positions * of.inputs), dy(of.positions * of.outputs);
  of.theta.resize(of.inputs * of.outputs);
  for (auto* values : {&x, &dy, &of.theta}) {
    for (float& value : *values) value = below(3) ? normal(random) : 0.0f;
  }
  of.x = Halves(x);
  of.dy = Halves(dy);
  for (size_t k = 0; k < of.theta.size(); ++k) {
    of.codes.push_back(below(100) < density ? 1 + below(2) : 0);
  }
  return of;
}

// Positions by the kernels of a type.
template <typename T>
std::vector<T> Multiplied(const Kernels& kernels, const PlacedPlan& plan,
                          const std::vector<float>& values, const std::vector<T>& from,
                          int64_t positions) {
  std::vector<T> to(positions * plan.rows);
  const auto scratch = Aligned(kernels.scratch(plan));
  for (int64_t p = 0; p < positions; p += kernels.panel) {
    kernels.multiply_of(from.data())(plan, values.data(), from.data() + p * plan.cols,
                                     std::min(kernels.panel, positions - p),
                                     to.data() + p * plan.rows, scratch.get());
  }
  return to;
}

template <typename T>
std::vector<T> Generated(const Kernels& kernels, const topkast::Generated& code,
                         const std::vector<float>& values, const std::vector<T>& from,
                         int64_t positions) {
  std::vector<T> to(positions * code.rows);
  const auto scratch = Aligned(kernels.generated_scratch(code));
  const int64_t at_once = topkast::kCodeLanes * code.panels();
  for (int64_t p = 0; p < positions; p += at_once) {
    kernels.multiply_generated_of(from.data())(
        code, values.data(), from.data() + p * code.cols, std::min(at_once, positions - p),
        to.data() + p * code.rows, scratch.get());
  }
  return to;
}

void CheckRounding(const Kernels& kernels, std::mt19937& random) {
  std::vector<float> values(random() % 70);
  for (float& value : values) {
    const uint32_t bits = random() % 3 ? random() : 0x7F800000 | random() % 3;
    std::memcpy(&value, &bits, sizeof(value));
  }
  std::vector<float> found = values;
  kernels.bfloat16->round(found.data(), static_cast<int64_t>(found.size()));
  const std::vector<float> expected = Floats(Halves(values));
  for (size_t k = 0; k < values.size(); ++k) {
    uint32_t bits;
    std::memcpy(&bits, &found[k], sizeof(bits));
    const bool same = std::isnan(values[k]) ? std::isnan(found[k]) : found[k] == expected[k];
    Expect(same && (bits & 0xFFFF) == 0, 1, "rounding", kernels.name);
  }
}

// The weight gradient by products of pairs of positions.
void CheckPairs(const topkast::PairKernels& pairs, const RandomMatrix& of,
                const PlacedPlan& plan, std::mt19937& random) {
  std::vector<float> sums(plan.entries());
  const auto of_x = Aligned(of.inputs * pairs.block / 2);
  const auto of_dy = Aligned(of.outputs * pairs.block / 2);
  for (int64_t p = 0; p < of.positions; p += pairs.block) {
    const int64_t live = std::min(pairs.block, of.positions - p);
    pairs.pack(of.x.data() + p * of.inputs, live, of.inputs, of_x.get());
    pairs.pack(of.dy.data() + p * of.outputs, live, of.outputs, of_dy.get());
    const int64_t middle = static_cast<int64_t>(random() % (plan.runs() + 1));
    pairs.accumulate(plan, 0, middle, of_x.get(), of_dy.get(), sums.data());
    pairs.accumulate(plan, middle, plan.runs(), of_x.get(), of_dy.get(), sums.data());
  }
  for (int64_t k = 0; k < plan.entries(); ++k) {
    const int64_t i = plan.source[k] / of.outputs, o = plan.source[k] % of.outputs;
    double sum = 0;
    for (int64_t p = 0; p < of.positions; ++p) {
      sum += static_cast<double>(topkast::ToFloat(of.x[p * of.inputs + i])) *
             topkast::ToFloat(of.dy[p * of.outputs + o]);
    }
    Expect(sums[k], sum, "weight gradient of pairs", "avx512bf16");
  }
}

}  // namespace

void CheckBfloat16(const Kernels& kernels, std::mt19937& random) {
  const RandomMatrix of = MakeRandomMatrix(random);
  const std::vector<float> x = Floats(of.x), dy = Floats(of.dy);
  const int64_t inputs = of.inputs, outputs = of.outputs;
  CheckRounding(kernels, random);

  const uint8_t* codes = of.codes.data();
  const topkast::Pattern pattern = {codes, outputs, inputs, 1, outputs, 2};
  const PlacedPlan plan(pattern, topkast::kMultiplyTile);
  std::vector<float> values;
  for (const int32_t place : plan.source) values.push_back(of.theta[place]);
  ExpectRounded(Multiplied(kernels, plan, values, of.x, of.positions),
                Multiplied(kernels, plan, values, x, of.positions), "output in bfloat16",
                kernels.name);
  if (kernels.multiply_generated != nullptr) {
    const auto code = topkast::Generate(pattern, true);
    values.resize(code->entries());
    kernels.gather_generated(*code, of.theta.data(), 0, code->groups, values.data());
    ExpectRounded(Generated(kernels, *code, values, of.x, of.positions),
                  Generated(kernels, *code, values, x, of.positions),
                  "output by generated code in bfloat16", kernels.name);
  }

  const int64_t live = std::min(kernels.block, of.positions);
  const auto panel = Aligned(inputs * kernels.block), wide = Aligned(inputs * kernels.block);
  kernels.bfloat16->pack(of.x.data(), live, inputs, panel.get());
  kernels.pack(x.data(), live, inputs, wide.get());
  for (int64_t k = 0; k < inputs * kernels.block; ++k) {
    Expect(panel.get()[k] == wide.get()[k], 1, "panel of bfloat16", kernels.name);
  }

  const int64_t in_tile = std::min<int64_t>(topkast::kCompressTile, of.positions);
  std::vector<int32_t> count(inputs), counted(inputs), first(inputs);
  kernels.bfloat16->count_entries(of.x.data(), in_tile, inputs, count.data());
  kernels.count_entries(x.data(), in_tile, inputs, counted.data());
  Expect(count == counted, 1, "entries in bfloat16", kernels.name);
  int32_t entries = 0;
  for (int64_t c = 0; c < inputs; ++c) {
    first[c] = entries;
    entries += count[c];
  }
  std::vector<int32_t> places(entries), expected_places(entries);
  std::vector<float> found(entries), expected(entries);
  kernels.bfloat16->copy_entries(of.x.data(), in_tile, inputs, first.data(), places.data(),
                                 found.data());
  kernels.copy_entries(x.data(), in_tile, inputs, first.data(), expected_places.data(),
                       expected.data());
  Expect(places == expected_places && found == expected, 1, "copied entries in bfloat16",
         kernels.name);

  const topkast::PairKernels* pairs = topkast::FindPairKernels(kernels);
  if (pairs != nullptr) {
    CheckPairs(*pairs, of,
               PlacedPlan({codes, inputs, outputs, outputs, 1, 1},
                                 topkast::kAccumulateTile),
               random);
  }
}
