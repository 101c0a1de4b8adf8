// Selection, and the passes over the entries of a weight.
#include "fuzz.h"
#include "select.h"

using topkast::Entrywise;
using topkast::Step;

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
