#include "kernels/depth_diff/depth_diff.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"

namespace {

using molmoact2::kernels::CpuIsa;
using molmoact2::kernels::DepthDiffStatus;
using molmoact2::kernels::RgbFrame;
namespace kernels = molmoact2::kernels;

using Pixels = std::vector<std::uint8_t>;

Pixels random_pixels(int height, int width, unsigned seed) {
  std::minstd_rand generator(seed);
  Pixels pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  std::ranges::generate(pixels, [&] { return static_cast<std::uint8_t>(generator() >> 8); });
  return pixels;
}

// The filter from its definition: at every output pixel a triangle as wide as two output pixels (two input
// pixels when enlarging) around the same place of the input, weights summing to one, rounded after each axis.
Pixels filter_axis(const Pixels& input, int lines, int input_size, int output_size, int line_step, int step) {
  Pixels output(static_cast<std::size_t>(lines) * static_cast<std::size_t>(output_size) * 3);
  const double scale = static_cast<double>(input_size) / output_size;
  const double reach = std::max(1.0, scale);
  const int output_line_step = line_step == 3 ? 3 : output_size * 3;
  const int output_step = line_step == 3 ? lines * 3 : 3;
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < output_size; ++i) {
      for (int channel = 0; channel < 3; ++channel) {
        double sum = 0.0;
        double weights = 0.0;
        for (int j = 0; j < input_size; ++j) {
          const double weight = std::max(0.0, 1.0 - std::abs(j + 0.5 - (i + 0.5) * scale) / reach);
          sum += weight * input[static_cast<std::size_t>(line * line_step + j * step + channel)];
          weights += weight;
        }
        output[static_cast<std::size_t>(line * output_line_step + i * output_step + channel)] =
            static_cast<std::uint8_t>(std::floor(sum / weights + 0.5));
      }
    }
  }
  return output;
}

Pixels reference_resize(const Pixels& input, int height, int width, int new_height, int new_width) {
  const Pixels between = filter_axis(input, height, width, new_width, width * 3, 3);
  return filter_axis(between, new_width, height, new_height, 3, new_width * 3);
}

bool reference_changed(const Pixels& now, const Pixels& before, int side, int row, int column) {
  float dot = 0.0F;
  float now_square = 0.0F;
  float before_square = 0.0F;
  for (int y = 0; y < 32; ++y) {
    for (int x = 0; x < 96; ++x) {
      const auto at = static_cast<std::size_t>(((row * 32 + y) * side * 32 + column * 32) * 3 + x);
      const auto a = static_cast<float>(now[at]);
      const auto b = static_cast<float>(before[at]);
      dot += a * b;
      now_square += a * a;
      before_square += b * b;
    }
  }
  const float norms = std::sqrt(now_square) * std::sqrt(before_square);
  return norms >= 1e-8F && dot / norms < 0.996F;
}

constexpr std::array<std::array<int, 2>, 9> kSizes{
    {{1, 1}, {7, 3}, {3, 7}, {84, 112}, {64, 200}, {200, 64}, {64, 64}, {129, 63}, {1, 300}}};

}  // namespace

CASE("a resize differs from the exact filter by rounding of the weights only") {
  for (const auto& [height, width] : kSizes) {
    const Pixels frame = random_pixels(height, width, 7);
    Pixels resized(64UL * 64 * 3);
    REQUIRE(kernels::resize_bilinear({frame.data(), height, width}, 64, 64, CpuIsa::portable,
                                     resized.data()) == DepthDiffStatus::ok);
    const Pixels expected = reference_resize(frame, height, width, 64, 64);
    int differing = 0;
    for (std::size_t i = 0; i < resized.size(); ++i) {
      const int distance = std::abs(resized[i] - expected[i]);
      CHECK(distance <= 1);
      differing += distance != 0 ? 1 : 0;
    }
    // Weights have 22 bits: a pixel turns only where the exact sum is within 1e-4 of a half, as it is by
    // construction when a frame is enlarged by a power of two.
    if (height % 2 == 1 && width % 2 == 1) CHECK(differing < 150);
  }
}

