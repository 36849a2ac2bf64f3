#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>

#include "kernels/depth_diff/depth_diff.h"
#include "kernels/depth_diff/depth_diff_ops.h"
#include "kernels/depth_diff/fixed_point.h"

namespace molmoact2::kernels {
namespace {

bool usable_side(int side) { return side >= 1 && side <= kMaxFrameSide; }

bool usable_frame(const RgbFrame& frame) {
  return frame.pixels != nullptr && usable_side(frame.height) && usable_side(frame.width);
}

std::size_t row_bytes(int width) { return static_cast<std::size_t>(width) * kColorChannels; }

// Filters along each row: (height, axis.input_size, 3) -> (height, axis.output_size, 3).
void resize_columns(const std::uint8_t* input, int height, const ResizeAxis& axis, std::uint8_t* output) {
  const std::size_t input_stride = row_bytes(axis.input_size);
  for (int y = 0; y < height; ++y) {
    const std::uint8_t* const row = input + static_cast<std::size_t>(y) * input_stride;
    const std::int32_t* weights = axis.weights.data();
    for (std::size_t x = 0; x < axis.firsts.size(); ++x, weights += axis.taps) {
      const std::uint8_t* pixel = row + row_bytes(axis.firsts[x]);
      std::int32_t red = kFixedPointHalf;
      std::int32_t green = kFixedPointHalf;
      std::int32_t blue = kFixedPointHalf;
      for (int tap = 0; tap < axis.counts[x]; ++tap, pixel += kColorChannels) {
        red += weights[tap] * pixel[0];
        green += weights[tap] * pixel[1];
        blue += weights[tap] * pixel[2];
      }
      *output++ = fixed_point_to_byte(red);
      *output++ = fixed_point_to_byte(green);
      *output++ = fixed_point_to_byte(blue);
    }
  }
}

// Filters along each column: (axis.input_size, stride) -> (axis.output_size, stride).
void resize_rows(const std::uint8_t* input, std::size_t stride, const ResizeAxis& axis,
                 std::uint8_t* output) {
  std::vector<std::int32_t> sums(stride);
  const std::int32_t* weights = axis.weights.data();
  for (std::size_t y = 0; y < axis.firsts.size(); ++y, weights += axis.taps) {
    std::ranges::fill(sums, kFixedPointHalf);
    const std::uint8_t* row = input + static_cast<std::size_t>(axis.firsts[y]) * stride;
    for (int tap = 0; tap < axis.counts[y]; ++tap, row += stride) {
      const std::int32_t weight = weights[tap];
      for (std::size_t i = 0; i < stride; ++i) sums[i] += weight * row[i];
    }
    for (const std::int32_t sum : sums) *output++ = fixed_point_to_byte(sum);
  }
}

CellSums cell_sums(const std::uint8_t* current, const std::uint8_t* previous, std::size_t stride) {
  CellSums sums;
  for (std::size_t y = 0; y < kCellPixels; ++y) {
    for (std::size_t i = 0; i < row_bytes(kCellPixels); ++i) {
      const std::int32_t a = current[y * stride + i];
      const std::int32_t b = previous[y * stride + i];
      sums.dot += a * b;
      sums.current_square += a * a;
      sums.previous_square += b * b;
    }
  }
  return sums;
}

}  // namespace

ResizeAxis::ResizeAxis(int input, int output) : input_size(input), output_size(output) {
  // Every operation in double and in this order, as Pillow has it: one bit of a weight can turn a pixel.
  const double scale = static_cast<double>(input) / output;
  const double support = std::max(scale, 1.0);  // the triangle reaches one output pixel, at least one input
  const double inverse_support = 1.0 / support;
  taps = static_cast<int>(std::ceil(support)) * 2 + 1;

  const auto size = static_cast<std::size_t>(output);
  firsts.reserve(size);
  counts.reserve(size);
  weights.assign(size * static_cast<std::size_t>(taps), 0);
  std::vector<double> exact(static_cast<std::size_t>(taps));
  auto entry = weights.begin();
  for (int i = 0; i < output; ++i, entry += taps) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(std::floor(center - support + 0.5)), 0);
    const int count = std::min(static_cast<int>(std::floor(center + support + 0.5)), input) - first;
    double sum = 0.0;
    for (int j = 0; j < count; ++j) {
      const double distance = std::abs((j + first - center + 0.5) * inverse_support);
      const double weight = distance < 1.0 ? 1.0 - distance : 0.0;
      exact[static_cast<std::size_t>(j)] = weight;
      sum += weight;
    }
    for (int j = 0; j < count; ++j) {
      double weight = exact[static_cast<std::size_t>(j)];
      if (sum != 0.0) weight /= sum;
      entry[j] = static_cast<std::int32_t>(std::floor(0.5 + weight * kFixedPointOne));
    }
    firsts.push_back(first);
    counts.push_back(count);
  }
}

