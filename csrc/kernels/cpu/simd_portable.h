// Four floats in the compiler's own vectors: what every processor of the architecture runs, whatever it has.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace molmoact2::kernels {
namespace {

// max() and min() return the second operand when either is NaN.
struct SimdPortable {
  using Register = float __attribute__((vector_size(16)));
  using Bits = std::uint32_t __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  // 8 accumulators, 2 operands and one broadcast fit 16 registers.
  static constexpr int kPanelRows = 4;
  static constexpr int kRowStep = 2;
  static constexpr int kMaxVectors = 2;

  static Register zero() { return Register{}; }
  static Register set(float value) { return Register{value, value, value, value}; }
  static Register load(const float* from) { return Register{from[0], from[1], from[2], from[3]}; }
  static void store(float* to, Register a) {
    for (int i = 0; i < kLanes; ++i) to[i] = a[i];
  }
  static Register add(Register a, Register b) { return a + b; }
  static Register subtract(Register a, Register b) { return a - b; }
  static Register multiply(Register a, Register b) { return a * b; }
  static Register divide(Register a, Register b) { return a / b; }
  static Register multiply_add(Register a, Register b, Register c) { return a * b + c; }
  static Register sqrt(Register a) {
    return Register{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])};
  }
  static Register max(Register a, Register b) { return a > b ? a : b; }
  static Register min(Register a, Register b) { return a < b ? a : b; }
  // Below 2^22 in magnitude: adding 1.5 * 2^23 leaves no room for a fraction.
  static Register round(Register a) { return a + kRounder - kRounder; }
  // 2^n for whole n in -126..127; the low bits of n + 1.5 * 2^23 are n, also where a NaN could not be
  // converted.
  static Register power_of_two(Register n) {
    return std::bit_cast<Register>((std::bit_cast<Bits>(n + kRounder) + 127U) << 23U);
  }
  // a where x >= limit or x is NaN, else 0.
  static Register zero_where_below(Register x, Register limit, Register a) {
    return x < limit ? Register{} : a;
  }

 private:
  static constexpr float kRounder = 12582912.0F;
};

}  // namespace
}  // namespace molmoact2::kernels
