#include "plans.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "code_pages.h"
#include "kernels.h"
#include "mappings.h"

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
//
// Args:
//   codes: whole, inputs x outputs; they must stay.
Pattern PatternOf(const tensorflow::Tensor& codes, Product product) {
  const int64_t inputs = codes.dim_size(0), outputs = codes.dim_size(1);
  const uint8_t* data = codes.flat<uint8_t>().data();
  if (product == Product::kForward) {
    return {data, outputs, inputs, 1, outputs, kForwardCode};
  }
  const bool is_gradient = product == Product::kWeightGradient;
  return {data, inputs, outputs, outputs, 1, is_gradient ? kBackwardCode : kForwardCode};
}

// The codes in the shape of their weight, while something is made of them: those that are
// mapped from a file are then left to it.
struct Whole {
  explicit Whole(const Codes& codes) : tensor(codes.Whole()) {}
  ~Whole() { LeaveToFile(tensor.data()); }

  const tensorflow::Tensor tensor;
};

// The ranks of the codes, made anew: they are needed only while plans are made.
Ranks RanksOf(const tensorflow::Tensor& whole) {
  return Ranks(whole.flat<uint8_t>().data(), whole.NumElements());
}

}  // namespace

void Plans::Follow(const Codes& codes, bool is_packed) {
  const tensorflow::Tensor &ours = codes_.tensor(), &theirs = codes.tensor();
  const bool fit = is_packed == is_packed_ && codes.are_gaps() == codes_.are_gaps() &&
                   codes.shape() == codes_.shape() && ours.shape() == theirs.shape();
  is_packed_ = is_packed;
  if (fit && ours.data() == theirs.data()) return;
  const bool same =
      fit && std::memcmp(ours.data(), theirs.data(), theirs.NumElements()) == 0;
  if (!same) {
    matrices_ = {};
    plans_.clear();
    code_ = {};
    blocks_ = {};
    vector_ = nullptr;
    values_.clear();
    in_b_ = kNotCounted;
  }
  LeaveToFile(ours.data());
  codes_ = codes;
  LeaveToFile(codes_.tensor().data());
}

int64_t Plans::InB(const Codes& codes) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed_);
  if (in_b_ == kNotCounted) {
    in_b_ = codes.InB();
    LeaveToFile(codes.tensor().data());
  }
  return in_b_;
}

std::shared_ptr<const MatrixPlan> Plans::Get(const Codes& codes, bool is_packed,
                                             Product product) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  std::shared_ptr<const MatrixPlan>& plan = matrices_[static_cast<int>(product)];
  if (plan != nullptr) return plan;
  const Whole whole(codes);
  const Pattern pattern = PatternOf(whole.tensor, product);
  const bool is_gradient = product == Product::kWeightGradient;
  const int tile = is_gradient ? kAccumulateTile : kMultiplyTile;
  const Vector packed = is_gradient ? Vector::kOfThese : Vector::kOfMore;
  plan = std::make_shared<const MatrixPlan>(
      MakeMatrixPlan(pattern, tile, is_packed ? packed : Vector::kNone));
  return plan;
}

std::shared_ptr<const Plan> Plans::Get(const Codes& codes, bool is_packed,
                                       const Window& window, int64_t groups,
                                       int slot, const MakesPlan& make) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  if (!(window == window_) || groups != groups_) {
    plans_.clear();
    window_ = window;
    groups_ = groups;
  }
  if (static_cast<int>(plans_.size()) <= slot) plans_.resize(slot + 1);
  std::shared_ptr<const Plan>& plan = plans_[slot];
  if (plan == nullptr) {
    const Whole whole(codes);
    Plan made = make(whole.tensor);
    // With places, as of a convolution, `source` is an index of them.
    auto* places = made.places.empty() ? &made.source : &made.places;
    if (is_packed) RanksOf(whole.tensor).Replace(places);
    plan = std::make_shared<const Plan>(std::move(made));
  }
  return plan;
}

std::shared_ptr<const Generated> Plans::GetCode(const Codes& codes,
                                                bool is_packed, Product product) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  Code& code = code_[static_cast<int>(product)];
  if (!code.is_tried) {
    const Whole whole(codes);
    auto made = Generate(PatternOf(whole.tensor, product), !is_packed);
    if (made != nullptr && is_packed) RanksOf(whole.tensor).Replace(&made->source);
    code = {true, std::move(made)};
  }
  return code.made;
}

std::shared_ptr<const BlockPlan> Plans::GetBlocks(const Codes& codes,
                                                  bool lanes_are_outputs,
                                                  Product product) {
  const bool is_gradient = product == Product::kWeightGradient;
  const int64_t inputs = codes.dim_size(0), outputs = codes.dim_size(1);
  const tensorflow::Tensor whole = codes.Whole();
  BlockPattern pattern = {whole.flat<uint8_t>().data(), outputs, inputs, 1, outputs,
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

std::shared_ptr<const VectorPlan> Plans::GetVector(const Codes& codes, bool is_packed) {
  std::lock_guard<std::mutex> lock(mutex_);
  Follow(codes, is_packed);
  if (vector_ == nullptr) {
    const tensorflow::Tensor whole = codes.Whole();
    VectorPlan made = MakeVectorPlan(PatternOf(whole, Product::kForward));
    if (is_packed) RanksOf(whole).Replace(&made.source);
    vector_ = std::make_shared<const VectorPlan>(std::move(made));
  }
  return vector_;
}

tensorflow::Tensor Plans::Values(const Codes& codes, const tensorflow::Tensor& theta,
                                 const std::string& order, int64_t count,
                                 const std::function<void(float*)>& fill) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Follow(codes, is_packed_);
    const auto found = values_.find(order);
    if (found != values_.end() && found->second.theta.data() == theta.data() &&
        found->second.values.NumElements() == count) {
      return found->second.values;
    }
  }
  // Without the lock: other threads may help, and would wait for it.
  tensorflow::Tensor values(tensorflow::DT_FLOAT, tensorflow::TensorShape({count}));
  fill(values.flat<float>().data());
  std::lock_guard<std::mutex> lock(mutex_);
  if (values_.size() >= kMostOrders && values_.count(order) == 0) values_.clear();
  values_[order] = {theta, values};
  return values;
}

int64_t Plans::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t total = 0;
  for (const auto& plan : matrices_) total += plan == nullptr ? 0 : plan->bytes();
  for (const auto& plan : plans_) total += plan == nullptr ? 0 : plan->bytes();
  for (const auto& plan : blocks_) total += plan == nullptr ? 0 : plan->bytes();
  for (const Code& code : code_) total += code.made == nullptr ? 0 : code.made->bytes();
  if (vector_ != nullptr) total += vector_->bytes();
  for (const auto& each : values_) total += 4 * each.second.values.NumElements();
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
// The same two for the name of kernels that the machine runs.
bool topkast_generates_code(const char* name) {
  return topkast::FindKernels(name)->multiply_generated != nullptr &&
         topkast::CodePagesAllowed();
}
bool topkast_multiplies_bfloat16(const char* name) {
  return topkast::FindPairKernels(*topkast::FindKernels(name)) != nullptr;
}

}  // extern "C"
