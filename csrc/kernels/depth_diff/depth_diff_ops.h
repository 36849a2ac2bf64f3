// The three loops of depth_diff.h over pixels, compiled once for every processor and once for AVX2. Integers
// throughout, so that both give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/depth_diff/depth_diff.h"

namespace molmoact2::kernels {

// Of one cell, now and before.
struct CellSums {
  std::int32_t dot = 0;
  std::int32_t current_square = 0;
  std::int32_t previous_square = 0;
};

struct DepthDiffOps {
  // Filters along each row: (height, axis.input_size, 3) -> (height, axis.output_size, 3).
  void (*resize_columns)(const std::uint8_t* input, int height, const ResizeAxis& axis, std::uint8_t* output);
  // Filters along each column: (axis.input_size, row_bytes) -> (axis.output_size, row_bytes).
  void (*resize_rows)(const std::uint8_t* input, std::size_t row_bytes, const ResizeAxis& axis,
                      std::uint8_t* output);
  // Of the cell whose first pixels are given, in images with rows of `stride` bytes.
  CellSums (*cell_sums)(const std::uint8_t* current, const std::uint8_t* previous, std::size_t stride);
};

// The fastest that the instruction set runs.
const DepthDiffOps& depth_diff_ops(CpuIsa isa);

#if defined(__x86_64__)
const DepthDiffOps& depth_diff_ops_avx2();
#endif

}  // namespace molmoact2::kernels
