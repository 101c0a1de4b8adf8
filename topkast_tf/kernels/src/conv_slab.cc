#include "conv_slab.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace topkast {
namespace {

constexpr int kMostLanes = 16;
constexpr int kMostVectors = 8;

// The vectors of a slab's targets of one pair of phases, one after another.
class Vectors {
 public:
  Vectors(const ConvShape& shape, const PlaneLayout& layout, const Slab& slab,
          const Phase& y, const Phase& x)
      : shape_(shape), layout_(layout), slab_(slab), y_(y), x_(x) {
    rows_ = std::clamp<int64_t>(y.count - slab.first_row, 0, slab.rows);
    cols_ = std::clamp<int64_t>(x.count - slab.first_col, 0, slab.cols);
    in_row_ = layout.vectors_of(cols_);
  }

  int64_t count() const { return slab_.groups * rows_ * in_row_; }

  // Moves to the next vector.
  void Step() {
    if (++vector_ < in_row_) return;
    vector_ = 0;
    if (++row_ < rows_) return;
    row_ = 0;
    ++group_;
  }

  // Its offset in a plane.
  int64_t base() const {
    return (group_ * layout_.rows + row_ * shape_.y.source_step) * layout_.row +
           vector_ * layout_.lanes;
  }

  // The activations of its lanes; `none` for a lane that is no target.
  template <typename T>
  void Lanes(T* targets, int64_t channels, T* none, T** lanes) const {
    const int64_t group = layout_.group;
    const int64_t first_image = (slab_.first_group + group_) * group;
    const int64_t images = std::min(group, shape_.images - first_image);
    const int64_t row = y_.first + shape_.y.target_step * (slab_.first_row + row_);
    const int64_t in_vector = layout_.lanes / group;
    const int64_t image_size = shape_.y.targets * shape_.x.targets;
    int lane = 0;
    for (int64_t j = vector_ * in_vector; j < (vector_ + 1) * in_vector; ++j) {
      const int64_t col = x_.first + shape_.x.target_step * (slab_.first_col + j);
      const int64_t place = first_image * image_size + row * shape_.x.targets + col;
      for (int64_t image = 0; image < group; ++image, ++lane) {
        const bool exists = j < cols_ && image < images;
        lanes[lane] =
            exists ? targets + (place + image * image_size) * channels : none;
      }
    }
  }

 private:
  const ConvShape& shape_;
  const PlaneLayout& layout_;
  const Slab& slab_;
  const Phase& y_;
  const Phase& x_;
  int64_t rows_, cols_, in_row_;
  int64_t group_ = 0, row_ = 0, vector_ = 0;
};

// Packs vectors of single images: lanes point to the channels of an activation, or to zeros.
template <typename T>
class Packer {
 public:
  explicit Packer(const ConvKernels& kernels)
      : pack_(kernels.pack_of(static_cast<const T*>(nullptr))) {}

  void operator()(const T* const* lanes, int64_t channels, float* to,
                  int64_t distance) const {
    pack_(lanes, channels, to, distance);
  }

 private:
  void (*pack_)(const T* const* from, int64_t channels, float* to, int64_t distance);
};

// Packs vectors of pairs: the second activation of a lane is `half` behind the first, if it
// is among all `size`.
class PairPacker {
 public:
  PairPacker(const PairKernels& kernels, const Bfloat16* activations, int64_t size,
             int64_t half, const Bfloat16* zeros)
      : pack_(kernels.pack_vector),
        activations_(activations),
        size_(size),
        half_(half),
        zeros_(zeros) {}

  void operator()(const Bfloat16* const* lanes, int64_t channels, float* to,
                  int64_t distance) const {
    const Bfloat16* second[kMostLanes];
    for (int lane = 0; lane < kMostLanes; ++lane) {
      second[lane] = zeros_;
      if (lanes[lane] == zeros_) continue;
      const int64_t place = lanes[lane] - activations_ + half_;
      if (place < size_) second[lane] = activations_ + place;
    }
    pack_(lanes, second, channels, to, distance);
  }

