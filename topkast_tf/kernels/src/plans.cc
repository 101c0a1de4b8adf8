#include "plans.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels.h"

namespace topkast {
namespace {

constexpr uint8_t kForwardCode = 2;
constexpr uint8_t kBackwardCode = 1;

std::mutex& KeysMutex() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

std::unordered_map<int64_t, std::shared_ptr<Plans>>& Keys() {
  static auto* keys = new std::unordered_map<int64_t, std::shared_ptr<Plans>>;
  return *keys;
}

// By output, by input, and B by input: the gradients of a run are neighbours in the weight.
Pattern PatternOf(const tensorflow::Tensor& codes, Product product) {
  const int64_t inputs = codes.dim_size(0), outputs = codes.dim_size(1);
  const uint8_t* data = codes.flat<uint8_t>().data();
  if (product == Product::kForward) {
    return {data, outputs, inputs, 1, outputs, kForwardCode};
  }
  const bool is_gradient = product == Product::kWeightGradient;
  return {data, inputs, outputs, outputs, 1, is_gradient ? kBackwardCode : kForwardCode};
}

}  // namespace

void Plans::Follow(const tensorflow::Tensor& codes, bool is_packed) {
  if (is_packed != is_packed_) codes_ = {};
  is_packed_ = is_packed;
  if (codes.data() == codes_.data() && codes.shape() == codes_.shape()) return;
  const bool same = codes.shape() == codes_.shape() &&
                    std::memcmp(codes.data(), codes_.data(), codes.NumElements()) == 0;
  if (!same) {
    plans_.clear();
    code_ = {};
    blocks_ = {};
    in_b_ = -1;
  }
  codes_ = codes;
}

Ranks Plans::RanksOf(const tensorflow::Tensor& codes) const {
  return Ranks(codes.flat<uint8_t>().data(), codes.NumElements());
}

int64_t Plans::InB(const tensorflow::Tensor& codes) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed_);
  if (in_b_ < 0) in_b_ = RanksOf(codes).total();
  return in_b_;
}

std::shared_ptr<const Plan> Plans::Get(const tensorflow::Tensor& codes, bool is_packed,
                                       Product product) {
  return Get(codes, is_packed, Window{}, static_cast<int>(product), [&] {
    const int tile =
        product == Product::kWeightGradient ? kAccumulateTile : kMultiplyTile;
    return MakePlan(PatternOf(codes, product), tile);
  });
}

std::shared_ptr<const Plan> Plans::Get(const tensorflow::Tensor& codes, bool is_packed,
                                       const Window& window, int slot,
                                       const std::function<Plan()>& make) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  if (!(window == window_)) {
    plans_.clear();
    window_ = window;
  }
  if (static_cast<int>(plans_.size()) <= slot) plans_.resize(slot + 1);
  std::shared_ptr<const Plan>& plan = plans_[slot];
  if (plan == nullptr) {
    Plan made = make();
    // With places, as of a convolution, `source` is an index of them.
    auto* places = made.places.empty() ? &made.source : &made.places;
    if (is_packed) RanksOf(codes).Replace(places);
    plan = std::make_shared<const Plan>(std::move(made));
  }
  return plan;
}

std::shared_ptr<const Generated> Plans::GetCode(const tensorflow::Tensor& codes,
                                                bool is_packed, Product product) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  Code& code = code_[static_cast<int>(product)];
  if (!code.is_tried) {
    auto made = Generate(PatternOf(codes, product), !is_packed);
    if (made != nullptr && is_packed) RanksOf(codes).Replace(&made->source);
    code = {true, std::move(made)};
  }
  return code.made;
}

std::shared_ptr<const BlockPlan> Plans::GetBlocks(const tensorflow::Tensor& codes,
                                                  bool lanes_are_outputs,
                                                  Product product) {
  const bool is_gradient = product == Product::kWeightGradient;
  const int64_t inputs = codes.dim_size(0), outputs = codes.dim_size(1);
  BlockPattern pattern = {codes.flat<uint8_t>().data(), outputs, inputs, 1, outputs,
                          is_gradient ? kBackwardCode : kForwardCode};
  if (!lanes_are_outputs) {
    std::swap(pattern.lanes, pattern.lines);
    std::swap(pattern.lane_stride, pattern.line_stride);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, false);
  std::shared_ptr<const BlockPlan>& plan = blocks_[is_gradient ? 1 : 0];
  if (plan == nullptr || plan->lane_stride != pattern.lane_stride ||
      plan->line_stride != pattern.line_stride) {
    auto made = std::make_shared<BlockPlan>();
    if (!MakeBlockPlan(pattern, made.get())) return nullptr;
    plan = std::move(made);
  }
  return plan;
}

int64_t Plans::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t total = 0;
  for (const auto& plan : plans_) total += plan == nullptr ? 0 : plan->bytes();
  for (const auto& plan : blocks_) total += plan == nullptr ? 0 : plan->bytes();
  for (const Code& code : code_) total += code.made == nullptr ? 0 : code.made->bytes();
  return total;
}

std::shared_ptr<Plans> PlansOf(int64_t key) {
  std::lock_guard<std::mutex> lock(KeysMutex());
  std::shared_ptr<Plans>& plans = Keys()[key];
  if (plans == nullptr) plans = std::make_shared<Plans>();
  return plans;
}

void ForgetPlans(int64_t key) {
  std::lock_guard<std::mutex> lock(KeysMutex());
  Keys().erase(key);
}

}  // namespace topkast

extern "C" {

// For Python, by ctypes.
void topkast_forget_plans(int64_t key) { topkast::ForgetPlans(key); }
int64_t topkast_plan_bytes(int64_t key) { return topkast::PlansOf(key)->bytes(); }
const char* topkast_kernels(const char* name) {
  const topkast::Kernels* kernels = topkast::FindKernels(name);
  return kernels == nullptr ? nullptr : kernels->name;
}

}  // extern "C"