CASE("a frame of the right size is kept, and a flat frame stays flat") {
  const Pixels frame = random_pixels(64, 64, 3);
  Pixels resized(frame.size());
  REQUIRE(kernels::resize_bilinear({frame.data(), 64, 64}, 64, 64, CpuIsa::portable, resized.data()) ==
          DepthDiffStatus::ok);
  CHECK(resized == frame);
  const Pixels flat(77UL * 13 * 3, 201);
  REQUIRE(kernels::resize_bilinear({flat.data(), 77, 13}, 64, 64, CpuIsa::portable, resized.data()) ==
          DepthDiffStatus::ok);
  CHECK(std::ranges::all_of(resized, [](std::uint8_t value) { return value == 201; }));
}

CASE("every instruction set resizes and compares to the same bits") {
  // Up and down, one axis alone, as many taps as there are pixels, and sizes that fill no register.
  constexpr std::array<std::array<int, 4>, 10> kResizes{{{1, 1, 37, 51},
                                                         {7, 3, 64, 64},
                                                         {480, 640, 320, 320},
                                                         {111, 320, 111, 33},
                                                         {111, 43, 64, 43},
                                                         {5, 3000, 3, 1},
                                                         {3000, 5, 1, 7},
                                                         {129, 63, 65, 127},
                                                         {97, 101, 31, 5},
                                                         {33, 6, 10, 2}}};
  for (const CpuIsa isa : kernels::available_isas()) {
    for (const auto& [height, width, new_height, new_width] : kResizes) {
      for (const bool extreme : {false, true}) {
        Pixels frame = random_pixels(height, width, 23);
        if (extreme)
          std::ranges::transform(frame, frame.begin(), [](std::uint8_t p) { return p < 128 ? 0 : 255; });
        Pixels expected(static_cast<std::size_t>(new_height * new_width) * 3);
        Pixels found(expected.size(), 1);
        REQUIRE(kernels::resize_bilinear({frame.data(), height, width}, new_height, new_width,
                                         CpuIsa::portable, expected.data()) == DepthDiffStatus::ok);
        REQUIRE(kernels::resize_bilinear({frame.data(), height, width}, new_height, new_width, isa,
                                         found.data()) == DepthDiffStatus::ok);
        CHECK(found == expected);
      }
    }
    const int side = 5;
    const Pixels now = random_pixels(side * 32, side * 32, 3);
    Pixels before = now;
    for (std::size_t i = 0; i < before.size(); i += 3)
      before[i] = static_cast<std::uint8_t>(before[i] / 2 + 20);
    std::array<std::uint8_t, 25> expected{};
    std::array<std::uint8_t, 25> found{};
    REQUIRE(kernels::changed_cells(now.data(), before.data(), side, CpuIsa::portable, expected.data()) ==
            DepthDiffStatus::ok);
    REQUIRE(kernels::changed_cells(now.data(), before.data(), side, isa, found.data()) ==
            DepthDiffStatus::ok);
    CHECK(found == expected);
  }
}

CASE("the weights of every output sum to one and stay inside the input") {
  for (const int input : {1, 2, 3, 5, 31, 64, 320, 1080, 16384}) {
    for (const int output : {1, 32, 320}) {
      const kernels::ResizeAxis axis(input, output);
      for (int i = 0; i < output; ++i) {
        const auto at = static_cast<std::size_t>(i);
        CHECK(axis.firsts[at] >= 0);
        CHECK(axis.counts[at] >= 1);
        CHECK(axis.counts[at] <= axis.taps);
        CHECK(axis.firsts[at] + axis.counts[at] <= input);
        std::int64_t sum = 0;
        for (int j = 0; j < axis.taps; ++j) {
          sum += axis.weights[at * static_cast<std::size_t>(axis.taps) + static_cast<std::size_t>(j)];
        }
        CHECK_NEAR(static_cast<double>(sum), 1 << 22, axis.counts[at]);  // each weight is rounded by a half
      }
    }
  }
}

