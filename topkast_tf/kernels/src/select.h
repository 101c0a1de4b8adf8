// The exact sets of a weight: its largest entries by magnitude.
#ifndef TOPKAST_SELECT_H_
#define TOPKAST_SELECT_H_

#include <cstdint>

#include "entrywise.h"

namespace topkast {

// Writes the codes of a weight: A its `kept_a` largest entries by magnitude, B its
// `kept_b` largest. Of equal magnitudes the lower index is taken first.
//
// Args:
//   theta: `size` entries, less than 2^31.
//   kept_a, kept_b: 0 <= kept_a <= kept_b <= size.
//   codes: receives the codes.
//
// Returns:
//   Whether no entry is a NaN; if one is, the codes mean nothing.
bool SelectLargest(const Entrywise& passes, const float* theta, int64_t size,
                   int64_t kept_a, int64_t kept_b, uint8_t* codes);

}  // namespace topkast

#endif  // TOPKAST_SELECT_H_
