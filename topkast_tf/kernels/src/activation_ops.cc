// The TensorFlow operation for sparse activations: the weight gradient from their entries.
#include <algorithm>
#include <vector>

#include "ops.h"

namespace topkast {
namespace {

// Errors of a part, for each of the outputs of a panel: 1 MiB, of a core's L2 cache.
constexpr int64_t kPartErrors = 4096;
constexpr int64_t kMostTaps = int64_t{1} << 20;  // and most dilation, as of a convolution

// One axis of a window that moves by one position.
struct Axis {
  int64_t size;
  int64_t dilation;
  int64_t before;  // zeros in front of the activations

  int64_t halo() const { return (size - 1) * dilation; }
};

// Some rows of the activations of an image, or all rows of some images: positions that
// follow each other in memory.
struct Tile {
  int64_t image, images;
  int64_t row, rows;
  int64_t first_error;  // its place among the padded errors
};

// How activations, [images, rows, cols, channels], are divided into tiles, and the errors
// of each tile padded: with the errors of all outputs that its positions reach, in rows of
// one length, zero where there is no output. A tap of the window is then a constant
// distance.
struct Tiling {
  int64_t images, rows, cols;
  Axis y, x;
  std::vector<Tile> tiles;
  int64_t errors = 0;

  Tiling(int64_t images, int64_t rows, int64_t cols, const Axis& y, const Axis& x)
      : images(images), rows(rows), cols(cols), y(y), x(x) {
    const int64_t at_once = std::max<int64_t>(1, kCompressTile / (rows * cols));
    const int64_t band = std::min<int64_t>(rows, kCompressTile / cols);
    for (int64_t image = 0; image < images; image += at_once) {
      for (int64_t row = 0; row < rows; row += band) {
        const Tile tile = {image, std::min(at_once, images - image), row,
                           std::min(band, rows - row), errors};
        tiles.push_back(tile);
        errors += tile.images * padded_rows(tile) * padded_cols();
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(tiles.size()); }
  int64_t EndOfErrors(int64_t tile) const {
    return tile < count() ? tiles[tile].first_error : errors;
  }
  // The largest number of errors of `in_part` tiles.
  int64_t MostErrors(int64_t in_part) const {
    int64_t most = 0;
    for (int64_t t = 0; t < count(); t += in_part) {
      most = std::max(most, EndOfErrors(t + in_part) - tiles[t].first_error);
    }
    return most;
  }

  int64_t padded_rows(const Tile& tile) const { return tile.rows + y.halo(); }
  int64_t padded_cols() const { return cols + x.halo(); }
  int64_t first(const Tile& tile) const { return (tile.image * rows + tile.row) * cols; }
  int64_t positions(const Tile& tile) const { return tile.images * tile.rows * cols; }

  // Of the errors that a position reaches through the last tap, which are the first.
  int64_t PaddedPlace(const Tile& tile, int64_t position) const {
    const int64_t row = position / cols;
    return ((row / tile.rows) * padded_rows(tile) + row % tile.rows) * padded_cols() +
           position % cols;
  }
  int64_t TapDistance(int64_t tap) const {
    const int64_t up = (y.size - 1 - tap / x.size) * y.dilation;
    return up * padded_cols() + (x.size - 1 - tap % x.size) * x.dilation;
  }
};

// The entries of the activations that are not zero: rows are channels, columns places among
// the padded errors of a tile.
//
// Made anew for each batch, so in two passes of all threads: entries are counted, then
// copied to where they belong. Of the tiles from `first_tile` up to `last_tile`.
template <typename T>
Plan PlanOfEntries(OpKernelContext* context, const Kernels& kernels, const T* x,
                   int64_t channels, const Tiling& tiling, int64_t first_tile,
                   int64_t last_tile, std::vector<float>* values) {
  Plan plan;
  plan.rows = channels;
  const int64_t tiles = last_tile - first_tile;
  std::vector<std::vector<int32_t>> counts(tiles, std::vector<int32_t>(channels));
  const int64_t cycles = kCompressTile * channels;
  InParallel(context, tiles, cycles / 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const Tile& tile = tiling.tiles[first_tile + t];
      kernels.count_entries_of(x)(x + tiling.first(tile) * channels,
                                  tiling.positions(tile), channels, counts[t].data());
    }
  });

