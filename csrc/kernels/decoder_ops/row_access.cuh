// Rows of bf16 in chunks of eight, whatever their width and alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/device/bf16.cuh"

namespace molmoact2::kernels {

// kAligned: every row starts at a multiple of 16 bytes and holds whole chunks. Otherwise numbers are read and
// written one by one, and those past the end of the row read as 0.
template <bool kAligned>
__device__ __forceinline__ void load_chunk(const __nv_bfloat16* row, int at, int width,
                                           float (&values)[kBf16PerLoad]) {
  if constexpr (kAligned) {
    unpack_bf16(*reinterpret_cast<const uint4*>(row + at), values);
  } else {
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) {
      values[i] = at + i < width ? __bfloat162float(row[at + i]) : 0.0F;
    }
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_chunk(__nv_bfloat16* row, int at, int width,
                                            const float (&values)[kBf16PerLoad]) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(row + at) = pack_bf16(values);
  } else {
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) {
      if (at + i < width) row[at + i] = __float2bfloat16_rn(values[i]);
    }
  }
}

// Whether rows of `width` numbers, one behind the other from each pointer on, can be read in whole chunks.
inline bool in_whole_chunks(int width, std::initializer_list<const void*> pointers) {
  bool aligned = width % kBf16PerLoad == 0;
  for (const void* const pointer : pointers) {
    aligned = aligned && reinterpret_cast<std::uintptr_t>(pointer) % sizeof(uint4) == 0;
  }
  return aligned;
}

}  // namespace molmoact2::kernels
