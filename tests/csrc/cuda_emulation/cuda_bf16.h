// bf16 as far as kernels here use it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "vector_types.h"

struct __nv_bfloat16 {
  unsigned short __x;

  __nv_bfloat16() = default;
  // To nearest, half to even; NaN stays NaN.
  __nv_bfloat16(float value) {  // NOLINT(google-explicit-constructor): implicit in CUDA
    const auto bits = std::bit_cast<std::uint32_t>(value);
    __x =
        static_cast<unsigned short>(std::isnan(value) ? 0x7FFFU : (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
  }
  operator float() const {  // NOLINT(google-explicit-constructor): implicit in CUDA
    return std::bit_cast<float>(static_cast<std::uint32_t>(__x) << 16);
  }
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x;
  __nv_bfloat16 y;
};

inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return static_cast<float>(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return __floats2bfloat162_rn(pair.x, pair.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float value) { return __floats2bfloat162_rn(value, value); }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) {
  return {static_cast<float>(pair.x), static_cast<float>(pair.y)};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
inline float __low2float(__nv_bfloat162 pair) { return static_cast<float>(pair.x); }
inline float __high2float(__nv_bfloat162 pair) { return static_cast<float>(pair.y); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 value;
  value.__x = bits;
  return value;
}
