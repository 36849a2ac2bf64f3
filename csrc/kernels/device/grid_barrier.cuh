// A barrier of all blocks of a cooperative launch, cheap enough to stand between the layers of a network.
#pragma once

#include <cuda_runtime.h>

#include "kernels/device/ptx.cuh"

namespace molmoact2::kernels {

// In device memory, zeroed once by its owner. Every use leaves it ready for the next, of a grid of any size;
// two grids that may run at the same time need one each.
struct GridBarrierState {
  unsigned word = 0;
};

// One word does it all: each block adds 1 but the first, which adds what is missing to 2^31. When the last
// one has come the top bit has turned and the bits below are zero again. Each thread holds its own object,
// and all threads of all blocks call arrive() and wait() in turn.
//
// What any thread wrote before arrive() is seen by every thread after wait(), except through loads that
// bypass coherence (load_streaming_16, __ldg): those are for what no block writes. Between the two a block
// can do what depends on nobody, such as asking for the weights of the next layer.
class GridBarrier {
 public:
  __device__ explicit GridBarrier(GridBarrierState* state) : word_(&state->word) {}

  __device__ __forceinline__ void arrive() {
    __syncthreads();
    if (threadIdx.x == 0) {
      const unsigned others = gridDim.x * gridDim.y * gridDim.z - 1;
      const bool first = (blockIdx.x | blockIdx.y | blockIdx.z) == 0;
      before_ = add_release(word_, first ? kPhase - others : 1U);
    }
  }

  __device__ __forceinline__ void wait() {
    if (threadIdx.x == 0) {
      while (((load_acquire(word_) ^ before_) & kPhase) == 0) {
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ void arrive_and_wait() {
    arrive();
    wait();
  }

 private:
  static constexpr unsigned kPhase = 1U << 31;

  unsigned* word_;
  unsigned before_ = 0;  // of thread 0; blocks are one-dimensional
};

}  // namespace molmoact2::kernels
