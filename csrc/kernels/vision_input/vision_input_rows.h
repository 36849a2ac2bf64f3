// The loops of the resize, compiled once with the baseline's instructions and once with AVX2 and FMA.
#pragma once

#include <cstdint>

#include "kernels/vision_input/linear_filter.h"

namespace molmoact2::kernels {

// One output column: where its two pixels start in a row of floats, and their weights.
struct ColumnTap {
  int first = 0;
  int second = 0;
  float first_weight = 0.0F;
  float second_weight = 0.0F;
};

// Pixels are read and written four floats at a time, one more than they have, for a whole vector register:
// the fourth is overwritten by the next pixel. Rows end with room for one float more.
inline constexpr int kPixelFloats = kImageChannels + 1;

struct VisionInputRows {
  // bytes, floats: (count,).
  void (*widen)(const std::uint8_t* bytes, int count, float* floats) = nullptr;
  // row: (width, 3) and one float; output: (count, 3) and one float, 0 to 255, not rounded.
  void (*blend_columns)(const float* row, const ColumnTap* taps, int count, float* output) = nullptr;
  // upper, lower: (count,), of the two rows; output: (count,), -1 to 1.
  void (*blend_rows)(const float* upper, const float* lower, float upper_weight, float lower_weight,
                     int count, float* output) = nullptr;
};

const VisionInputRows& vision_input_rows_baseline();
#if defined(__x86_64__)
const VisionInputRows& vision_input_rows_fma();
#endif

namespace {

inline void widen(const std::uint8_t* __restrict__ bytes, int count, float* __restrict__ floats) {
  for (int i = 0; i < count; ++i) floats[i] = static_cast<float>(bytes[i]);
}

inline void blend_columns(const float* __restrict__ row, const ColumnTap* __restrict__ taps, int count,
                          float* __restrict__ output) {
  for (int column = 0; column < count; ++column, output += kImageChannels) {
    const ColumnTap tap = taps[column];
    for (int i = 0; i < kPixelFloats; ++i) {
      output[i] = blend(tap.first_weight, row[tap.first + i], tap.second_weight, row[tap.second + i]);
    }
  }
}

inline void blend_rows(const float* __restrict__ upper, const float* __restrict__ lower, float upper_weight,
                       float lower_weight, int count, float* __restrict__ output) {
  for (int i = 0; i < count; ++i) {
    output[i] = scaled_level(blend(upper_weight, upper[i], lower_weight, lower[i]));
  }
}

inline constexpr VisionInputRows kRowsOfThisFile = {widen, blend_columns, blend_rows};

}  // namespace
}  // namespace molmoact2::kernels