 private:
  decltype(PairKernels::pack_vector) pack_;
  const Bfloat16* activations_;
  int64_t size_, half_;
  const Bfloat16* zeros_;
};

// Packs the sources of a slab into planes; `zeros` has as many as channels.
template <typename T, typename Pack>
void PackPlanes(const ConvShape& shape, const PlaneLayout& layout, const Slab& slab,
                const T* source, const T* zeros, const Pack& pack, float* planes) {
  const int64_t channels = shape.source_channels, step = shape.x.source_step;
  const int64_t first_row =
      slab.first_row * shape.y.source_step + shape.y.smallest_shift();
  const int64_t first_col = slab.first_col * step + shape.x.smallest_shift();
  const int64_t rows = layout.rows - (layout.slab_rows - slab.rows) * shape.y.source_step;
  const int64_t group = layout.group, in_vector = layout.lanes / group;
  const int64_t image_size = shape.y.sources * shape.x.sources;
  const T* lanes[kMostLanes];
  for (int64_t g = 0; g < slab.groups; ++g) {
    const int64_t first_image = (slab.first_group + g) * group;
    const int64_t images = std::min(group, shape.images - first_image);
    for (int64_t r = 0; r < rows; ++r) {
      float* to = planes + (g * layout.rows + r) * layout.row;
      const int64_t row = first_row + r;
      if (row < 0 || row >= shape.y.sources) {
        for (int64_t c = 0; c < channels; ++c) {
          std::fill_n(to + c * layout.plane, layout.row, 0.0f);
        }
        continue;
      }
      const T* from =
          source + (first_image * image_size + row * shape.x.sources) * channels;
      for (int64_t v = 0; v < layout.row; v += layout.lanes) {
        const int64_t part = v / layout.part;
        const int64_t first = (v - part * layout.part) / group;
        int lane = 0;
        for (int64_t j = first; j < first + in_vector; ++j) {
          const int64_t col = first_col + j * step + part;
          const bool inside = col >= 0 && col < shape.x.sources;
          for (int64_t image = 0; image < group; ++image, ++lane) {
            const bool exists = inside && image < images;
            lanes[lane] =
                exists ? from + (image * image_size + col) * channels : zeros;
          }
        }
        pack(lanes, channels, to + v, layout.plane);
      }
    }
  }
}

}  // namespace

int64_t ConvProduct::scratch_floats() const {
  const int64_t junk = std::max(shape.source_channels, shape.target_channels);
  return layout.plane * shape.source_channels +
         shape.target_channels * kernels->vectors * kernels->lanes + junk;
}

PlacedPlan Place(const ConvShape& shape, const PlaneLayout& layout, const Phase& y,
                 const Phase& x, std::shared_ptr<const Plan> plan) {
  PlacedPlan placed;
  const auto taps = static_cast<int64_t>(y.taps.size() * x.taps.size());
  const int64_t channels = taps == 0 ? 0 : plan->tile / taps;
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (const Tap& row : y.taps) {
      for (const Tap& col : x.taps) {
        placed.offsets.push_back(static_cast<int32_t>(
            channel * layout.plane + TapOffset(shape, layout, row, col)));
      }
    }
  }
  placed.tile_distance = channels * layout.plane;
  placed.plan = std::move(plan);
  return placed;
}

template <typename T>
void MultiplySlab(const ConvProduct& product, const Slab& slab, const T* source, T* target,
                  float* scratch) {
  const ConvKernels& kernels = *product.kernels;
  const ConvShape& shape = product.shape;
  const int64_t to = shape.target_channels;
  float* planes = scratch;
  float* outputs = planes + product.layout.plane * shape.source_channels;
  T* spare = reinterpret_cast<T*>(outputs + to * kernels.vectors * kernels.lanes);
  std::fill_n(spare, std::max(shape.source_channels, to), T{});
  PackPlanes(shape, product.layout, slab, source, spare, Packer<T>(kernels), planes);
  for (const ConvProduct::Part& part : product.parts) {
    Vectors vectors(shape, product.layout, slab, *part.y, *part.x);
    Vectors done = vectors;
    const int64_t total = vectors.count();
    const int64_t blocks = (total + kernels.vectors - 1) / kernels.vectors;
    std::fill_n(outputs, to * kernels.vectors * kernels.lanes, 0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      // Blocks of almost the same size: a last one of one vector would cost as much.
      const int count =
          static_cast<int>(total * (block + 1) / blocks - total * block / blocks);
      const float* bases[kMostVectors];
      for (int v = 0; v < count; ++v, vectors.Step()) bases[v] = planes + vectors.base();
      float* of_group = outputs;
      for (const ConvProduct::OfGroup& group : part.groups) {
        if (group.placed.plan->entries() > 0) {
          kernels.multiply(*group.placed.plan, group.entries, bases, count,
                           group.placed.tile_distance, of_group);
        }
        of_group += shape.group_targets() * kernels.vectors * kernels.lanes;
        for (int v = 0; v < count; ++v) {
          bases[v] += shape.group_sources() * product.layout.plane;
        }
      }
      for (int v = 0; v < count; ++v, done.Step()) {
        T* lanes[kMostLanes];
        done.Lanes(target, to, spare, lanes);
        kernels.unpack_of(target)(outputs + v * kernels.lanes,
                                  kernels.vectors * kernels.lanes, to, lanes);
      }
    }
  }
}

int64_t ConvGradient::runs() const {
  int64_t total = 0;
  for (const PlacedPlan& group : placed) total += group.plan->runs();
  return total;
}

int64_t ConvGradient::entries() const {
  int64_t total = 0;
  for (const PlacedPlan& group : placed) total += group.plan->entries();
  return total;
}

int64_t ConvGradient::blocks() const {
  const int64_t vectors =
      layout.slab_groups * layout.slab_rows * layout.vectors_of(layout.slab_cols);
  return (vectors + kernels->block_vectors - 1) / kernels->block_vectors;
}

int64_t ConvGradient::panel() const {
  return shape.target_channels * kernels->block_vectors * kernels->lanes;
}

