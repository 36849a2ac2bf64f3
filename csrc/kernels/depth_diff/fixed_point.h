// The arithmetic that the CPU and CUDA versions share, so that they agree to the bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/depth_diff/depth_diff.h"

#ifdef __CUDACC__
#define MOLMOACT2_HOST_DEVICE __host__ __device__
#else
#define MOLMOACT2_HOST_DEVICE
#endif

namespace molmoact2::kernels {

// 32 bits less 8 for the pixel and 2 for weights that sum past one: Pillow's choice.
inline constexpr int kFixedPointBits = 32 - 8 - 2;
inline constexpr std::int32_t kFixedPointOne = 1 << kFixedPointBits;
inline constexpr std::int32_t kFixedPointHalf = 1 << (kFixedPointBits - 1);

// `sum` already holds the half that turns the shift into rounding.
MOLMOACT2_HOST_DEVICE inline std::uint8_t fixed_point_to_byte(std::int32_t sum) {
  const std::int32_t value = sum >> kFixedPointBits;
  if (value < 0) return 0;
  return static_cast<std::uint8_t>(value < 255 ? value : 255);
}

MOLMOACT2_HOST_DEVICE inline bool cell_changed(std::int32_t dot, std::int32_t current_square,
                                               std::int32_t previous_square) {
  // The product of two such sums stays below 2^56; its square root is the product of the norms.
  const double norms = std::sqrt(static_cast<double>(current_square) * static_cast<double>(previous_square));
  return norms >= kLeastNormProduct && static_cast<double>(dot) / norms < kUnchangedCosine;
}

}  // namespace molmoact2::kernels
