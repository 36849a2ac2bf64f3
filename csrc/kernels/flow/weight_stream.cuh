// A block's weights, on their way long before they are wanted.
//
// Weights are packed in the order in which a block uses them, so that a thread reads one line of 16-byte
// pieces from the first Euler step to the last, and every step the same line again. Pieces go through a ring
// in shared memory, into places that belong to the thread that will read them: nobody else need wait for
// them, and no phase of the network waits for memory unless memory is what binds.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/ptx.cuh"
#include "kernels/flow/flow_run.cuh"

namespace molmoact2::kernels::flow {

// Ring sizes, in units; the number of copies under way must be known to the compiler.
inline constexpr int kLongRing = 12;
inline constexpr int kMiddleRing = 8;
inline constexpr int kShortRing = 4;

class WeightStream {
 public:
  // Starts the copies of the first ring_units units. `round_units`: after so many the stream starts over at
  // `weights`; `units`: of the whole stream; `ring`: ring_units * slots * kThreads pieces in shared memory.
  __device__ WeightStream(const uint4* weights, int round_units, std::int64_t units, int slots,
                          int ring_units, uint4* ring)
      : weights_(weights + threadIdx.x),
        next_(weights_),
        ring_(ring + threadIdx.x),
        left_(units),
        round_units_(round_units),
        round_left_(round_units),
        slots_(slots),
        ring_units_(ring_units) {
    for (int unit = 0; unit < ring_units; ++unit) copy_next();
  }

  // Until the oldest unit of this thread is there; then piece(0) to piece(slots - 1) may be read.
  __device__ __forceinline__ void wait() const {
    if (ring_units_ == kLongRing) {
      cp_async_wait<kLongRing - 1>();
    } else if (ring_units_ == kMiddleRing) {
      cp_async_wait<kMiddleRing - 1>();
    } else {
      cp_async_wait<kShortRing - 1>();
    }
  }

  __device__ __forceinline__ uint4 piece(int slot) const {
    return ring_[(place_ * slots_ + slot) * kThreads];
  }

  // Gives the oldest unit's places to the next one.
  __device__ __forceinline__ void advance() { copy_next(); }

 private:
  __device__ __forceinline__ void copy_next() {
    if (left_ > 0) {
      for (int slot = 0; slot < slots_; ++slot) {
        cp_async_16(ring_ + (place_ * slots_ + slot) * kThreads, next_);
        next_ += kThreads;
      }
      --left_;
      if (--round_left_ == 0) {
        round_left_ = round_units_;
        next_ = weights_;
      }
    }
    cp_async_commit();  // an empty group past the end keeps the count that wait() relies on
    place_ = place_ + 1 == ring_units_ ? 0 : place_ + 1;
  }

  const uint4* weights_;
  const uint4* next_;
  uint4* ring_;
  std::int64_t left_;
  int round_units_;
  int round_left_;
  int slots_;
  int ring_units_;
  int place_ = 0;  // of the oldest unit
};

}  // namespace molmoact2::kernels::flow
