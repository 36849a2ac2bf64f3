// What CUDA adds to C++ inside a kernel: qualifiers, indices, barriers, warp operations, atomics, intrinsics.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#include "block.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// A block runs on one host thread, so that a variable of that thread is the block's.
#define __shared__ static thread_local

// Of the fiber that runs; set anew whenever another goes on.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

inline constexpr int warpSize = 32;

namespace molmoact2::cuda_emulation {

// Fails the launch unless the memory is shared or device memory and aligned for one access of this size.
void require_writable(const void* memory, std::size_t bytes, const char* what, std::source_location where);

inline void* dynamic_shared_memory() { return running_block->dynamic_shared(); }

template <class T>
struct LaneExchange {
  T value{};
  unsigned lane = 0;    // the caller's
  unsigned source = 0;  // whose value it wants
  T result{};
};

template <class T>
T exchange(const char* name, unsigned mask, T value, unsigned source, std::source_location where) {
  static_assert(std::is_trivially_copyable_v<T>);
  LaneExchange<T> mine{value, running_thread->number % kWarpSize, source, {}};
  running_block->warp_operation(
      name, mask, &mine,
      [](const WarpOperands& lanes) {
        for (void* const lane : lanes) {
          if (lane == nullptr) continue;
          auto& reader = *static_cast<LaneExchange<T>*>(lane);
          // A lane that takes no part has nothing defined to give.
          if (void* const giver = lanes[reader.source]) {
            reader.result = static_cast<LaneExchange<T>*>(giver)->value;
          } else {
            std::memset(static_cast<void*>(&reader.result), 0xFF, sizeof(T));
          }
        }
      },
      where);
  return mine.result;
}

struct LaneVote {
  bool predicate = false;
  unsigned lane = 0;
  unsigned result = 0;
};

inline unsigned ballot(const char* name, unsigned mask, bool predicate, std::source_location where) {
  LaneVote mine{predicate, running_thread->number % kWarpSize, 0};
  running_block->warp_operation(
      name, mask, &mine,
      [](const WarpOperands& lanes) {
        unsigned votes = 0;
        for (void* const lane : lanes) {
          if (lane == nullptr) continue;
          const auto& vote = *static_cast<LaneVote*>(lane);
          votes |= static_cast<unsigned>(vote.predicate) << vote.lane;
        }
        for (void* const lane : lanes) {
          if (lane != nullptr) static_cast<LaneVote*>(lane)->result = votes;
        }
      },
      where);
  return mine.result;
}

// The lane that a shuffle reads, or its own where that leaves the segment of `width` lanes.
inline unsigned shuffle_source(int wanted, int width) {
  const int lane = static_cast<int>(running_thread->number % kWarpSize);
  const int start = lane / width * width;
  return static_cast<unsigned>(wanted >= start && wanted < start + width ? wanted : lane);
}

// Host threads take turns, so that a plain change is one step for all.
template <class T, class Change>
T change(T* address, const char* name, std::source_location where, const Change& make) {
  require_writable(address, sizeof(T), name, where);
  const T before = *address;
  *address = make(before);
  running_block->note_event();
  return before;
}

}  // namespace molmoact2::cuda_emulation

// --- barriers of the block ---

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  molmoact2::cuda_emulation::running_block->barrier(false, where);
}
inline int __syncthreads_count(int predicate, std::source_location where = std::source_location::current()) {
  return static_cast<int>(molmoact2::cuda_emulation::running_block->barrier(predicate != 0, where));
}
inline int __syncthreads_or(int predicate, std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::running_block->barrier(predicate != 0, where) > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::running_block->barrier(predicate == 0, where) == 0 ? 1 : 0;
}

// --- warps ---

inline constexpr unsigned kEmulatedFullMask = 0xFFFFFFFFU;

