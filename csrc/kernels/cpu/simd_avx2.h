// Eight floats with AVX2 and FMA. Include only in files compiled for them.
#pragma once

#include <immintrin.h>

namespace molmoact2::kernels {
namespace {

// max() and min() return the second operand when either is NaN, as the instruction does.
struct SimdAvx2 {
  using Register = __m256;
  static constexpr int kLanes = 8;
  // 12 accumulators, 2 operands and one broadcast fit the 16 registers.
  static constexpr int kPanelRows = 6;
  static constexpr int kRowStep = 2;
  static constexpr int kMaxVectors = 2;

  static Register zero() { return _mm256_setzero_ps(); }
  static Register set(float value) { return _mm256_set1_ps(value); }
  static Register load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Register a) { _mm256_storeu_ps(to, a); }
  static Register add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm256_mul_ps(a, b); }
  static Register divide(Register a, Register b) { return _mm256_div_ps(a, b); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register sqrt(Register a) { return _mm256_sqrt_ps(a); }
  static Register max(Register a, Register b) { return _mm256_max_ps(a, b); }
  static Register min(Register a, Register b) { return _mm256_min_ps(a, b); }
  static Register round(Register a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2^n for whole n in -126..127.
  static Register power_of_two(Register n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  // a where x >= limit or x is NaN, else 0.
  static Register zero_where_below(Register x, Register limit, Register a) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), a);
  }
};

}  // namespace
}  // namespace molmoact2::kernels