ResizeAxisView ResizeAxis::view() const {
  return {input_size, output_size, taps, firsts.data(), counts.data(), weights.data()};
}

const DepthDiffOps& depth_diff_ops([[maybe_unused]] CpuIsa isa) {
#if defined(__x86_64__)
  if (isa == CpuIsa::avx2 || isa == CpuIsa::avx512) return depth_diff_ops_avx2();
#endif
  static constinit const DepthDiffOps kOps = {&resize_columns, &resize_rows, &cell_sums};
  return kOps;
}

DepthDiffStatus resize_bilinear(const RgbFrame& frame, int height, int width, CpuIsa isa,
                                std::uint8_t* resized) {
  if (!usable_frame(frame) || !usable_side(height) || !usable_side(width) || resized == nullptr) {
    return DepthDiffStatus::bad_frame;
  }
  const DepthDiffOps& ops = depth_diff_ops(isa);
  const bool columns_fit = frame.width == width;
  const bool rows_fit = frame.height == height;
  if (columns_fit && rows_fit) {
    std::memcpy(resized, frame.pixels, static_cast<std::size_t>(height) * row_bytes(width));
  } else if (rows_fit) {
    ops.resize_columns(frame.pixels, height, ResizeAxis(frame.width, width), resized);
  } else if (columns_fit) {
    ops.resize_rows(frame.pixels, row_bytes(width), ResizeAxis(frame.height, height), resized);
  } else {
    std::vector<std::uint8_t> between(static_cast<std::size_t>(frame.height) * row_bytes(width));
    ops.resize_columns(frame.pixels, frame.height, ResizeAxis(frame.width, width), between.data());
    ops.resize_rows(between.data(), row_bytes(width), ResizeAxis(frame.height, height), resized);
  }
  return DepthDiffStatus::ok;
}

DepthDiffStatus changed_cells(const std::uint8_t* current, const std::uint8_t* previous, int side, CpuIsa isa,
                              std::uint8_t* changed) {
  if (side < 1 || side > kMaxGridSide) return DepthDiffStatus::bad_grid;
  if (current == nullptr || previous == nullptr) return DepthDiffStatus::bad_frame;
  const DepthDiffOps& ops = depth_diff_ops(isa);
  const std::size_t cell_width = row_bytes(kCellPixels);
  const std::size_t stride = cell_width * static_cast<std::size_t>(side);
  const auto cells = static_cast<std::size_t>(side);
  for (std::size_t cell = 0; cell < cells * cells; ++cell) {
    const std::size_t corner = cell / cells * kCellPixels * stride + cell % cells * cell_width;
    const CellSums sums = ops.cell_sums(current + corner, previous + corner, stride);
    changed[cell] = cell_changed(sums.dot, sums.current_square, sums.previous_square) ? 1 : 0;
  }
  return DepthDiffStatus::ok;
}

DepthDiffStatus depth_update_mask(const RgbFrame& current, const RgbFrame& previous, int side, CpuIsa isa,
                                  std::uint8_t* changed) {
  if (side < 1 || side > kMaxGridSide) return DepthDiffStatus::bad_grid;
  const int pixels = side * kCellPixels;
  const std::size_t bytes = static_cast<std::size_t>(pixels) * row_bytes(pixels);
  std::vector<std::uint8_t> now(bytes);
  std::vector<std::uint8_t> before(bytes);
  // Resizing a frame takes many times what starting a thread does.
  std::future<DepthDiffStatus> other = std::async(
      std::launch::async, [&] { return resize_bilinear(previous, pixels, pixels, isa, before.data()); });
  const DepthDiffStatus of_current = resize_bilinear(current, pixels, pixels, isa, now.data());
  const DepthDiffStatus of_previous = other.get();
  if (of_current != DepthDiffStatus::ok) return of_current;
  if (of_previous != DepthDiffStatus::ok) return of_previous;
  return changed_cells(now.data(), before.data(), side, isa, changed);
}

}  // namespace molmoact2::kernels
