// A bfloat16: the upper half of a float.
#ifndef TOPKAST_BFLOAT16_H_
#define TOPKAST_BFLOAT16_H_

#include <cstdint>
#include <cstring>

namespace topkast {

struct Bfloat16 {
  uint16_t bits;
};

// Always inlined: a copy that was compiled for one instruction set must not be linked into
// the code of another.
#define TOPKAST_SCALAR inline __attribute__((always_inline))

TOPKAST_SCALAR float ToFloat(float value) { return value; }
TOPKAST_SCALAR float ToFloat(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

// To nearest even. A NaN stays one if the lower half of its bits is zero: so are those that
// sums of bfloat16 numbers give, as a machine passes on what it reads or makes its own.
TOPKAST_SCALAR void Assign(float value, float* to) { *to = value; }
TOPKAST_SCALAR void Assign(float value, Bfloat16* to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  to->bits = static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#undef TOPKAST_SCALAR

}  // namespace topkast

#endif  // TOPKAST_BFLOAT16_H_