  std::vector<int32_t> starts, order;
  int32_t entries = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    OrderByCount(counts[t], starts, order);
    plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
    for (const int32_t channel : order) {
      const int32_t count = counts[t][channel];
      // In the first tile, a run without entries sets the sums to zero.
      if (count == 0 && first_tile + t > 0) continue;
      plan.row.push_back(channel);
      plan.first_entry.push_back(entries);
      entries += count;
    }
  }
  plan.first_run.push_back(static_cast<int32_t>(plan.runs()));
  plan.first_entry.push_back(entries);
  plan.col.resize(entries);
  values->resize(entries);
  InParallel(context, tiles, cycles, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> first(channels), place(kCompressTile);
    for (int64_t t = begin; t < end; ++t) {
      const Tile& tile = tiling.tiles[first_tile + t];
      const int32_t last_run = plan.first_run[t + 1];
      for (int32_t run = plan.first_run[t]; run < last_run; ++run) {
        first[plan.row[run]] = plan.first_entry[run];
      }
      kernels.copy_entries_of(x)(x + tiling.first(tile) * channels,
                                 tiling.positions(tile), channels, first.data(),
                                 plan.col.data(), values->data());
      for (int64_t p = 0; p < tiling.positions(tile); ++p) {
        place[p] = static_cast<int32_t>(tiling.PaddedPlace(tile, p));
      }
      const int32_t last = plan.first_entry[last_run];
      for (int32_t z = plan.first_entry[plan.first_run[t]]; z < last; ++z) {
        plan.col[z] = place[plan.col[z]];
      }
    }
  });
  return plan;
}

// Copies `width` <= panel channels of the errors of a tile, padded, `panel` floats each.
template <typename T>
void PadErrors(const Tiling& tiling, const Tile& tile, const T* dy, int64_t out_rows,
               int64_t out_cols, int64_t outputs, int64_t width, int64_t panel,
               float* padded) {
  const int64_t rows = tiling.padded_rows(tile), cols = tiling.padded_cols();
  std::fill(padded, padded + tile.images * rows * cols * panel, 0.0f);
  // Of the first padded row and column, among the outputs.
  const int64_t top = tile.row + tiling.y.before - tiling.y.halo();
  const int64_t left = tiling.x.before - tiling.x.halo();
  const int64_t first = std::max<int64_t>(0, -left);
  const int64_t last = std::min(cols, out_cols - left);
  for (int64_t image = 0; image < tile.images; ++image) {
    for (int64_t r = std::max<int64_t>(0, -top); r < std::min(rows, out_rows - top); ++r) {
      const T* from = dy + ((tile.image + image) * out_rows + top + r) * out_cols * outputs;
      float* to = padded + (image * rows + r) * cols * panel;
      for (int64_t c = first; c < last; ++c) {
        const T* errors = from + (left + c) * outputs;
        for (int64_t o = 0; o < width; ++o) to[c * panel + o] = ToFloat(errors[o]);
      }
    }
  }
}

