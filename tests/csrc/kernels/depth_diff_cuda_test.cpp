#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "device_array.h"
#include "kernels/depth_diff/depth_diff.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::DepthDiffStatus;
using molmoact2::check::DeviceArray;
using molmoact2::check::no_device;

struct DeviceAxis {
  DeviceAxis(int input_size, int output_size)
      : axis(input_size, output_size), firsts(axis.firsts), counts(axis.counts), weights(axis.weights) {}

  kernels::ResizeAxisView view() const {
    return {axis.input_size, axis.output_size, axis.taps, firsts.get(), counts.get(), weights.get()};
  }

  kernels::ResizeAxis axis;
  DeviceArray<std::int32_t> firsts;
  DeviceArray<std::int32_t> counts;
  DeviceArray<std::int32_t> weights;
};

std::vector<std::uint8_t> random_pixels(int height, int width, unsigned seed) {
  std::minstd_rand generator(seed);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  std::ranges::generate(pixels, [&] { return static_cast<std::uint8_t>(generator() >> 8); });
  return pixels;
}

}  // namespace

CASE("the CUDA resize equals the CPU's to the bit") {
  if (no_device()) return;
  constexpr std::array<std::array<int, 2>, 8> kSizes{
      {{1, 1}, {7, 3}, {84, 112}, {480, 640}, {1080, 1920}, {320, 320}, {320, 100}, {111, 320}}};
  const int pixels = 320;
  for (const auto& [height, width] : kSizes) {
    const std::vector<std::uint8_t> frame = random_pixels(height, width, 5);
    std::vector<std::uint8_t> expected(static_cast<std::size_t>(pixels * pixels) * 3);
    REQUIRE(kernels::resize_bilinear({frame.data(), height, width}, pixels, pixels, kernels::fastest_isa(),
                                     expected.data()) == DepthDiffStatus::ok);
    const DeviceArray<std::uint8_t> input(frame);
    const DeviceArray<std::uint8_t> between(static_cast<std::size_t>(height * pixels) * 3);
    const DeviceArray<std::uint8_t> resized(expected.size());
    const DeviceAxis rows(height, pixels);
    const DeviceAxis columns(width, pixels);
    REQUIRE(kernels::resize_bilinear_cuda({input.get(), height, width}, rows.view(), columns.view(),
                                          between.get(), resized.get(), nullptr) == DepthDiffStatus::ok);
    CHECK(resized.to_host() == expected);
  }
}

CASE("the CUDA mask equals the CPU's") {
  if (no_device()) return;
  for (const int side : {1, 3, 10, molmoact2::check::kEmulated ? 17 : 64}) {
    const std::vector<std::uint8_t> before = random_pixels(side * 32, side * 32, 1);
    std::vector<std::uint8_t> now = before;
    std::minstd_rand generator(2);
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (i / 96 % 3 == 0) now[i] = static_cast<std::uint8_t>(now[i] ^ (generator() & 31U));
    }
    const auto cells = static_cast<std::size_t>(side * side);
    std::vector<std::uint8_t> expected(cells);
    REQUIRE(kernels::changed_cells(now.data(), before.data(), side, kernels::fastest_isa(),
                                   expected.data()) == DepthDiffStatus::ok);
    const DeviceArray<std::uint8_t> current(now);
    const DeviceArray<std::uint8_t> previous(before);
    const DeviceArray<std::uint8_t> changed(cells);
    REQUIRE(kernels::changed_cells_cuda(current.get(), previous.get(), side, changed.get(), nullptr) ==
            DepthDiffStatus::ok);
    CHECK(changed.to_host() == expected);
  }
}

