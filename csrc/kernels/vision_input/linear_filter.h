// The arithmetic that every version of the resize shares, so that they agree to the bit.
//
// Every fused multiply-add is spelled out, and nothing else may become one: the host compiler must not
// contract
// (-ffp-contract=off), and what a device compiler could contract here is exact before its addition.
#pragma once

#include <cmath>

#include "kernels/vision_input/vision_input.h"

#ifdef __CUDACC__
#define MOLMOACT2_HOST_DEVICE __host__ __device__
#else
#define MOLMOACT2_HOST_DEVICE
#endif

namespace molmoact2::kernels {
// Internal to each file, because some are compiled for more than the baseline: the linker must not pick
// theirs.
namespace {

// Output = first_weight * input[first] + second_weight * input[second].
struct LinearTap {
  int first = 0;
  int second = 0;  // first + 1, or first at the last pixel
  float first_weight = 0.0F;
  float second_weight = 0.0F;
};

// scale: input_size / output_size in float32.
MOLMOACT2_HOST_DEVICE inline LinearTap linear_tap(int output, float scale, int input_size) {
  const float position = std::fmaf(static_cast<float>(output) + 0.5F, scale, -0.5F);
  const float inside = position > 0.0F ? position : 0.0F;
  const int last = input_size - 1;
  const int whole = static_cast<int>(inside);
  const int first = whole < last ? whole : last;
  const float fraction = inside - static_cast<float>(first);
  const float second_weight = fraction < 1.0F ? fraction : 1.0F;
  return {first, first < last ? first + 1 : last, 1.0F - second_weight, second_weight};
}

MOLMOACT2_HOST_DEVICE inline float blend(float first_weight, float first, float second_weight, float second) {
  return std::fmaf(first_weight, first, second_weight * second);
}

// 0 to 255, not yet whole, to -1 to 1. The two weights of a blend sum to 1 within an ulp, so the nearest
// whole number is in 0..255 without clamping.
MOLMOACT2_HOST_DEVICE inline float scaled_level(float value) {
  // Below 2^22, adding and taking away 1.5 * 2^23 leaves the nearest whole number, halves to even.
  constexpr float kRounder = 12582912.0F;
  const float level = value + kRounder - kRounder;
  // A division: multiplying by 1 / 255 gives other numbers.
  return level / 255.0F * 2.0F - 1.0F;
}

}  // namespace
}  // namespace molmoact2::kernels