template <typename T>
class SparseActivationGradient : public OpKernel {
 public:
  explicit SparseActivationGradient(OpKernelConstruction* context) : OpKernel(context) {
    std::vector<int32_t> window, dilations, before;
    OP_REQUIRES_OK(context, KernelsOf(context, &kernels_));
    OP_REQUIRES_OK(context, context->GetAttr("window", &window));
    OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations));
    OP_REQUIRES_OK(context, context->GetAttr("before", &before));
    const bool valid = window.size() == 2 && dilations.size() == 2 && before.size() == 2;
    OP_REQUIRES(context, valid,
                InvalidArgument("Expected two sizes each of `window`, `dilations` and "
                                "`before`. Received: ",
                                window.size(), ", ", dilations.size(), ", ",
                                before.size()));
    y_ = {window[0], dilations[0], before[0]};
    x_ = {window[1], dilations[1], before[1]};
    for (const Axis& axis : {y_, x_}) {
      OP_REQUIRES(context,
                  axis.size > 0 && axis.size < kMostTaps && axis.dilation > 0 &&
                      axis.dilation < kMostTaps && axis.before >= 0 &&
                      axis.before <= axis.halo(),
                  InvalidArgument("Expected a window and dilations from 1 to 2^20, and "
                                  "`before` within the window. Received: ",
                                  axis.size, ", ", axis.dilation, ", ", axis.before));
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    OP_REQUIRES(
        context, x.dims() == 4 && dy.dims() == 4 && x.dim_size(0) == dy.dim_size(0),
        InvalidArgument("Expected activations and errors of as many images, of four axes "
                        "each. Received: ",
                        x.shape().DebugString(), " and ", dy.shape().DebugString()));
    const int64_t images = x.dim_size(0), rows = x.dim_size(1), cols = x.dim_size(2);
    const int64_t channels = x.dim_size(3), outputs = dy.dim_size(3);
    OP_REQUIRES(context, x.NumElements() < kMostEntries && cols <= kCompressTile,
                InvalidArgument("Expected less than ", kMostEntries,
                                " activations, in rows of at most ", kCompressTile,
                                " positions. Received: ", x.shape().DebugString()));
    // A bound of the errors of all tiles, each of a row or more.
    const double padded = static_cast<double>(images * rows) *
                          static_cast<double>(1 + y_.halo()) *
                          static_cast<double>(cols + x_.halo());
    OP_REQUIRES(context, padded < static_cast<double>(int64_t{1} << 40),
                InvalidArgument("Expected a window within the activations or little "
                                "larger. Received: activations ",
                                x.shape().DebugString(), ", and a window of ", y_.halo() + 1,
                                " x ", x_.halo() + 1, " positions"));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape(
                                {y_.size, x_.size, channels, outputs}, &shape));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &gradient));
    if (gradient->NumElements() == 0) return;
    if (x.NumElements() == 0 || dy.NumElements() == 0) {
      gradient->flat<float>().setZero();
      return;
    }

    const Tiling tiling(images, rows, cols, y_, x_);
    const int64_t panel = kernels_->panel, panels = (outputs + panel - 1) / panel;
    const int64_t taps = y_.size * x_.size;
    // Tiles are used in parts whose errors fit a cache, but not so small that the sums, which
    // are read and written once a part, cost more.
    const int64_t in_part =
        std::max(kPartErrors, taps * channels) / (tiling.errors / tiling.count() + 1) + 1;
    Tensor of_sums, of_errors;
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_FLOAT,
                                TensorShape({panels * taps * channels * panel}), &of_sums));
    OP_REQUIRES_OK(context,
                   context->allocate_temp(
                       tensorflow::DT_FLOAT,
                       TensorShape({panels * tiling.MostErrors(in_part) * panel}),
                       &of_errors));
    float* sums = of_sums.flat<float>().data();
    float* errors = of_errors.flat<float>().data();
    const auto* dy_data = DataOf<T>(dy);
    std::vector<float> values;
    for (int64_t first = 0; first < tiling.count(); first += in_part) {
      const int64_t last = std::min(tiling.count(), first + in_part);
      const Plan plan = PlanOfEntries(context, *kernels_, DataOf<T>(x), channels, tiling,
                                      first, last, &values);
      const int64_t begin_error = tiling.tiles[first].first_error;
      const int64_t part_errors = tiling.EndOfErrors(last) - begin_error;
      // Where the errors of a tile are, for a panel of outputs.
      auto place = [&](int64_t o, int64_t t) {
        return (o * part_errors + tiling.tiles[t].first_error - begin_error) * panel;
      };
      InParallel(context, panels * (last - first), kCompressTile * panel,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t part = begin; part < end; ++part) {
                     const int64_t o = part / (last - first);
                     const int64_t t = first + part % (last - first);
                     PadErrors(tiling, tiling.tiles[t], dy_data + o * panel,
                               dy.dim_size(1), dy.dim_size(2), outputs,
                               std::min(panel, outputs - o * panel), panel,
                               errors + place(o, t));
                   }
                 });
      // Each output is summed by one thread, tile after tile.
      const int64_t cycles = 6 * plan.entries() + panel * channels / 4;
      InParallel(context, panels * taps, cycles, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          const int64_t o = part / taps, distance = tiling.TapDistance(part % taps) * panel;
          for (int64_t t = first; t < last; ++t) {
            kernels_->multiply_tile(plan, static_cast<int>(t - first), t == 0,
                                    values.data(), errors + place(o, t) + distance,
                                    sums + part * channels * panel);
          }
        }
      });
    }
    float* to = gradient->flat<float>().data();
    for (int64_t row = 0; row < taps * channels; ++row) {
      for (int64_t o = 0; o < panels; ++o) {
        std::copy_n(sums + (o * taps * channels + row) * panel,
                    std::min(panel, outputs - o * panel), to + row * outputs + o * panel);
      }
    }
  }

 private:
  const Kernels* kernels_ = nullptr;
  Axis y_, x_;
};

tensorflow::Status ActivationGradientShape(InferenceContext* context) {
  ShapeHandle x, dy;
  std::vector<int32_t> window;
  TF_RETURN_IF_ERROR(context->GetAttr("window", &window));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &dy));
  if (window.size() != 2) return InvalidArgument("Expected two sizes of `window`.");
  context->set_output(0, context->MakeShape({context->MakeDim(window[0]),
                                             context->MakeDim(window[1]),
                                             context->Dim(x, 3), context->Dim(dy, 3)}));
  return tensorflow::Status();
}

REGISTER_OP("TopkastSparseActivationGradient")
    .Input("x: T")
    .Input("dy: T")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .Attr("window: list(int) = [1, 1]")
    .Attr("dilations: list(int) = [1, 1]")
    .Attr("before: list(int) = [0, 0]")
    .Attr("cpu: string = ''")
    .Output("gradient: float")
    .SetShapeFn(ActivationGradientShape);

TOPKAST_REGISTER_FOR_ACTIVATIONS("TopkastSparseActivationGradient",
                                 SparseActivationGradient);

}  // namespace
}  // namespace topkast
