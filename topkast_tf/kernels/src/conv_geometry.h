// Where a convolution finds its sources: axes, taps, and the layout of planes.
//
// A product of a convolution goes from sources to targets: from x to y in the forward
// pass, from dy to dx in the input gradient. On each axis a target sums the sources that
// the taps of the window reach:
//
//   target[first + target_step * i] += source[source_step * i + shift] for each tap.
//
// The forward pass has one phase: all taps, target_step 1, source_step the stride s. The
// input gradient has s phases, of the targets at distance s that the same taps reach, and
// source_step 1.
#ifndef TOPKAST_CONV_GEOMETRY_H_
#define TOPKAST_CONV_GEOMETRY_H_

#include <array>
#include <cstdint>
#include <vector>

namespace topkast {

// The window of a convolution on one axis.
struct WindowAxis {
  int64_t size;
  int64_t stride;
  int64_t dilation;

  int64_t reach() const { return (size - 1) * dilation + 1; }
  bool operator==(const WindowAxis& other) const {
    return size == other.size && stride == other.stride && dilation == other.dilation;
  }
};
using Window = std::array<WindowAxis, 2>;

struct Tap {
  int64_t index;  // in the window
  int64_t shift;
};

// The targets that the same taps reach.
struct Phase {
  int64_t first;
  int64_t count;
  std::vector<Tap> taps;
};

struct ConvAxis {
  int64_t sources;
  int64_t targets;
  int64_t source_step;
  int64_t target_step;
  std::vector<Phase> phases;

  int64_t smallest_shift() const;
  int64_t largest_shift() const;
  int64_t count() const;  // the largest of the phases
};

// The axis of the forward pass, of `before` zeros in front of the sources.
ConvAxis ForwardAxis(const WindowAxis& window, int64_t sources, int64_t targets,
                     int64_t before);

// The axis of the input gradient of a forward pass with these arguments.
ConvAxis GradientAxis(const WindowAxis& window, int64_t sources, int64_t targets,
                      int64_t before);

// A product of `images` images. Activations are image, row, column, channel.
struct ConvShape {
  int64_t images;
  ConvAxis y;
  ConvAxis x;
  int64_t source_channels;
  int64_t target_channels;
  // Groups of channels: the targets of one read only its sources.
  int64_t channel_groups = 1;

  int64_t group_sources() const { return source_channels / channel_groups; }
  int64_t group_targets() const { return target_channels / channel_groups; }
};

// A part of the targets: image groups, and of each phase a range of rows and of columns.
struct Slab {
  int64_t first_group, groups;
  int64_t first_row, rows;
  int64_t first_col, cols;
};

// How sources are packed, and how targets are divided into slabs whose sources fit a
// cache.
//
// A plane has one channel of the sources of a slab: of each group, each row. The sources
// of a row are divided by their place modulo source_step, so that those of neighbouring
// targets are neighbours; the images of a group are next to each other, fastest. A tap is
// then a constant offset, and 32 bytes of images make all loads aligned.
struct PlaneLayout {
  int64_t lanes;        // positions of a vector
  int64_t group;        // images of a group; divides lanes
  int64_t slab_groups;  // at most, of a slab
  int64_t slab_rows;
  int64_t slab_cols;
  int64_t part;   // floats between two parts of a row (places modulo source_step)
  int64_t row;    // floats between two rows
  int64_t rows;   // of a group
  int64_t plane;  // floats between two channels

  int64_t groups(const ConvShape& shape) const {
    return (shape.images + group - 1) / group;
  }
  int64_t slabs(const ConvShape& shape) const;
  Slab SlabAt(const ConvShape& shape, int64_t index) const;
  int64_t vectors_of(int64_t cols) const { return (cols * group + lanes - 1) / lanes; }
};

// The layout for vectors of some lanes. At least `parts` slabs are made, if there are
// enough rows.
PlaneLayout LayoutOf(const ConvShape& shape, int64_t lanes, int64_t parts);

// The offset in a plane of a tap, of the target at the origin of a slab.
int64_t TapOffset(const ConvShape& shape, const PlaneLayout& layout, const Tap& y,
                  const Tap& x);

}  // namespace topkast

#endif  // TOPKAST_CONV_GEOMETRY_H_
