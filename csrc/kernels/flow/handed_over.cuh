// How blocks of a running grid hand numbers over without a barrier.
//
// A word's lowest bit says which writing it is of: it alternates, starting with 1 over zeroed memory. Whoever
// wants the word of this round loads until the bit is right; there is no flag that could be seen before the
// data, and so neither a fence nor a barrier between the phases. It costs a float its last bit, and the first
// number of a pair of bf16 half a bit of rounding.
//
// Why a reader never takes an old word for a new one: a word is written once per round, always by the same
// thread, and whoever reads it reads every round of it; the only older value that it can still meet has the
// other bit. And why a writer is never too early: what it writes follows, by a
// chain of numbers handed over, from what every reader of the round before computed from it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/bf16.cuh"
#include "kernels/device/ptx.cuh"

namespace molmoact2::kernels::flow {

// The bit of the words of a round, 0, 1, 2, ...
__device__ __forceinline__ std::uint32_t mark_of(int round) {
  return ~static_cast<std::uint32_t>(round) & 1U;
}

__device__ __forceinline__ bool is_marked(std::uint32_t word, std::uint32_t mark) {
  return ((word ^ mark) & 1U) == 0;
}
__device__ __forceinline__ bool is_marked(const uint2& words, std::uint32_t mark) {
  return (((words.x ^ mark) | (words.y ^ mark)) & 1U) == 0;
}
__device__ __forceinline__ bool is_marked(const uint4& words, std::uint32_t mark) {
  return (((words.x ^ mark) | (words.y ^ mark) | (words.z ^ mark) | (words.w ^ mark)) & 1U) == 0;
}

inline constexpr std::uint32_t kFloatNan = 0x7FC00000U;
inline constexpr std::uint32_t kFloatInfinity = 0x7F800000U;
inline constexpr std::uint32_t kFloatSign = 0x80000000U;

__device__ __forceinline__ std::uint32_t marked_float(float value, std::uint32_t mark) {
  return ((value != value ? kFloatNan : __float_as_uint(value)) & ~1U) | mark;
}

// Rounds `low` to the nearest of those bf16 that end in the mark.
__device__ __forceinline__ std::uint32_t marked_bf16(float low, float high, std::uint32_t mark) {
  const std::uint32_t bits = __float_as_uint(low);
  const std::uint32_t size = bits & ~kFloatSign;
  const std::uint32_t least = mark << 16;
  const std::uint32_t rounded = ((max(size, least) - least + 0x10000U) >> 17 << 1) | mark;
  const std::uint32_t lower =
      size > kFloatInfinity ? kFloatNan >> 16 | mark : rounded | (bits & kFloatSign) >> 16;
  return lower | (bf16_pair(0.0F, high) & 0xFFFF0000U);
}

__device__ __forceinline__ std::uint32_t await_4(const std::uint32_t* address, std::uint32_t mark) {
  std::uint32_t word = load_relaxed_4(address);
  while (!is_marked(word, mark)) {
    pause();
    word = load_relaxed_4(address);
  }
  return word;
}

__device__ __forceinline__ void await_8(uint2& words, const std::uint32_t* address, std::uint32_t mark) {
  while (!is_marked(words, mark)) {
    pause();
    words = load_relaxed_8(address);
  }
}

__device__ __forceinline__ void await_16(uint4& words, const std::uint32_t* address, std::uint32_t mark) {
  while (!is_marked(words, mark)) {
    pause();
    words = load_relaxed_16(address);
  }
}

}  // namespace molmoact2::kernels::flow
