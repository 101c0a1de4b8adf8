// Random cases for kernels, against sums in double precision.
//
// Compiled with sanitizers by test_sanitizers.py. Buffers have exactly the size that the
// kernels may touch, so that a sanitizer sees each access beyond.
#ifndef TOPKAST_FUZZ_H_
#define TOPKAST_FUZZ_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "entrywise.h"
#include "kernels.h"

// One random case each.
void CheckProducts(const topkast::Kernels& kernels, std::mt19937& random);
void CheckBfloat16(const topkast::Kernels& kernels, std::mt19937& random);
void CheckActivations(const topkast::Kernels& kernels, std::mt19937& random);
void CheckBlocks(const topkast::Kernels& kernels, std::mt19937& random);
void CheckConvolution(const topkast::Kernels& kernels, std::mt19937& random);
void CheckSelection(const topkast::Entrywise& passes, std::mt19937& random);
void CheckEntrywise(const topkast::Entrywise& passes, std::mt19937& random);

// The plan of a whole weight, with the place of each entry.
struct PlacedPlan : topkast::MatrixPlan {
  PlacedPlan(const topkast::Pattern& pattern, int tile)
      : MatrixPlan(
            topkast::MakeMatrixPlan(pattern, tile, topkast::Vector::kNone)),
        source(entries()) {
    VisitPlaces(0, runs(), [&](int32_t entry, int64_t place) { source[entry] = place; });
  }

  std::vector<int64_t> source;
};

struct Free {
  void operator()(float* data) const { std::free(data); }
};

// Aligned memory without a byte more than is asked for.
inline std::unique_ptr<float, Free> Aligned(int64_t floats) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, std::max<int64_t>(1, floats) * sizeof(float))) abort();
  return std::unique_ptr<float, Free>(static_cast<float*>(data));
}

inline void Expect(double found, double expected, const char* what, const char* name) {
  if (std::abs(found - expected) <= 1e-3 * (1 + std::abs(expected))) return;
  std::printf("%s of %s: %g, expected %g\n", what, name, found, expected);
  std::exit(1);
}

// Rounded to bfloat16.
inline std::vector<topkast::Bfloat16> Halves(const std::vector<float>& values) {
  std::vector<topkast::Bfloat16> halves(values.size());
  for (size_t k = 0; k < values.size(); ++k) topkast::Assign(values[k], &halves[k]);
  return halves;
}

inline std::vector<float> Floats(const std::vector<topkast::Bfloat16>& halves) {
  std::vector<float> values;
  for (const topkast::Bfloat16 half : halves) values.push_back(topkast::ToFloat(half));
  return values;
}

// `found` has the bits of `exact`, rounded.
inline void ExpectRounded(const std::vector<topkast::Bfloat16>& found,
                          const std::vector<float>& exact, const char* what,
                          const char* name) {
  const std::vector<topkast::Bfloat16> expected = Halves(exact);
  for (size_t k = 0; k < found.size(); ++k) {
    if (found[k].bits == expected[k].bits) continue;
    std::printf("%s of %s: %04x, expected %04x\n", what, name, found[k].bits,
                expected[k].bits);
    std::exit(1);
  }
}

#endif  // TOPKAST_FUZZ_H_