int64_t ConvGradient::slab_floats() const {
  // What follows holds the activations of a lane that is none, and keeps the next slab
  // at the start of a cache line.
  const int64_t spare = std::max(shape.source_channels, shape.target_channels);
  return layout.plane * shape.source_channels + blocks() * panel() + (spare + 15) / 16 * 16;
}

namespace {

template <typename T, typename Pack>
void PackSlabBy(const ConvGradient& gradient, const Slab& slab, const T* x, const T* dy,
                const T* zeros, const Pack& pack_x, const Pack& pack_dy, float* packed) {
  const ConvKernels& kernels = *gradient.kernels;
  const ConvShape& shape = gradient.shape;
  float* panels = packed + gradient.layout.plane * shape.source_channels;
  PackPlanes(shape, gradient.layout, slab, x, zeros, pack_x, packed);
  Vectors vectors(shape, gradient.layout, slab, shape.y.phases[0], shape.x.phases[0]);
  const int64_t width = kernels.block_vectors * kernels.lanes;
  const int64_t total = vectors.count();
  const int64_t whole = (total + kernels.block_vectors - 1) / kernels.block_vectors *
                        kernels.block_vectors;
  for (int64_t v = 0; v < whole; ++v) {
    const T* lanes[kMostLanes];
    std::fill_n(lanes, kMostLanes, zeros);
    if (v < total) vectors.Lanes<const T>(dy, shape.target_channels, zeros, lanes);
    pack_dy(lanes, shape.target_channels,
            panels + v / kernels.block_vectors * gradient.panel() +
                v % kernels.block_vectors * kernels.lanes,
            width);
    vectors.Step();
  }
}

}  // namespace

template <typename T>
void PackSlab(const ConvGradient& gradient, const Slab& slab, const T* x, const T* dy,
              float* packed) {
  const ConvShape& shape = gradient.shape;
  float* behind = packed + gradient.layout.plane * shape.source_channels +
                  gradient.blocks() * gradient.panel();
  T* zeros = reinterpret_cast<T*>(behind);
  std::fill_n(zeros, std::max(shape.source_channels, shape.target_channels), T{});
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (gradient.pairs != nullptr) {
      const int64_t of_x = shape.y.sources * shape.x.sources * shape.source_channels;
      const int64_t of_dy = shape.y.targets * shape.x.targets * shape.target_channels;
      const PairPacker pack_x(*gradient.pairs, x, gradient.batch * of_x,
                              shape.images * of_x, zeros);
      const PairPacker pack_dy(*gradient.pairs, dy, gradient.batch * of_dy,
                               shape.images * of_dy, zeros);
      return PackSlabBy(gradient, slab, x, dy, zeros, pack_x, pack_dy, packed);
    }
  }
  const Packer<T> pack(*gradient.kernels);
  PackSlabBy<T>(gradient, slab, x, dy, zeros, pack, pack, packed);
}

void AccumulateSlab(const ConvGradient& gradient, const Slab& slab, const float* packed,
                    int64_t begin, int64_t end, float* sums) {
  const ConvKernels& kernels = *gradient.kernels;
  const ConvShape& shape = gradient.shape;
  const float* panels = packed + gradient.layout.plane * shape.source_channels;
  Vectors vectors(shape, gradient.layout, slab, shape.y.phases[0], shape.x.phases[0]);
  const int64_t total = vectors.count();
  const auto accumulate =
      gradient.pairs == nullptr ? kernels.accumulate : gradient.pairs->conv_accumulate;
  const float* bases[kMostVectors];
  for (int64_t first = 0; first < total; first += kernels.block_vectors) {
    for (int v = 0; v < kernels.block_vectors; ++v) {
      // Beyond the last vector dy is zero: any sources do.
      bases[v] = first + v < total ? packed + vectors.base() : packed;
      vectors.Step();
    }
    int64_t first_run = 0, first_entry = 0;
    const float* of_group = panels;
    for (const PlacedPlan& group : gradient.placed) {
      const int64_t runs = group.plan->runs();
      const int64_t from = std::clamp<int64_t>(begin - first_run, 0, runs);
      const int64_t to = std::clamp<int64_t>(end - first_run, 0, runs);
      if (from < to) {
        accumulate(*group.plan, from, to, bases, group.tile_distance,
                   group.offsets.data(), of_group, sums + first_entry);
      }
      first_run += runs;
      first_entry += group.plan->entries();
      of_group += shape.group_targets() * kernels.block_vectors * kernels.lanes;
      for (int v = 0; v < kernels.block_vectors; ++v) {
        bases[v] += shape.group_sources() * gradient.layout.plane;
      }
    }
    panels += gradient.panel();
  }
}

template void MultiplySlab(const ConvProduct&, const Slab&, const float*, float*, float*);
template void MultiplySlab(const ConvProduct&, const Slab&, const Bfloat16*, Bfloat16*,
                           float*);
template void PackSlab(const ConvGradient&, const Slab&, const float*, const float*,
                       float*);
template void PackSlab(const ConvGradient&, const Slab&, const Bfloat16*, const Bfloat16*,
                       float*);

}  // namespace topkast
