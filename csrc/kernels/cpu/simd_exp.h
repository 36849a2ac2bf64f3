// e^x on vectors. Internal linkage, see cpu/small_gemm.h.
#pragma once

#include "kernels/cpu/unroll.h"

namespace molmoact2::kernels {
namespace {

// Relative error below 2e-7 for -87 < x < 88; 0 where x < -87, e^88 above 88, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact; e^r - 1 - r by a polynomial of
// degree 5 in r (coefficients of the Cephes library's expf).
template <typename Simd>
MOLMOACT2_INLINE typename Simd::Register exp_of(typename Simd::Register x) {
  using Register = typename Simd::Register;
  const Register least = Simd::set(-87.0F);
  // With x as the second operand NaN passes through.
  const Register bounded = Simd::min(Simd::set(88.0F), Simd::max(least, x));
  const Register n = Simd::round(Simd::multiply(bounded, Simd::set(1.44269504F)));
  Register r = Simd::multiply_add(n, Simd::set(-0.693359375F), bounded);
  r = Simd::multiply_add(n, Simd::set(2.12194440e-4F), r);
  Register p = Simd::set(1.9875691500e-4F);
  p = Simd::multiply_add(p, r, Simd::set(1.3981999507e-3F));
  p = Simd::multiply_add(p, r, Simd::set(8.3334519073e-3F));
  p = Simd::multiply_add(p, r, Simd::set(4.1665795894e-2F));
  p = Simd::multiply_add(p, r, Simd::set(1.6666665459e-1F));
  p = Simd::multiply_add(p, r, Simd::set(5.0000001201e-1F));
  p = Simd::multiply_add(p, Simd::multiply(r, r), r);
  p = Simd::add(p, Simd::set(1.0F));
  return Simd::zero_where_below(x, least, Simd::multiply(p, Simd::power_of_two(n)));
}

}  // namespace
}  // namespace molmoact2::kernels
