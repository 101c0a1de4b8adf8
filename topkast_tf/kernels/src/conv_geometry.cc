#include "conv_geometry.h"

#include <algorithm>
#include <limits>

namespace topkast {
namespace {

// Bytes of the planes of a slab: most of the L2 cache of a core (1 MiB on Zen 4; 1.25 to
// 2 MiB on Intel's server cores).
constexpr int64_t kSlabBytes = 768 << 10;

// But of no fewer vectors than these, where channels are many: a block has 6 or 8, and
// all entries of the weight are read for each block.
constexpr int64_t kSlabVectors = 16;

int64_t CeilDiv(int64_t a, int64_t b) {  // b > 0
  return a / b + (a % b > 0);
}

int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

int64_t SpanOf(const ConvAxis& axis) {
  return axis.largest_shift() - axis.smallest_shift();
}

// Images in a group: as many as leave the fewest lanes empty, the smallest of these that
// keeps loads aligned to 32 bytes. Others cost a fifth more (measured on Zen 4).
int64_t GroupOf(const ConvShape& shape, int64_t lanes) {
  const int64_t cols = std::max<int64_t>(1, shape.x.count());
  int64_t best = 1, best_cost = std::numeric_limits<int64_t>::max();
  for (int64_t group = lanes; group >= 1; group /= 2) {
    const int64_t vectors = CeilDiv(shape.images, group) * CeilDiv(cols * group, lanes);
    const int64_t cost = vectors * (group >= std::min<int64_t>(8, lanes) ? 5 : 6);
    if (cost < best_cost || (cost == best_cost && group >= 8)) {
      best = group;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace

int64_t ConvAxis::smallest_shift() const {
  int64_t found = std::numeric_limits<int64_t>::max();
  for (const Phase& phase : phases) {
    for (const Tap& tap : phase.taps) found = std::min(found, tap.shift);
  }
  return found;
}

int64_t ConvAxis::largest_shift() const {
  int64_t found = std::numeric_limits<int64_t>::min();
  for (const Phase& phase : phases) {
    for (const Tap& tap : phase.taps) found = std::max(found, tap.shift);
  }
  return found;
}

int64_t ConvAxis::count() const {
  int64_t found = 0;
  for (const Phase& phase : phases) found = std::max(found, phase.count);
  return found;
}

ConvAxis ForwardAxis(const WindowAxis& window, int64_t sources, int64_t targets,
                     int64_t before) {
  Phase all = {0, targets, {}};
  for (int64_t k = 0; k < window.size; ++k) {
    all.taps.push_back({k, k * window.dilation - before});
  }
  return {sources, targets, window.stride, 1, {all}};
}

// Forward, source place i reads into target t where i = s t + k d - before. So source
// place i has the taps with k d = a (mod s), a = (i + before) mod s, and their targets are
// (i + before - a) / s - (k d - a) / s.
ConvAxis GradientAxis(const WindowAxis& window, int64_t sources, int64_t targets,
                      int64_t before) {
  const int64_t s = window.stride;
  ConvAxis axis = {targets, sources, 1, s, {}};
  for (int64_t a = 0; a < s; ++a) {
    const int64_t first_step = CeilDiv(std::max<int64_t>(0, before - a), s);
    Phase phase;
    phase.first = a - before + s * first_step;
    phase.count = std::max<int64_t>(0, CeilDiv(sources - phase.first, s));
    for (int64_t k = 0; k < window.size; ++k) {
      if (k * window.dilation % s != a) continue;
      phase.taps.push_back({k, first_step - (k * window.dilation - a) / s});
    }
    axis.phases.push_back(phase);
  }
  return axis;
}

int64_t PlaneLayout::slabs(const ConvShape& shape) const {
  return CeilDiv(groups(shape), slab_groups) * CeilDiv(shape.y.count(), slab_rows) *
         CeilDiv(shape.x.count(), slab_cols);
}

Slab PlaneLayout::SlabAt(const ConvShape& shape, int64_t index) const {
  const int64_t by_row = CeilDiv(shape.y.count(), slab_rows);
  const int64_t by_col = CeilDiv(shape.x.count(), slab_cols);
  Slab slab;
  slab.first_col = index % by_col * slab_cols;
  slab.first_row = index / by_col % by_row * slab_rows;
  slab.first_group = index / by_col / by_row * slab_groups;
  slab.cols = std::min(slab_cols, shape.x.count() - slab.first_col);
  slab.rows = std::min(slab_rows, shape.y.count() - slab.first_row);
  slab.groups = std::min(slab_groups, groups(shape) - slab.first_group);
  return slab;
}

PlaneLayout LayoutOf(const ConvShape& shape, int64_t lanes, int64_t parts) {
  PlaneLayout layout;
  layout.lanes = lanes;
  layout.group = GroupOf(shape, lanes);
  const int64_t groups = std::max<int64_t>(1, layout.groups(shape));
  const int64_t all_rows = std::max<int64_t>(1, shape.y.count());
  const int64_t all_cols = std::max<int64_t>(1, shape.x.count());
  const int64_t step_y = shape.y.source_step, step_x = shape.x.source_step;
  const int64_t span_y = SpanOf(shape.y), span_x = SpanOf(shape.x);
  const int64_t floats =
      kSlabBytes / static_cast<int64_t>(sizeof(float)) /
      std::max<int64_t>(1, shape.source_channels);

  // Part of a row for some columns of targets: a vector that is loaded ends in it.
  const auto part_of = [&](int64_t cols) {
    return RoundUp(span_x / step_x * layout.group, lanes) +
           RoundUp(cols * layout.group, lanes);
  };
  const int64_t in_vector = lanes / layout.group;
  int64_t cols = all_cols;
  while (cols > 4 * in_vector && part_of(cols) * step_x * (span_y + 1) > floats) {
    cols = RoundUp((cols + 1) / 2, in_vector);
  }
  layout.slab_cols = cols;
  layout.part = part_of(cols);
  layout.row = layout.part * step_x;

  const int64_t in_row = layout.vectors_of(cols);
  const int64_t fitting = (floats / layout.row - span_y - 1) / step_y + 1;
  const int64_t fewest = std::min(all_rows, CeilDiv(kSlabVectors, in_row));
  int64_t rows = std::clamp<int64_t>(fitting, fewest, all_rows);
  const int64_t wanted = CeilDiv(parts, groups * CeilDiv(all_cols, cols));
  rows = std::min(rows, std::max<int64_t>(1, all_rows / std::max<int64_t>(1, wanted)));
  layout.slab_rows = CeilDiv(all_rows, CeilDiv(all_rows, rows));
  layout.rows = (layout.slab_rows - 1) * step_y + span_y + 1;

  layout.slab_groups = 1;
  if (layout.slab_rows == all_rows && cols == all_cols) {
    const int64_t most = std::max<int64_t>(1, groups / std::max<int64_t>(1, parts));
    const int64_t least = CeilDiv(kSlabVectors, all_rows * in_row);
    layout.slab_groups = std::clamp<int64_t>(floats / (layout.rows * layout.row),
                                             std::min(least, most), most);
  }
  // An odd number of cache lines, so that channels do not share a set of the cache.
  layout.plane = RoundUp(layout.slab_groups * layout.rows * layout.row, 16);
  layout.plane += layout.plane / 16 % 2 == 0 ? 16 : 0;
  return layout;
}

int64_t TapOffset(const ConvShape& shape, const PlaneLayout& layout, const Tap& y,
                  const Tap& x) {
  const int64_t row = y.shift - shape.y.smallest_shift();
  const int64_t col = x.shift - shape.x.smallest_shift();
  const int64_t step = shape.x.source_step;
  return row * layout.row + col % step * layout.part + col / step * layout.group;
}

}  // namespace topkast