CASE("cells are marked as a plain fp32 cosine marks them") {
  const int side = 3;
  const Pixels before = random_pixels(side * 32, side * 32, 11);
  for (const int noise : {0, 1, 10, 25, 40, 120}) {
    Pixels now = before;
    std::minstd_rand generator(5);
    // Every other cell column keeps its pixels.
    for (std::size_t i = 0; i < now.size(); ++i) {
      const bool disturbed = i / 96 % 2 == 0;
      const int offset =
          noise == 0 ? 0 : static_cast<int>(generator() % static_cast<unsigned>(2 * noise)) - noise;
      if (disturbed) now[i] = static_cast<std::uint8_t>(std::clamp(now[i] + offset, 0, 255));
    }
    std::array<std::uint8_t, 9> changed{};
    REQUIRE(kernels::changed_cells(now.data(), before.data(), side, CpuIsa::portable, changed.data()) ==
            DepthDiffStatus::ok);
    for (int cell = 0; cell < side * side; ++cell) {
      CHECK_EQ(changed[static_cast<std::size_t>(cell)] != 0,
               reference_changed(now, before, side, cell / side, cell % side));
    }
  }
}

CASE("only the cell that turned is marked, and a black cell never") {
  const int side = 4;
  const Pixels before(static_cast<std::size_t>(side * 32 * side * 32) * 3, 90);
  for (int cell = 0; cell < side * side; ++cell) {
    Pixels now = before;
    Pixels black = before;
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        const auto at =
            static_cast<std::size_t>(((cell / side * 32 + y) * side * 32 + cell % side * 32 + x) * 3);
        now[at] = 0;  // turns grey into cyan
        std::fill_n(black.begin() + static_cast<std::ptrdiff_t>(at), 3, std::uint8_t{0});
      }
    }
    std::array<std::uint8_t, 16> changed{};
    REQUIRE(kernels::changed_cells(now.data(), before.data(), side, CpuIsa::portable, changed.data()) ==
            DepthDiffStatus::ok);
    for (int other = 0; other < side * side; ++other) {
      CHECK_EQ(changed[static_cast<std::size_t>(other)], other == cell ? 1 : 0);
    }
    REQUIRE(kernels::changed_cells(black.data(), before.data(), side, CpuIsa::portable, changed.data()) ==
            DepthDiffStatus::ok);
    CHECK(std::ranges::all_of(changed, [](std::uint8_t value) { return value == 0; }));
  }
}

CASE("the sums of a cell are exact at the brightest") {
  const Pixels white(32UL * 32 * 3, 255);
  std::uint8_t changed = 9;
  REQUIRE(kernels::depth_update_mask({white.data(), 32, 32}, {white.data(), 32, 32}, 1, CpuIsa::portable,
                                     &changed) == DepthDiffStatus::ok);
  CHECK_EQ(changed, 0);
}

CASE("frames of different sizes are compared after the resize") {
  const Pixels small(20UL * 30 * 3, 50);
  const Pixels large(300UL * 200 * 3, 51);
  std::array<std::uint8_t, 100> changed{};
  changed.fill(9);
  REQUIRE(kernels::depth_update_mask({small.data(), 20, 30}, {large.data(), 300, 200}, 10, CpuIsa::portable,
                                     changed.data()) == DepthDiffStatus::ok);
  CHECK(std::ranges::all_of(changed, [](std::uint8_t value) { return value == 0; }));
}

CASE("a frame or grid that cannot be used is refused with a status") {
  const Pixels frame(32UL * 32 * 3, 1);
  const RgbFrame good{frame.data(), 32, 32};
  std::array<std::uint8_t, 4> changed{};
  const auto status = [&](const RgbFrame& current, const RgbFrame& previous, int side) {
    return kernels::depth_update_mask(current, previous, side, CpuIsa::portable, changed.data());
  };
  CHECK_EQ(status({nullptr, 32, 32}, good, 2), DepthDiffStatus::bad_frame);
  CHECK_EQ(status(good, {frame.data(), 0, 32}, 2), DepthDiffStatus::bad_frame);
  CHECK_EQ(status({frame.data(), 32, kernels::kMaxFrameSide + 1}, good, 2), DepthDiffStatus::bad_frame);
  CHECK_EQ(status(good, good, 0), DepthDiffStatus::bad_grid);
  CHECK_EQ(status(good, good, kernels::kMaxGridSide + 1), DepthDiffStatus::bad_grid);
  CHECK_EQ(status(good, good, 2), DepthDiffStatus::ok);
}
