// Writes x86-64 instructions: the few that generated products consist of.
//
// All work on zmm registers (AVX-512F, EVEX encoding). An EVEX instruction with memory has
// an offset of one byte in units of its operand: 64 bytes for a vector, 4 for a float that
// is broadcast. Larger offsets would take 3 bytes more; `Advance` moves the base instead.
// Intel's manual, volume 2, section 2.7 describes the prefix.
#ifndef TOPKAST_EMITTER_H_
#define TOPKAST_EMITTER_H_

#include <cstdint>
#include <cstring>

namespace topkast {

// General registers, by their number in an instruction. Those without an extension bit.
enum class Base : uint8_t { kRdx = 2, kRsi = 6, kRdi = 7 };

class Emitter {
 public:
  // Bytes of the longest instruction; one more is written beyond it.
  static constexpr int64_t kLongest = 7;
  // Offsets, in units of the operand, that an instruction can hold.
  static constexpr int64_t kLeast = -128, kMost = 127;

  explicit Emitter(uint8_t* to) : at_(to) {}

  uint8_t* at() const { return at_; }

  // vector = the 16 floats at base + 64 * offset (vmovaps).
  void Load(int vector, Base base, int64_t offset) {
    Memory(kMap0f, kNoPrefix, 0x28, vector, 0, base, offset, false);
  }

  // The 16 floats at base + 64 * offset = vector (vmovaps).
  void Store(int vector, Base base, int64_t offset) {
    Memory(kMap0f, kNoPrefix, 0x29, vector, 0, base, offset, false);
  }

  // sum += factor * the float at base + 4 * offset (vfmadd231ps with a broadcast).
  void MultiplyAdd(int sum, int factor, Base base, int64_t offset) {
    Memory(kMap0f38, kPrefix66, 0xB8, sum, factor, base, offset, true);
  }

  // vector = 0 (vpxord).
  void Zero(int v) {
    const uint64_t p0 = (~v >> 3 & 1) << 7 | (~v >> 4 & 1) << 6 | (~v >> 3 & 1) << 5 |
                        (~v >> 4 & 1) << 4 | kMap0f;
    const uint64_t p1 = (~v & 15) << 3 | 4 | kPrefix66;
    const uint64_t p2 = kWidth512 | (~v >> 4 & 1) << 3;
    const uint64_t registers = 0xC0 | (v & 7) << 3 | (v & 7);
    Put(0x62 | p0 << 8 | p1 << 16 | p2 << 24 | uint64_t{0xEF} << 32 | registers << 40, 6);
  }

  // base += bytes (add).
  void Advance(Base base, int32_t bytes) {
    const uint64_t which = 0xC0 | static_cast<uint64_t>(base);
    Put(0x48 | 0x81 << 8 | which << 16 | static_cast<uint64_t>(bytes) << 24, 7);
  }

  // Leaves the function; the upper halves of registers are clean, as callers expect.
  void Return() { Put(0xF8C5 | 0x77 << 16 | uint64_t{0xC3} << 24, 4); }

  // Fills up to a multiple of `bytes`; never executed (int3).
  void Align(int64_t bytes) {
    while (reinterpret_cast<uintptr_t>(at_) % bytes != 0) *at_++ = 0xCC;
  }

 private:
  static constexpr uint64_t kMap0f = 1, kMap0f38 = 2;
  static constexpr uint64_t kNoPrefix = 0, kPrefix66 = 1;
  static constexpr uint64_t kWidth512 = 2 << 5;

  // 62, three bytes of prefix, opcode, ModRM with an offset of one byte, the offset. High
  // bits of register numbers are stored inverted.
  void Memory(uint64_t map, uint64_t prefix, uint64_t opcode, int vector, int second,
              Base base, int64_t offset, bool broadcast) {
    const uint64_t p0 = (~vector >> 3 & 1) << 7 | 0x60 | (~vector >> 4 & 1) << 4 | map;
    const uint64_t p1 = (~second & 15) << 3 | 4 | prefix;
    const uint64_t p2 =
        kWidth512 | (broadcast ? 1 << 4 : 0) | (~second >> 4 & 1) << 3;
    const uint64_t modrm = 0x40 | (vector & 7) << 3 | static_cast<uint64_t>(base);
    const uint64_t last = static_cast<uint8_t>(offset);
    Put(0x62 | p0 << 8 | p1 << 16 | p2 << 24 | opcode << 32 | modrm << 40 | last << 48, 7);
  }

  void Put(uint64_t bytes, int64_t count) {
    std::memcpy(at_, &bytes, 8);
    at_ += count;
  }

  uint8_t* at_;
};

}  // namespace topkast

#endif  // TOPKAST_EMITTER_H_
