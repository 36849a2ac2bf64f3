// Sixteen floats with AVX-512F. Include only in files compiled for it.
#pragma once

#include <immintrin.h>

namespace molmoact2::kernels {
namespace {

// max() and min() return the second operand when either is NaN, as the instruction does.
struct SimdAvx512 {
  using Register = __m512;
  static constexpr int kLanes = 16;
  // The tile of the matrix product: kPanelRows * kMaxVectors accumulators, kMaxVectors operands and one
  // broadcast fit the 32 registers.
  static constexpr int kPanelRows = 12;
  static constexpr int kRowStep = 4;
  static constexpr int kMaxVectors = 2;

  static Register zero() { return _mm512_setzero_ps(); }
  static Register set(float value) { return _mm512_set1_ps(value); }
  static Register load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Register a) { _mm512_storeu_ps(to, a); }
  static Register add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static Register divide(Register a, Register b) { return _mm512_div_ps(a, b); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register sqrt(Register a) { return _mm512_sqrt_ps(a); }
  static Register max(Register a, Register b) { return _mm512_max_ps(a, b); }
  static Register min(Register a, Register b) { return _mm512_min_ps(a, b); }
  static Register round(Register a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2^n for whole n in -126..127.
  static Register power_of_two(Register n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  // a where x >= limit or x is NaN, else 0.
  static Register zero_where_below(Register x, Register limit, Register a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
  }
};

}  // namespace
}  // namespace molmoact2::kernels
