// The plans of one weight, made anew when its codes have changed.
#ifndef TOPKAST_PLANS_H_
#define TOPKAST_PLANS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "block_plan.h"
#include "conv_geometry.h"
#include "generated.h"
#include "plan.h"
#include "ranks.h"
#include "tensorflow/core/framework/tensor.h"

namespace topkast {

// Which product a plan is for.
enum class Product { kForward, kInputGradient, kWeightGradient };

// Holds the plans of one weight. Safe to use from several threads.
class Plans {
 public:
  // The plan of a product for the given codes, made now unless it is there.
  //
  // The codes that the plans were made of are kept. A tensor that shares their buffer has
  // the same codes: TensorFlow never writes to a buffer that something else refers to.
  // Another buffer is compared.
  //
  // Args:
  //   codes: uint8, inputs x outputs: 0 outside B, 1 on B \ A, 2 on A.
  //   is_packed: whether the values are those of B alone, in the order of the weight:
  //     places are then places in that vector.
  std::shared_ptr<const Plan> Get(const tensorflow::Tensor& codes, bool is_packed,
                                  Product product);

  // As `Get`: the generated code of kForward or kInputGradient; null if there is none
  // (see `Generate`).
  std::shared_ptr<const Generated> GetCode(const tensorflow::Tensor& codes,
                                           bool is_packed, Product product);

  // The same for a convolution, whose plans also depend on its window.
  //
  // Args:
  //   codes: uint8, window rows x window columns x inputs x outputs.
  //   slot: which of the plans of a convolution this is.
  //   make: makes it.
  std::shared_ptr<const Plan> Get(const tensorflow::Tensor& codes, bool is_packed,
                                  const Window& window, int slot,
                                  const std::function<Plan()>& make);

  // The blocks of A, or of B for the weight gradient, of a weight whose sets are whole
  // blocks; null if a block is divided.
  //
  // Args:
  //   codes: as of `Get`.
  //   lanes_are_outputs: whether a block is 16 outputs of one input, or 16 inputs of one
  //     output.
  std::shared_ptr<const BlockPlan> GetBlocks(const tensorflow::Tensor& codes,
                                             bool lanes_are_outputs, Product product);

  // The entries of B.
  int64_t InB(const tensorflow::Tensor& codes);

  // Bytes that the plans and the code take.
  int64_t bytes() const;

 private:
  // Code is tried once, also where there is none.
  struct Code {
    bool is_tried = false;
    std::shared_ptr<const Generated> made;
  };

  // Forgets what was made of other codes, or for values in another order.
  void Follow(const tensorflow::Tensor& codes, bool is_packed);

  // The ranks of the codes, made anew: they are needed only while plans are made.
  Ranks RanksOf(const tensorflow::Tensor& codes) const;

  mutable std::mutex mutex_;
  tensorflow::Tensor codes_;
  bool is_packed_ = false;
  int64_t in_b_ = -1;  // -1 until it is counted
  Window window_ = {};
  std::vector<std::shared_ptr<const Plan>> plans_;
  std::array<Code, 2> code_;
  std::array<std::shared_ptr<const BlockPlan>, 2> blocks_;  // of A, and of B
};

// The plans of the weight with this key; a key's first use makes them.
std::shared_ptr<Plans> PlansOf(int64_t key);

// Forgets the plans of a weight. A product that is being computed keeps its own.
void ForgetPlans(int64_t key);

}  // namespace topkast

#endif  // TOPKAST_PLANS_H_
