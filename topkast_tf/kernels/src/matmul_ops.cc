// The TensorFlow operations of a sparse weight that is a matrix: checks of what reaches the
// kernels, and the division of the work among threads.
#include <algorithm>
#include <type_traits>

#include "ops.h"

namespace topkast {
namespace {

template <typename T>
class SparseMatMul : public SparseOp {
 public:
  explicit SparseMatMul(OpKernelConstruction* context) : SparseOp(context) {
    if (kernels_ == nullptr) return;  // refused above
    std::string code;
    OP_REQUIRES_OK(context, context->GetAttr("transpose", &transpose_));
    OP_REQUIRES_OK(context, context->GetAttr("code", &code));
    OP_REQUIRES(context, code != "generated" || kernels_->multiply_generated != nullptr,
                InvalidArgument("Expected kernels for which code is generated, as "
                                "code='generated' asks for. Received: cpu=",
                                kernels_->name));
    may_generate_ = code != "static" && kernels_->multiply_generated != nullptr;
    must_generate_ = code == "generated";
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& theta = context->input(1);
    const Codes codes = CodesOf(context);
    MatMulSizes sizes;
    Tensor* y;
    OP_REQUIRES_OK(context, CheckedMatrix(theta, codes));
    OP_REQUIRES_OK(context, PrepareMatMul<T>(context, codes, transpose_, &sizes, &y));
    if (y == nullptr) return;
    const int64_t positions = sizes.positions;

    if (codes.are_gaps() && kernels_->multiply_few != nullptr && !transpose_ &&
        positions <= kFewPositions && !must_generate_) {
      MultiplyFew(context, codes, theta, x, positions, y);
      return;
    }

    const auto product = transpose_ ? Product::kInputGradient : Product::kForward;
    const auto code =
        may_generate_ ? PlansOf(key_)->GetCode(codes, is_packed(), product) : nullptr;
    OP_REQUIRES(context, code != nullptr || !must_generate_,
                InvalidArgument("Expected a weight whose code takes at most ", kMostCode,
                                " bytes, and a system that runs generated code, as "
                                "code='generated' asks for. Received: codes of shape ",
                                codes.shape().DebugString()));
    const auto* input = DataOf<T>(x);
    auto* output = DataOf<T>(y);
    if (code == nullptr) {
      const auto plan = PlanFor(codes, product);
      const float* whole = theta.flat<float>().data();
      const auto gather = [&](float* values) {
        const int64_t runs = plan->runs();
        const int64_t cycles = 1 + 2 * plan->entries() / std::max<int64_t>(1, runs);
        InParallel(context, runs, cycles, [&](int64_t begin, int64_t end) {
          plan->VisitPlaces(begin, end, [&](int32_t entry, int64_t place) {
            values[entry] = whole[place];
          });
        });
      };
      Multiply(context, codes, theta, "static", *plan, gather, kernels_->scratch(*plan),
               kernels_->multiply_of(input), kernels_->panel, input, positions, output);
      return;
    }
    const auto gather = [&](float* values) {
      InParallel(context, code->groups, 12 * code->cols, [&](int64_t begin, int64_t end) {
        kernels_->gather_generated(*code, theta.flat<float>().data(), begin, end, values);
      });
    };
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t panels = (positions + kCodeLanes - 1) / kCodeLanes;
    const int64_t share = (panels + threads - 1) / threads;
    Multiply(context, codes, theta, "generated", *code, gather,
             kernels_->generated_scratch(*code),
             kernels_->multiply_generated_of(input),
             kCodeLanes * std::min(share, code->panels()), input, positions, output);
  }

 private:
  // The values of theta in an order; kept for the next call if the weight is no longer
  // trained. `gather` writes them.
  template <typename Gather>
  tensorflow::Status ValuesOf(OpKernelContext* context, const Codes& codes,
                              const Tensor& theta, std::string order, int64_t count,
                              Gather gather, Tensor* values) const {
    const auto fill = [&](float* value) {
      gather(value);
      if constexpr (std::is_same_v<T, tensorflow::bfloat16>) {
        InParallel(context, count, 1, [&](int64_t begin, int64_t end) {
          kernels_->bfloat16->round(value + begin, end - begin);
        });
      }
    };
    if (codes.are_gaps()) {
      order += std::is_same_v<T, float> ? " float" : " bfloat16";
      order += transpose_ ? " transposed" : "";
      *values = PlansOf(key_)->Values(codes, theta, order, count, fill);
      return tensorflow::Status();
    }
    TF_RETURN_IF_ERROR(
        context->allocate_temp(tensorflow::DT_FLOAT, TensorShape({count}), values));
    fill(values->flat<float>().data());
    return tensorflow::Status();
  }

