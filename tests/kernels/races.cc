// Steps that run at once and share the plans of their weights, as the TensorFlow operations
// do: races THREADS STEPS.
//
// Compiled with the thread sanitizer by test_sanitizers.py. Every product must also have
// the bits that it has alone: sets change while other steps still use those of before.
#include <cstring>
#include <functional>
#include <thread>

#include "conv_slab.h"
#include "fuzz.h"
#include "plans.h"

namespace {

using topkast::Kernels;
using topkast::Product;
using tensorflow::Tensor;

using Work = std::function<void(int64_t, int64_t)>;

// Calls `work(begin, end)` for two parts of [0, total) at once, or for all of it.
void InParallel(bool at_once, int64_t total, const Work& work) {
  if (!at_once) return work(0, total);
  std::thread other([&] { work(0, total / 2); });
  work(total / 2, total);
  other.join();
}

std::vector<float> RandomFloats(int64_t size, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

Tensor RandomCodes(const tensorflow::TensorShape& shape, std::mt19937& random) {
  std::vector<uint8_t> codes(shape.num_elements());
  for (uint8_t& code : codes) code = random() % 4 ? 0 : 1 + random() % 2;
  return Tensor(codes, shape);
}

// A weight that is a matrix, and what its products are computed from.
struct Matrix {
  static constexpr int64_t kPositions = 150, kInputs = 210, kOutputs = 130;
  int64_t key;
  std::vector<float> x, dy, theta;

  Matrix(int64_t key, std::mt19937& random)
      : key(key),
        x(RandomFloats(kPositions * kInputs, random)),
        dy(RandomFloats(kPositions * kOutputs, random)),
        theta(RandomFloats(kInputs * kOutputs, random)) {}

  std::vector<float> ByPlan(const Kernels& kernels, const Tensor& codes, bool transpose,
                            bool at_once) const {
    const auto product = transpose ? Product::kInputGradient : Product::kForward;
    const auto plan = topkast::PlansOf(key)->Get(codes, false, product);
    std::vector<float> values(plan->entries());
    InParallel(at_once, plan->runs(), [&](int64_t begin, int64_t end) {
      plan->VisitPlaces(begin, end, [&](int32_t entry, int64_t place) {
        values[entry] = theta[place];
      });
    });
    return Multiplied(transpose, at_once, kernels.panel, kernels.scratch(*plan),
                      [&](const float* from, int64_t live, float* to, float* scratch) {
                        kernels.multiply(*plan, values.data(), from, live, to, scratch);
                      });
  }

  std::vector<float> ByCode(const Kernels& kernels, const Tensor& codes, bool transpose,
                            bool at_once) const {
    const auto product = transpose ? Product::kInputGradient : Product::kForward;
    const auto code = topkast::PlansOf(key)->GetCode(codes, false, product);
    std::vector<float> values(code->entries());
    InParallel(at_once, code->groups, [&](int64_t begin, int64_t end) {
      kernels.gather_generated(*code, theta.data(), begin, end, values.data());
    });
    return Multiplied(transpose, at_once, topkast::kCodeLanes,
                      kernels.generated_scratch(*code),
                      [&](const float* from, int64_t live, float* to, float* scratch) {
                        kernels.multiply_generated(*code, values.data(), from, live, to,
                                                   scratch);
                      });
  }

  std::vector<float> Gradient(const Kernels& kernels, const Tensor& codes,
                              bool at_once) const {
    const auto plan = topkast::PlansOf(key)->Get(codes, false, Product::kWeightGradient);
    std::vector<float> sums(plan->entries());
    const auto of_x = Aligned(kInputs * kernels.block);
    const auto of_dy = Aligned(kOutputs * kernels.block);
    for (int64_t p = 0; p < kPositions; p += kernels.block) {
      const int64_t live = std::min(kernels.block, kPositions - p);
      kernels.pack(x.data() + p * kInputs, live, kInputs, of_x.get());
      kernels.pack(dy.data() + p * kOutputs, live, kOutputs, of_dy.get());
      InParallel(at_once, plan->runs(), [&](int64_t begin, int64_t end) {
        kernels.accumulate(*plan, begin, end, of_x.get(), of_dy.get(), sums.data());
      });
    }
    return sums;
  }

 private:
  using Function = std::function<void(const float*, int64_t, float*, float*)>;

  std::vector<float> Multiplied(bool transpose, bool at_once, int64_t width,
                                int64_t scratch_floats, const Function& multiply) const {
    const std::vector<float>& source = transpose ? dy : x;
    const int64_t from = transpose ? kOutputs : kInputs, to = kInputs + kOutputs - from;
    std::vector<float> target(kPositions * to);
    InParallel(at_once, (kPositions + width - 1) / width, [&](int64_t begin, int64_t end) {
      const auto scratch = Aligned(scratch_floats);
      for (int64_t p = begin * width; p < std::min(kPositions, end * width); p += width) {
        multiply(source.data() + p * from, std::min(width, kPositions - p),
                 target.data() + p * to, scratch.get());
      }
    });
    return target;
  }
};

// A weight of a 3 x 3 convolution with a stride of 2.
struct Convolution {
  static constexpr int64_t kImages = 5, kSize = 9, kTargets = 4, kInputs = 20;
  static constexpr int64_t kOutputs = 12;
  int64_t key;
  std::vector<float> x, dy, theta;

  Convolution(int64_t key, std::mt19937& random)
      : key(key),
        x(RandomFloats(kImages * kSize * kSize * kInputs, random)),
        dy(RandomFloats(kImages * kTargets * kTargets * kOutputs, random)),
        theta(RandomFloats(9 * kInputs * kOutputs, random)) {}

  std::vector<float> Convolved(const Kernels& kernels, const Tensor& codes, bool transpose,
                               bool at_once) const {
    const topkast::WindowAxis axis = {3, 2, 1};
    const topkast::Window window = {axis, axis};
    const auto axis_of = transpose ? topkast::GradientAxis : topkast::ForwardAxis;
    const topkast::ConvAxis sides = axis_of(axis, kSize, kTargets, 0);
    topkast::ConvProduct product;
    product.kernels = kernels.conv;
    product.shape = {kImages, sides, sides, transpose ? kOutputs : kInputs,
                     transpose ? kInputs : kOutputs};
    product.layout = topkast::LayoutOf(product.shape, kernels.conv->lanes, 4);
    const topkast::ConvWeight weight = {
        codes.flat<uint8_t>().data(), 9, kInputs, kOutputs, 0, kOutputs};
    std::vector<std::vector<topkast::ConvEntry>> entries;
    for (const topkast::Phase& y : product.shape.y.phases) {
      for (const topkast::Phase& x : product.shape.x.phases) {
        const int phase = static_cast<int>(product.parts.size());
        const auto kind = transpose ? topkast::ConvPlanKind::kInputGradient
                                    : topkast::ConvPlanKind::kForward;
        const auto plan =
            topkast::PlansOf(key)->Get(codes, false, window, 1, transpose ? 2 + phase : 0, [&](const Tensor&) {
              return topkast::MakeConvPlan(weight, topkast::TapsOf(window, y, x), kind);
            });
        const auto placed = topkast::Place(product.shape, product.layout, y, x, plan);
        std::vector<topkast::ConvEntry> of(plan->entries());
        for (int64_t k = 0; k < plan->entries(); ++k) {
          of[k] = {placed.offsets[plan->col[k]],
                   theta[plan->places[plan->source[k]]]};
        }
        entries.push_back(std::move(of));  // whose memory stays where it is
        product.parts.push_back({&y, &x, {{placed, entries.back().data()}}});
      }
    }
    std::vector<float> target(transpose ? x.size() : dy.size());
    const float* source = transpose ? dy.data() : x.data();
    const int64_t slabs = product.layout.slabs(product.shape);
    InParallel(at_once, slabs, [&](int64_t begin, int64_t end) {
      const auto scratch = Aligned(product.scratch_floats());
      for (int64_t s = begin; s < end; ++s) {
        topkast::MultiplySlab(product, product.layout.SlabAt(product.shape, s), source,
                              target.data(), scratch.get());
      }
    });
    return target;
  }
};

// All products, of every weight, with either of two sets.
class Products {
 public:
  Products(const Kernels& kernels, std::mt19937& random)
      : kernels_(kernels), matrix_(1, random), convolution_(2, random) {
    for (int k = 0; k < 2; ++k) {
      of_matrix_.push_back(RandomCodes({Matrix::kInputs, Matrix::kOutputs}, random));
      of_convolution_.push_back(
          RandomCodes({3, 3, Convolution::kInputs, Convolution::kOutputs}, random));
    }
    for (int which = 0; which < kCount; ++which) {
      for (int sets = 0; sets < 2; ++sets) expected_.push_back(Of(which, sets, false, false));
    }
  }

  // Some random steps of one thread.
  void Run(int steps, uint32_t seed) const {
    std::mt19937 random(seed);
    for (int k = 0; k < steps; ++k) {
      const int which = random() % kCount, sets = random() % 2;
      if (random() % 32 == 0) topkast::ForgetPlans(1 + random() % 2);
      const std::vector<float> found = Of(which, sets, random() % 2, random() % 2);
      const std::vector<float>& expected = expected_[2 * which + sets];
      const bool same =
          found.size() == expected.size() &&
          std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0;
      Expect(same, true, "product that shares its plans", kernels_.name);
      Expect(topkast::PlansOf(1)->bytes() >= 0, true, "bytes", kernels_.name);
    }
  }

 private:
  static constexpr int kCount = 7;

  std::vector<float> Of(int which, int sets, bool is_copy, bool at_once) const {
    const Tensor& of = which < 5 ? of_matrix_[sets] : of_convolution_[sets];
    const Tensor codes = is_copy ? of.Copy() : of;
    const bool transpose = which % 2;
    if (which >= 5) return convolution_.Convolved(kernels_, codes, transpose, at_once);
    if (which == 4) return matrix_.Gradient(kernels_, codes, at_once);
    if (which >= 2 && kernels_.multiply_generated != nullptr) {
      return matrix_.ByCode(kernels_, codes, transpose, at_once);
    }
    return matrix_.ByPlan(kernels_, codes, transpose, at_once);
  }

  const Kernels& kernels_;
  Matrix matrix_;
  Convolution convolution_;
  std::vector<Tensor> of_matrix_, of_convolution_;
  std::vector<std::vector<float>> expected_;
};

}  // namespace

int main(int, char** argv) {
  std::mt19937 random(3);
  for (const char* name : {"avx512", "avx2", "portable"}) {
    const Kernels* kernels = topkast::FindKernels(name);
    if (kernels == nullptr) continue;
    const Products products(*kernels, random);
    std::vector<std::thread> threads;
    for (int k = 0; k < std::atoi(argv[1]); ++k) {
      threads.emplace_back([&, k] { products.Run(std::atoi(argv[2]), k); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::printf("products agree\n");
  return 0;
}
