// Four floats with NEON on aarch64.
#pragma once

#include <arm_neon.h>

namespace molmoact2::kernels {
namespace {

// max() and min() return NaN when either operand is.
struct SimdNeon {
  using Register = float32x4_t;
  static constexpr int kLanes = 4;
  // 24 accumulators, 4 operands and one broadcast fit the 32 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kRowStep = 2;
  static constexpr int kMaxVectors = 4;

  static Register zero() { return vdupq_n_f32(0.0F); }
  static Register set(float value) { return vdupq_n_f32(value); }
  static Register load(const float* from) { return vld1q_f32(from); }
  static void store(float* to, Register a) { vst1q_f32(to, a); }
  static Register add(Register a, Register b) { return vaddq_f32(a, b); }
  static Register subtract(Register a, Register b) { return vsubq_f32(a, b); }
  static Register multiply(Register a, Register b) { return vmulq_f32(a, b); }
  static Register divide(Register a, Register b) { return vdivq_f32(a, b); }
  static Register multiply_add(Register a, Register b, Register c) { return vfmaq_f32(c, a, b); }
  static Register sqrt(Register a) { return vsqrtq_f32(a); }
  static Register max(Register a, Register b) { return vmaxq_f32(a, b); }
  static Register min(Register a, Register b) { return vminq_f32(a, b); }
  static Register round(Register a) { return vrndnq_f32(a); }
  // 2^n for whole n in -126..127.
  static Register power_of_two(Register n) {
    const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  }
  // a where x >= limit or x is NaN, else 0.
  static Register zero_where_below(Register x, Register limit, Register a) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, limit)));
  }
};

}  // namespace
}  // namespace molmoact2::kernels