inline void __syncwarp(unsigned mask = kEmulatedFullMask,
                       std::source_location where = std::source_location::current()) {
  molmoact2::cuda_emulation::ballot("__syncwarp", mask, false, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::ballot("__any_sync", mask, predicate != 0, where) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::ballot("__all_sync", mask, predicate == 0, where) == 0 ? 1 : 0;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              std::source_location where = std::source_location::current()) {
  using namespace molmoact2::cuda_emulation;
  const int start = static_cast<int>(running_thread->number % kWarpSize) / width * width;
  const int wrapped = ((source % width) + width) % width;
  return exchange("__shfl_sync", mask, value, static_cast<unsigned>(start + wrapped), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = warpSize,
                  std::source_location where = std::source_location::current()) {
  using namespace molmoact2::cuda_emulation;
  const int lane = static_cast<int>(running_thread->number % kWarpSize);
  // Unlike the others it may read from an earlier segment.
  const int wanted = lane ^ distance;
  const int end = lane / width * width + width;
  return exchange("__shfl_xor_sync", mask, value, static_cast<unsigned>(wanted < end ? wanted : lane), where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                   std::source_location where = std::source_location::current()) {
  using namespace molmoact2::cuda_emulation;
  const int lane = static_cast<int>(running_thread->number % kWarpSize);
  return exchange("__shfl_down_sync", mask, value, shuffle_source(lane + static_cast<int>(distance), width),
                  where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                 std::source_location where = std::source_location::current()) {
  using namespace molmoact2::cuda_emulation;
  const int lane = static_cast<int>(running_thread->number % kWarpSize);
  return exchange("__shfl_up_sync", mask, value, shuffle_source(lane - static_cast<int>(distance), width),
                  where);
}

// --- memory between threads ---

inline void __threadfence() { molmoact2::cuda_emulation::running_block->note_event(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { molmoact2::cuda_emulation::running_block->poll(); }

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value,
            std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::change(address, "atomicAdd", where,
                                           [&](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value,
            std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::change(address, "atomicMax", where,
                                           [&](T before) { return std::max(before, value); });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value,
            std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::change(address, "atomicMin", where,
                                           [&](T before) { return std::min(before, value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value,
           std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::change(address, "atomicOr", where,
                                           [&](T before) { return before | value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value,
             std::source_location where = std::source_location::current()) {
  return molmoact2::cuda_emulation::change(address, "atomicExch", where, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value,
            std::source_location where = std::source_location::current()) {
  molmoact2::cuda_emulation::running_block->poll();  // mostly called in a loop until it succeeds
  return molmoact2::cuda_emulation::change(address, "atomicCAS", where,
                                           [&](T before) { return before == expected ? value : before; });
}
template <class T>
T __ldg(const T* address) {
  return *address;
}

// --- numbers ---

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float rsqrtf(float value) { return 1.0F / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1.0F / value; }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __drcp_rn(double value) { return 1.0 / value; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double value) { return std::sqrt(value); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline int __float2int_rd(float value) { return static_cast<int>(std::floor(value)); }
inline int __double2int_rn(double value) { return static_cast<int>(std::nearbyint(value)); }
inline long long __double2ll_rn(double value) { return static_cast<long long>(std::nearbyint(value)); }
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1; }

inline int min(int a, int b) { return std::min(a, b); }
inline unsigned min(unsigned a, unsigned b) { return std::min(a, b); }
inline long min(long a, long b) { return std::min(a, b); }
inline unsigned long min(unsigned long a, unsigned long b) { return std::min(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline int max(int a, int b) { return std::max(a, b); }
inline unsigned max(unsigned a, unsigned b) { return std::max(a, b); }
inline long max(long a, long b) { return std::max(a, b); }
inline unsigned long max(unsigned long a, unsigned long b) { return std::max(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

[[noreturn]] inline void __trap(std::source_location where = std::source_location::current()) {
  molmoact2::cuda_emulation::running_block->fail(where, {"__trap"});
}
