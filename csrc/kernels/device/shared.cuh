// Shared memory whose size the launch decides.
#pragma once

#include <cuda_runtime.h>

namespace molmoact2::kernels {

// The block's dynamic shared memory, LaunchShape::shared_bytes of it, aligned to 128 bytes.
template <class T>
__device__ T* dynamic_shared() {
#ifdef MOLMOACT2_CUDA_EMULATION
  return static_cast<T*>(cuda_emulation::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char molmoact2_dynamic_shared[];
  return reinterpret_cast<T*>(molmoact2_dynamic_shared);
#endif
}

}  // namespace molmoact2::kernels
