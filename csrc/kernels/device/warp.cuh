// Sums and maxima over the lanes of a warp and the threads of a block.
#pragma once

#include <cuda_runtime.h>

namespace molmoact2::kernels {

inline constexpr int kWarpLanes = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr int kMaxWarps = 32;  // of a block

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarpLanes; }

// Over each aligned group of kLanes lanes (a power of two); every lane of the warp calls, and gets the result
// of its group. Lanes add in the same tree, so all hold the same bits.
template <int kLanes = kWarpLanes, class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// A NaN may get lost: comparisons with it are false.
template <int kLanes = kWarpLanes, class T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Over all threads of a one-dimensional block of whole warps; every thread calls and gets the result.
// scratch: shared, one entry per warp; free again on return.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads();
  T sum{};
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  for (int warp = 0; warp < warps; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}

template <class T>
__device__ __forceinline__ T block_max(T value, T* scratch) {
  value = warp_max(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads();
  T most = scratch[0];
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  for (int warp = 1; warp < warps; ++warp) most = scratch[warp] > most ? scratch[warp] : most;
  __syncthreads();
  return most;
}

}  // namespace molmoact2::kernels