  // The product with a few positions.
  void MultiplyFew(OpKernelContext* context, const Codes& codes, const Tensor& theta,
                   const Tensor& x, int64_t positions, Tensor* y) const {
    const auto plan = PlansOf(key_)->GetVector(codes, is_packed());
    const float* entries = theta.flat<float>().data();
    Tensor values, padded;
    OP_REQUIRES_OK(context, ValuesOf(context, codes, theta, "few", plan->entries(),
                                     [&](float* value) {
                                       for (const int32_t place : plan->source) {
                                         *value++ = entries[place];
                                       }
                                     },
                                     &values));
    const int64_t width = plan->padded_cols();
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_FLOAT,
                                          TensorShape({positions, width}), &padded));
    float* inputs = padded.flat<float>().data();
    const auto* input = DataOf<T>(x);
    for (int64_t p = 0; p < positions; ++p) {
      float* of_position = inputs + p * width;
      for (int64_t c = 0; c < plan->cols; ++c) {
        of_position[c] = ToFloat(input[p * plan->cols + c]);
      }
      std::fill(of_position + plan->cols, of_position + width, 0.0f);
    }
    auto* output = DataOf<T>(y);
    const float* value = values.flat<float>().data();
    const int64_t cycles = 1 + plan->entries() * positions / plan->groups;
    InParallel(context, plan->groups, cycles, [&](int64_t begin, int64_t end) {
      kernels_->multiply_few_of(output)(*plan, value, inputs, positions, begin, end,
                                        output);
    });
  }

  // The product by a plan or by generated code, `at_once` positions a call.
  template <typename Order, typename Gather, typename Function, typename Activation>
  void Multiply(OpKernelContext* context, const Codes& codes, const Tensor& theta,
                const char* name, const Order& order, Gather gather, int64_t scratch,
                Function multiply, int64_t at_once, const Activation* x,
                int64_t positions, Activation* y) {
    Tensor values;
    OP_REQUIRES_OK(context, ValuesOf(context, codes, theta, name, order.entries(), gather,
                                     &values));
    const float* value = values.flat<float>().data();
    const int64_t from = order.cols, to = order.rows;
    const int64_t cycles = (6 * order.entries() + 8 * (from + to)) * at_once / 64;
    InParallel(context, (positions + at_once - 1) / at_once, cycles,
               [&](int64_t begin, int64_t end) {
                 float* memory = ThreadScratch(scratch);
                 for (int64_t p = begin * at_once; p < std::min(positions, end * at_once);
                      p += at_once) {
                   multiply(order, value, x + p * from, std::min(at_once, positions - p),
                            y + p * to, memory);
                 }
               });
  }

  bool transpose_, may_generate_, must_generate_;
};

template <typename T>
class SparseWeightGradient : public SparseOp {
 public:
  explicit SparseWeightGradient(OpKernelConstruction* context) : SparseOp(context) {
    if (kernels_ == nullptr) return;  // refused above
    std::string arithmetic;
    OP_REQUIRES_OK(context, context->GetAttr("arithmetic", &arithmetic));
    constexpr const Activation* kType = nullptr;
    blocks_ = {kernels_->block, kernels_->pack_of(kType), kernels_->accumulate};
    if constexpr (std::is_same_v<Activation, Bfloat16>) {
      const PairKernels* pairs = FindPairKernels(*kernels_);
      if (arithmetic == "auto" && pairs != nullptr) {
        blocks_ = {pairs->block, pairs->pack, pairs->accumulate};
      }
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    const Tensor& codes = context->input(2);
    OP_REQUIRES(context, x.dims() == 2 && dy.dims() == 2 &&
                             x.dim_size(0) == dy.dim_size(0),
                InvalidArgument("Expected activations and errors of as many positions. "
                                "Received: ",
                                x.shape().DebugString(), " and ",
                                dy.shape().DebugString()));
    const int64_t positions = x.dim_size(0), inputs = x.dim_size(1);
    const int64_t outputs = dy.dim_size(1);
    OP_REQUIRES_OK(context, CheckedWeight(codes, TensorShape({inputs, outputs})));
    OP_REQUIRES_OK(context, CheckedEntries(codes));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, ShapeOfTheta(codes), &gradient));
    if (gradient->NumElements() == 0) return;

