// The plans of one weight, made anew when its codes have changed.
#ifndef TOPKAST_PLANS_H_
#define TOPKAST_PLANS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "block_plan.h"
#include "codes.h"
#include "conv_geometry.h"
#include "generated.h"
#include "matrix_plan.h"
#include "plan.h"
#include "ranks.h"
#include "vector_plan.h"
#include "tensorflow/core/framework/tensor.h"

namespace topkast {

// Makes a plan from the codes in the shape of a weight.
using MakesPlan = std::function<Plan(const tensorflow::Tensor& whole)>;

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
  //   codes: of inputs x outputs.
  //   is_packed: whether the values are those of B alone, in the order of the weight:
  //     places are then places in that vector.
  std::shared_ptr<const MatrixPlan> Get(const Codes& codes, bool is_packed,
                                        Product product);

  // As `Get`: the generated code of kForward or kInputGradient; null if there is none
  // (see `Generate`).
  std::shared_ptr<const Generated> GetCode(const Codes& codes,
                                           bool is_packed, Product product);

  // The same for a convolution, whose plans also depend on its window and groups.
  //
  // Args:
  //   codes: of window rows x window columns x inputs x outputs.
  //   slot: which of the plans of a convolution this is.
  //   make: makes it.
  std::shared_ptr<const Plan> Get(const Codes& codes, bool is_packed,
                                  const Window& window, int64_t groups, int slot,
                                  const MakesPlan& make);

  // The blocks of A, or of B for the weight gradient, of a weight whose sets are whole
  // blocks; null if a block is divided.
  //
  // Args:
  //   codes: as of `Get`.
  //   lanes_are_outputs: whether a block is 16 outputs of one input, or 16 inputs of one
  //     output.
  std::shared_ptr<const BlockPlan> GetBlocks(const Codes& codes,
                                             bool lanes_are_outputs, Product product);

  // The order of a product with a few positions.
  std::shared_ptr<const VectorPlan> GetVector(const Codes& codes, bool is_packed);

  // Values of theta in the order of a product, made now unless they are there: for a weight
  // that is no longer trained. They are kept while theta is in the same buffer, as codes are.
  //
  // Args:
  //   codes: of theta.
  //   order: which order; a new one beyond kMostOrders makes all be forgotten.
  //   count: floats.
  //   fill: writes them, in this thread and maybe others: no lock is held.
  tensorflow::Tensor Values(const Codes& codes, const tensorflow::Tensor& theta,
                            const std::string& order, int64_t count,
                            const std::function<void(float*)>& fill);

  // The entries of B; -1 for gaps that lead beyond the weight.
  int64_t InB(const Codes& codes);

  // Bytes that the plans and the code take.
  int64_t bytes() const;

 private:
  struct Kept {
    tensorflow::Tensor theta;
    tensorflow::Tensor values;
  };

  static constexpr size_t kMostOrders = 4;
  static constexpr int64_t kNotCounted = -2;

  // Code is tried once, also where there is none.
  struct Code {
    bool is_tried = false;
    std::shared_ptr<const Generated> made;
  };

  // Forgets what was made of other codes, or for values in another order.
  void Follow(const Codes& codes, bool is_packed);

  mutable std::mutex mutex_;
  Codes codes_ = tensorflow::Tensor();
  bool is_packed_ = false;
  int64_t in_b_ = kNotCounted;
  Window window_ = {};
  int64_t groups_ = 0;
  std::array<std::shared_ptr<const MatrixPlan>, 3> matrices_;
  std::vector<std::shared_ptr<const Plan>> plans_;  // of a convolution
  std::array<Code, 2> code_;
  std::array<std::shared_ptr<const BlockPlan>, 2> blocks_;  // of A, and of B
  std::shared_ptr<const VectorPlan> vector_;
  std::unordered_map<std::string, Kept> values_;
};

// The plans of the weight with this key; a key's first use makes them.
std::shared_ptr<Plans> PlansOf(int64_t key);

// Forgets the plans of a weight. A product that is being computed keeps its own.
void ForgetPlans(int64_t key);

}  // namespace topkast

#endif  // TOPKAST_PLANS_H_
