#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "device_array.h"
#include "kernels/vision_input/vision_input.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::VisionInputStatus;
using molmoact2::check::DeviceArray;
using molmoact2::check::no_device;

std::vector<std::uint8_t> random_bytes(int count) {
  std::minstd_rand generator(1);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  std::ranges::generate(bytes, [&] { return static_cast<std::uint8_t>(generator() >> 8); });
  return bytes;
}

struct Case {
  kernels::ImageSize input;
  kernels::ImageSize output;
  kernels::PatchWindow window;
};

constexpr std::array<Case, 8> kCases{{
    {{1, 1}, {14, 28}, {0, 0, 1, 2, 14}},
    {{13, 7}, {15, 9}, {0, 0, 5, 3, 3}},
    {{140, 35}, {70, 70}, {0, 0, 5, 5, 14}},
    {{96, 128}, {98, 182}, {28, 42, 5, 5, 14}},
    {{480, 640}, {378, 378}, {0, 0, 27, 27, 14}},
    {{1080, 1920}, {644, 1176}, {266, 798, 27, 27, 14}},
    {{3, 5}, {2, 3}, {1, 2, 1, 1, 1}},
    {{20, 2}, {70000, 1}, {0, 0, 70000, 1, 1}},  // more rows than a grid has
}};

}  // namespace

CASE("the CUDA patches equal the CPU's to the bit") {
  if (no_device()) return;
  for (const auto& [input, output, window] : kCases) {
    const int stride = input.width * 3 + 7;
    const std::vector<std::uint8_t> bytes = random_bytes(stride * input.height);
    const auto count =
        static_cast<std::size_t>(window.rows * window.columns * window.patch * window.patch * 3);
    std::vector<float> expected(count);
    REQUIRE(kernels::resize_to_patches({bytes.data(), input.height, input.width, stride}, output, window,
                                       kernels::CpuIsa::portable, expected.data()) == VisionInputStatus::ok);
    const DeviceArray<std::uint8_t> pixels(bytes);
    const DeviceArray<float> patches(count);
    REQUIRE(kernels::resize_to_patches_cuda({pixels.get(), input.height, input.width, stride}, output, window,
                                            patches.get(), nullptr) == VisionInputStatus::ok);
    CHECK(patches.to_host() == expected);
  }
}

CASE("the CUDA door of the patches refuses what does not fit") {
  if (no_device()) return;
  const DeviceArray<std::uint8_t> pixels(4UL * 4 * 3);
  const DeviceArray<float> patches(588);
  const kernels::ImageView image{pixels.get(), 4, 4, 12};
  CHECK_EQ(kernels::resize_to_patches_cuda(image, {14, 14}, {0, 0, 1, 1, 14}, nullptr, nullptr),
           VisionInputStatus::bad_frame);
  CHECK_EQ(kernels::resize_to_patches_cuda(image, {14, 0}, {0, 0, 1, 1, 14}, patches.get(), nullptr),
           VisionInputStatus::bad_size);
  CHECK_EQ(kernels::resize_to_patches_cuda(image, {14, 14}, {1, 0, 1, 1, 14}, patches.get(), nullptr),
           VisionInputStatus::bad_window);
}
