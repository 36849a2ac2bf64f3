// bf16 as kernels move it: eight at a time, computed with as float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace molmoact2::kernels {

inline constexpr int kBf16PerLoad = 8;  // in 16 bytes

// A bf16 is the upper half of a float: exact.
__device__ __forceinline__ float bf16_low(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(std::uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000U); }

// Rounded to nearest, half to even; the first in the lower half.
__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.x)) |
         static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}

__device__ __forceinline__ void unpack_bf16(const uint4& packed, float (&values)[kBf16PerLoad]) {
  values[0] = bf16_low(packed.x);
  values[1] = bf16_high(packed.x);
  values[2] = bf16_low(packed.y);
  values[3] = bf16_high(packed.y);
  values[4] = bf16_low(packed.z);
  values[5] = bf16_high(packed.z);
  values[6] = bf16_low(packed.w);
  values[7] = bf16_high(packed.w);
}

__device__ __forceinline__ uint4 pack_bf16(const float (&values)[kBf16PerLoad]) {
  return {bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]), bf16_pair(values[4], values[5]),
          bf16_pair(values[6], values[7])};
}

}  // namespace molmoact2::kernels