CASE("the CUDA mask of two camera frames equals the CPU's, also where they differ in size") {
  if (no_device()) return;
  struct Pair {
    kernels::FrameSize current;
    kernels::FrameSize previous;
    int side;
  };
  const std::vector<Pair> pairs = {{{1, 1}, {1, 1}, 1},         {{7, 3}, {7, 3}, 1},
                                   {{33, 31}, {33, 31}, 2},     {{96, 96}, {96, 96}, 3},
                                   {{96, 50}, {40, 96}, 3},     {{120, 160}, {61, 83}, 5},
                                   {{240, 320}, {240, 320}, 10}};
  for (const auto& [current, previous, side] : pairs) {
    const kernels::CudaDepthDiff diff(current, previous, side);
    CHECK_EQ(diff.side(), side);
    CHECK_EQ(diff.current().height, current.height);
    CHECK_EQ(diff.previous().width, previous.width);
    for (const unsigned noise : {0U, 15U, 255U}) {  // nothing, some and all of the cells
      const std::vector<std::uint8_t> before = random_pixels(previous.height, previous.width, 7);
      std::vector<std::uint8_t> now = random_pixels(current.height, current.width, 7);
      std::minstd_rand generator(3);
      for (std::size_t i = 0; i < now.size() / 2; ++i) {
        now[i] = static_cast<std::uint8_t>(now[i] ^ ((generator() >> 8U) & noise));
      }
      std::vector<std::uint8_t> expected(static_cast<std::size_t>(side * side));
      REQUIRE(kernels::depth_update_mask({now.data(), current.height, current.width},
                                         {before.data(), previous.height, previous.width}, side,
                                         kernels::fastest_isa(), expected.data()) == DepthDiffStatus::ok);
      const DeviceArray<std::uint8_t> now_pixels(now);
      const DeviceArray<std::uint8_t> before_pixels(before);
      const DeviceArray<std::uint8_t> changed(expected.size());
      REQUIRE(diff.update_mask(now_pixels.get(), before_pixels.get(), changed.get(), nullptr) ==
              DepthDiffStatus::ok);
      CHECK(changed.to_host() == expected);
    }
  }
}

CASE("a CUDA mask of frames without pixels, or of too many cells, is refused") {
  if (no_device()) return;
  CHECK_THROWS(kernels::CudaDepthDiff({0, 4}, {4, 4}, 1), std::invalid_argument);
  CHECK_THROWS(kernels::CudaDepthDiff({4, 4}, {4, kernels::kMaxFrameSide + 1}, 1), std::invalid_argument);
  CHECK_THROWS(kernels::CudaDepthDiff({4, 4}, {4, 4}, 0), std::invalid_argument);
  CHECK_THROWS(kernels::CudaDepthDiff({4, 4}, {4, 4}, kernels::kMaxGridSide + 1), std::invalid_argument);
  const kernels::CudaDepthDiff diff({4, 4}, {4, 4}, 1);
  const DeviceArray<std::uint8_t> pixels(std::vector<std::uint8_t>(48));
  CHECK_EQ(diff.update_mask(pixels.get(), nullptr, pixels.get(), nullptr), DepthDiffStatus::bad_frame);
  CHECK_EQ(diff.update_mask(pixels.get(), pixels.get(), nullptr, nullptr), DepthDiffStatus::bad_frame);
}

CASE("the CUDA door refuses what does not fit") {
  if (no_device()) return;
  const DeviceArray<std::uint8_t> bytes(320UL * 320 * 3);
  const DeviceAxis axis(320, 320);
  const kernels::RgbFrame frame{bytes.get(), 320, 200};
  CHECK_EQ(kernels::resize_bilinear_cuda(frame, axis.view(), axis.view(), bytes.get(), bytes.get(), nullptr),
           DepthDiffStatus::bad_frame);
  CHECK_EQ(kernels::changed_cells_cuda(bytes.get(), bytes.get(), 0, bytes.get(), nullptr),
           DepthDiffStatus::bad_grid);
  CHECK_EQ(kernels::changed_cells_cuda(bytes.get(), nullptr, 1, bytes.get(), nullptr),
           DepthDiffStatus::bad_frame);
}
