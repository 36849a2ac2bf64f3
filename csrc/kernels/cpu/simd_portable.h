// Four floats in plain C++: what every processor runs, and what the others are tested against.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace molmoact2::kernels {
namespace {

// max() and min() return the second operand when either is NaN.
struct SimdPortable {
  static constexpr int kLanes = 4;
  static constexpr int kPanelRows = 4;
  static constexpr int kRowStep = 2;
  static constexpr int kMaxVectors = 2;
  struct Register {
    float lane[kLanes];
  };

  template <typename Operation>
  static Register each(Operation operation) {
    return {operation(0), operation(1), operation(2), operation(3)};
  }
  static Register zero() { return {}; }
  static Register set(float value) { return {value, value, value, value}; }
  static Register load(const float* from) { return {from[0], from[1], from[2], from[3]}; }
  static void store(float* to, Register a) {
    for (int i = 0; i < kLanes; ++i) to[i] = a.lane[i];
  }
  static Register add(Register a, Register b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Register subtract(Register a, Register b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static Register multiply(Register a, Register b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Register divide(Register a, Register b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static Register multiply_add(Register a, Register b, Register c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static Register sqrt(Register a) {
    return each([&](int i) { return std::sqrt(a.lane[i]); });
  }
  static Register max(Register a, Register b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Register min(Register a, Register b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // Below 2^22 in magnitude: adding 1.5 * 2^23 leaves no room for a fraction.
  static Register round(Register a) {
    return each([&](int i) { return a.lane[i] + kRounder - kRounder; });
  }
  // 2^n for whole n in -126..127; the low bits of n + 1.5 * 2^23 are n, also where a NaN could not be
  // converted.
  static Register power_of_two(Register n) {
    return each([&](int i) {
      return std::bit_cast<float>((std::bit_cast<std::uint32_t>(n.lane[i] + kRounder) + 127U) << 23U);
    });
  }
  // a where x >= limit or x is NaN, else 0.
  static Register zero_where_below(Register x, Register limit, Register a) {
    return each([&](int i) { return x.lane[i] < limit.lane[i] ? 0.0F : a.lane[i]; });
  }

 private:
  static constexpr float kRounder = 12582912.0F;
};

}  // namespace
}  // namespace molmoact2::kernels
