// The products of a convolution, slab by slab.
//
// A slab's sources are packed into planes, which stay in a cache while they are used by
// all entries of the weight (conv_geometry.h).
#ifndef TOPKAST_CONV_SLAB_H_
#define TOPKAST_CONV_SLAB_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "conv_geometry.h"
#include "conv_plan.h"
#include "kernels.h"

namespace topkast {

// The plan of a pair of phases, and where its columns are in the planes.
struct PlacedPlan {
  std::shared_ptr<const Plan> plan;
  std::vector<int32_t> offsets;  // of a tile's columns
  int64_t tile_distance = 0;     // floats between two tiles
};

PlacedPlan Place(const ConvShape& shape, const PlaneLayout& layout, const Phase& y,
                 const Phase& x, std::shared_ptr<const Plan> plan);

// What the slabs of one forward pass, or of one input gradient, share.
struct ConvProduct {
  // The product of a group of channels.
  struct OfGroup {
    PlacedPlan placed;
    const ConvEntry* entries = nullptr;
  };
  struct Part {
    const Phase* y;
    const Phase* x;
    std::vector<OfGroup> groups;
  };

  const ConvKernels* kernels;
  ConvShape shape;
  PlaneLayout layout;
  std::vector<Part> parts;

  int64_t scratch_floats() const;
};

// Computes the targets of a slab. `scratch` has product.scratch_floats().
//
// Activations are floats or bfloat16.
template <typename T>
void MultiplySlab(const ConvProduct& product, const Slab& slab, const T* source, T* target,
                  float* scratch);

// What the slabs of one weight gradient share.
//
// Activations in bfloat16 may be packed as pairs of images, shape.images apart: the first
// half of the batch beside the second, of which an image may be missing.
struct ConvGradient {
  const ConvKernels* kernels;
  const PairKernels* pairs = nullptr;  // null for single images
  int64_t batch = 0;                   // images
  ConvShape shape;  // of the forward pass; of pairs, if there are any
  PlaneLayout layout;
  std::vector<PlacedPlan> placed;  // of each group of channels

  int64_t runs() const;         // of all plans, one after another
  int64_t entries() const;
  int64_t blocks() const;       // of the largest slab
  int64_t panel() const;        // floats of a block of dy
  int64_t slab_floats() const;  // of the planes and the panels of a slab
};

// Packs x and dy of a slab into `packed`, of gradient.slab_floats().
template <typename T>
void PackSlab(const ConvGradient& gradient, const Slab& slab, const T* x, const T* dy,
              float* packed);

// Adds a packed slab to the sums of the entries of the runs from `begin` up to `end`. The
// runs and the sums are those of the plans, one after another.
void AccumulateSlab(const ConvGradient& gradient, const Slab& slab, const float* packed,
                    int64_t begin, int64_t end, float* sums);

}  // namespace topkast

#endif  // TOPKAST_CONV_SLAB_H_