    const auto plan = PlanFor(codes, Product::kWeightGradient);
    // Several blocks are packed, then used by all threads: fewer barriers.
    const int64_t blocks = (positions + blocks_.positions - 1) / blocks_.positions;
    const int64_t floats = kernels_->block;  // of a channel
    const int threads =
        context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t at_once = std::min<int64_t>(blocks, threads <= 1 ? 1 : 2 * threads);
    Tensor sums_of, panels;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   TensorShape({plan->entries()}),
                                                   &sums_of));
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({at_once * floats * (inputs + outputs)}),
                                &panels));
    float* sums = sums_of.flat<float>().data();
    std::fill(sums, sums + plan->entries(), 0.0f);
    float* of_x = panels.flat<float>().data();
    float* of_dy = of_x + at_once * floats * inputs;
    const auto* input = DataOf<T>(x);
    const auto* error = DataOf<T>(dy);

    const int64_t runs = plan->runs();
    const int64_t cycles =
        1 + 10 * at_once * plan->entries() / std::max<int64_t>(1, runs);
    for (int64_t first = 0; first < blocks; first += at_once) {
      const int64_t here = std::min(at_once, blocks - first);
      InParallel(context, here, 8 * (inputs + outputs), [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t p = (first + b) * blocks_.positions;
          const int64_t live = std::min(blocks_.positions, positions - p);
          blocks_.pack(input + p * inputs, live, inputs, of_x + b * floats * inputs);
          blocks_.pack(error + p * outputs, live, outputs, of_dy + b * floats * outputs);
        }
      });
      // The blocks of an entry are added in order, by one thread.
      InParallel(context, runs, cycles, [&](int64_t begin, int64_t end) {
        for (int64_t b = 0; b < here; ++b) {
          blocks_.accumulate(*plan, begin, end, of_x + b * floats * inputs,
                             of_dy + b * floats * outputs, sums);
        }
      });
    }

    float* to = gradient->flat<float>().data();
    std::fill(to, to + gradient->NumElements(), 0.0f);
    plan->VisitPlaces(0, runs, [&](int32_t entry, int64_t place) {
      to[place] = sums[entry];
    });
  }

 private:
  using Activation = typename InKernels<T>::Type;

  // The kernels for blocks of positions, as in `Kernels`.
  struct Blocks {
    int64_t positions;
    void (*pack)(const Activation* x, int64_t positions, int64_t channels, float* panel);
    void (*accumulate)(const MatrixPlan& plan, int64_t begin, int64_t end, const float* of_rows,
                       const float* of_cols, float* sums);
  };

  Blocks blocks_ = {};
};

// Only the gradient of theta looks at `dense_if`: at most one condition, that
// `dense_gradient` also needs then. `entries` is the length of the vector that theta is if
// it holds the entries of B alone; -1 if it is the whole weight. `shape` is that of the
// weight if `codes` are the gaps between its entries (codes.h), and it is no longer trained.
REGISTER_OP("TopkastSparseMatMul")
    .Input("x: T")
    .Input("theta: float")
    .Input("codes: uint8")
    .Input("dense_if: conditions * bool")
    .Attr("conditions: int >= 0 = 0")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .Attr("key: int")
    .Attr("entries: int = -1")
    .Attr("shape: list(int) = []")
    .Attr("cpu: string = ''")
    .Attr("transpose: bool = false")
    .Attr("dense_gradient: bool = false")
    .Attr("sparse_activations: bool = false")
    .Attr("code: {'auto', 'static', 'generated'} = 'auto'")
    .Output("y: T")
    .SetShapeFn(MatMulShape);

// `arithmetic`, of the weight gradient from bfloat16: 'auto' for pairs where the machine
// multiplies them, 'float32' for the sums that any other machine computes.
REGISTER_OP("TopkastSparseWeightGradient")
    .Input("x: T")
    .Input("dy: T")
    .Input("codes: uint8")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .Attr("key: int")
    .Attr("entries: int = -1")
    .Attr("cpu: string = ''")
    .Attr("arithmetic: {'auto', 'float32'} = 'auto'")
    .Output("gradient: float")
    .SetShapeFn(WeightGradientShape);

TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseMatMul", SparseMatMul);
TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseWeightGradient", SparseWeightGradient);

}  // namespace
}  // namespace topkast
