#include "kernels/vision_input/vision_input.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::ImageSize;
using kernels::ImageView;
using kernels::PatchWindow;
using kernels::VisionInputStatus;

std::size_t index(std::ptrdiff_t value) { return static_cast<std::size_t>(value); }

std::vector<std::uint8_t> random_bytes(std::ptrdiff_t count, unsigned seed) {
  std::minstd_rand generator(seed);
  std::vector<std::uint8_t> bytes(index(count));
  std::ranges::generate(bytes, [&] { return static_cast<std::uint8_t>(generator() >> 8); });
  return bytes;
}

struct Sizes {
  ImageSize input;
  ImageSize output;  // multiples of the patch
  int patch;
};

constexpr std::array<Sizes, 13> kSizes{{
    {{1, 1}, {1, 1}, 1},
    {{1, 1}, {14, 28}, 14},
    {{1, 300}, {42, 42}, 14},
    {{300, 1}, {42, 14}, 14},
    {{13, 7}, {15, 9}, 3},
    {{7, 13}, {70, 70}, 14},
    {{70, 70}, {70, 70}, 14},
    {{140, 35}, {70, 70}, 14},
    {{101, 233}, {5, 7}, 1},
    {{211, 97}, {98, 182}, 14},
    {{96, 128}, {56, 84}, 28},
    {{33, 31}, {99, 93}, 31},
    {{480, 640}, {378, 378}, 14},
}};

PatchWindow whole(ImageSize size, int patch) {
  return {0, 0, size.height / patch, size.width / patch, patch};
}

std::size_t value_count(const PatchWindow& window) {
  return index(static_cast<std::ptrdiff_t>(window.rows) * window.columns * window.patch * window.patch * 3);
}

std::vector<float> resized(const ImageView& image, ImageSize size, const PatchWindow& window,
                           kernels::CpuIsa isa) {
  std::vector<float> patches(value_count(window), -9.0F);
  CHECK_EQ(kernels::resize_to_patches(image, size, window, isa, patches.data()), VisionInputStatus::ok);
  return patches;
}

// Calls visit(patch value, top, left, channel) for every value of the window, in its order.
template <typename Visit>
void for_each_value(const PatchWindow& window, const Visit& visit) {
  for (int row = 0; row < window.rows; ++row) {
    for (int column = 0; column < window.columns; ++column) {
      for (int y = 0; y < window.patch; ++y) {
        for (int x = 0; x < window.patch; ++x) {
          for (int channel = 0; channel < 3; ++channel) {
            visit(window.top + row * window.patch + y, window.left + column * window.patch + x, channel);
          }
        }
      }
    }
  }
}

std::uint8_t pixel(const ImageView& image, int y, int x, int channel) {
  return image.pixels[y * image.row_stride + static_cast<std::ptrdiff_t>(x) * 3 + channel];
}

// One value from the definition of the float32 filter, not yet rounded.
float reference_value(const ImageView& image, ImageSize size, int y, int x, int channel) {
  const auto place = [](int output, int input_size, int output_size, int& first, int& second) {
    const float scale = static_cast<float>(input_size) / static_cast<float>(output_size);
    const float position = std::max(std::fma(static_cast<float>(output) + 0.5F, scale, -0.5F), 0.0F);
    first = std::min(static_cast<int>(std::floor(position)), input_size - 1);
    second = std::min(first + 1, input_size - 1);
    return std::min(position - static_cast<float>(first), 1.0F);
  };
  int top = 0;
  int bottom = 0;
  int left = 0;
  int right = 0;
  const float down = place(y, image.height, size.height, top, bottom);
  const float across = place(x, image.width, size.width, left, right);
  const auto row = [&](int at) {
    const auto a = static_cast<float>(pixel(image, at, left, channel));
    const auto b = static_cast<float>(pixel(image, at, right, channel));
    return std::fma(1.0F - across, a, across * b);
  };
  return std::fma(1.0F - down, row(top), down * row(bottom));
}

// The filter without any rounding.
double exact_value(const ImageView& image, ImageSize size, int y, int x, int channel) {
  const double row = std::max((y + 0.5) * image.height / size.height - 0.5, 0.0);
  const double column = std::max((x + 0.5) * image.width / size.width - 0.5, 0.0);
  const int top = std::min(static_cast<int>(row), image.height - 1);
  const int left = std::min(static_cast<int>(column), image.width - 1);
  const int bottom = std::min(top + 1, image.height - 1);
  const int right = std::min(left + 1, image.width - 1);
  const auto blend = [](double a, double b, double weight) { return a + weight * (b - a); };
  const double upper =
      blend(pixel(image, top, left, channel), pixel(image, top, right, channel), column - left);
  const double lower =
      blend(pixel(image, bottom, left, channel), pixel(image, bottom, right, channel), column - left);
  return blend(upper, lower, row - top);
}

}  // namespace

CASE("every instruction set gives the bits of the plain float32 filter") {
  for (const auto& [input, output, patch] : kSizes) {
    const std::vector<std::uint8_t> bytes =
        random_bytes(static_cast<std::ptrdiff_t>(input.height) * input.width * 3, 3);
    const ImageView image{bytes.data(), input.height, input.width, input.width * 3};
    const PatchWindow window = whole(output, patch);
    std::vector<float> expected;
    for_each_value(window, [&](int y, int x, int channel) {
      const float level = std::nearbyint(reference_value(image, output, y, x, channel));
      CHECK(level >= 0.0F && level <= 255.0F);
      expected.push_back(level / 255.0F * 2.0F - 1.0F);
    });
    for (const kernels::CpuIsa isa : kernels::available_isas()) {
      CHECK(resized(image, output, window, isa) == expected);
    }
  }
}

CASE("levels differ from the exact filter's only next to a half") {
  for (const auto& [input, output, patch] : kSizes) {
    const std::vector<std::uint8_t> bytes =
        random_bytes(static_cast<std::ptrdiff_t>(input.height) * input.width * 3, 5);
    const ImageView image{bytes.data(), input.height, input.width, input.width * 3};
    const PatchWindow window = whole(output, patch);
    const std::vector<float> patches = resized(image, output, window, kernels::fastest_isa());
    std::size_t at = 0;
    for_each_value(window, [&](int y, int x, int channel) {
      const double level = (static_cast<double>(patches[at++]) + 1.0) / 2.0 * 255.0;
      // Positions reach 640, where float32 has steps of 6e-5: up to 0.008 levels between black and white.
      CHECK(std::abs(level - exact_value(image, output, y, x, channel)) <= 0.51);
    });
    CHECK_EQ(at, patches.size());
  }
}

CASE("all levels come back from a frame of the output's size, and saturated frames stay saturated") {
  std::vector<std::uint8_t> bytes(28UL * 28 * 3);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i);
  for (const kernels::CpuIsa isa : kernels::available_isas()) {
    const std::vector<float> kept = resized({bytes.data(), 28, 28, 84}, {28, 28}, {0, 0, 1, 1, 28}, isa);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      CHECK_EQ(kept[i], static_cast<float>(bytes[i]) / 255.0F * 2.0F - 1.0F);
    }
    for (const int level : {0, 255}) {
      const std::vector<std::uint8_t> flat(61UL * 47 * 3, static_cast<std::uint8_t>(level));
      const std::vector<float> patches = resized({flat.data(), 61, 47, 141}, {84, 98}, {0, 0, 6, 7, 14}, isa);
      CHECK(std::ranges::all_of(patches, [&](float value) { return value == (level == 0 ? -1.0F : 1.0F); }));
    }
  }
}

CASE("a window holds what the whole resized frame holds there") {
  const std::vector<std::uint8_t> bytes = random_bytes(103L * 87 * 3, 9);
  const ImageView image{bytes.data(), 103, 87, 261};
  const ImageSize size{70, 126};
  const std::vector<float> all = resized(image, size, whole(size, 1), kernels::CpuIsa::portable);
  constexpr std::array<PatchWindow, 5> kWindows{
      {{0, 0, 1, 1, 14}, {28, 42, 3, 6, 14}, {13, 1, 2, 4, 7}, {69, 125, 1, 1, 1}, {5, 100, 1, 2, 13}}};
  for (const PatchWindow& window : kWindows) {
    std::vector<float> expected;
    for_each_value(window, [&](int y, int x, int channel) {
      expected.push_back(all[index((static_cast<std::ptrdiff_t>(y) * size.width + x) * 3 + channel)]);
    });
    for (const kernels::CpuIsa isa : kernels::available_isas()) {
      CHECK(resized(image, size, window, isa) == expected);
    }
  }
}

CASE("rows may be apart, upside down or all the same") {
  constexpr int kHeight = 31;
  constexpr int kWidth = 23;
  constexpr std::ptrdiff_t kPadded = kWidth * 3 + 5;
  const std::vector<std::uint8_t> padded = random_bytes(kPadded * kHeight, 11);
  const std::array<ImageView, 3> views{{
      {padded.data(), kHeight, kWidth, kPadded},
      {padded.data() + kPadded * (kHeight - 1), kHeight, kWidth, -kPadded},
      {padded.data(), kHeight, kWidth, 0},
  }};
  for (const ImageView& view : views) {
    std::vector<std::uint8_t> dense;
    for (int y = 0; y < kHeight; ++y) {
      const std::uint8_t* const row = view.pixels + y * view.row_stride;
      dense.insert(dense.end(), row, row + kWidth * 3);
    }
    const PatchWindow window{0, 0, 3, 2, 14};
    for (const kernels::CpuIsa isa : kernels::available_isas()) {
      CHECK(resized(view, {42, 28}, window, isa) ==
            resized({dense.data(), kHeight, kWidth, kWidth * 3}, {42, 28}, window, isa));
    }
  }
}

CASE("what does not fit is refused and nothing is written") {
  const std::vector<std::uint8_t> bytes(4UL * 4 * 3);
  const ImageView image{bytes.data(), 4, 4, 12};
  const ImageSize size{28, 28};
  const PatchWindow window{0, 0, 2, 2, 14};
  std::vector<float> patches(value_count(window), 7.0F);
  const auto status = [&](const ImageView& view, ImageSize to, const PatchWindow& part) {
    return kernels::resize_to_patches(view, to, part, kernels::fastest_isa(), patches.data());
  };
  CHECK_EQ(status({nullptr, 4, 4, 12}, size, window), VisionInputStatus::bad_frame);
  CHECK_EQ(status({bytes.data(), 0, 4, 12}, size, window), VisionInputStatus::bad_frame);
  CHECK_EQ(status({bytes.data(), 4, kernels::kMaxImageSide + 1, 12}, size, window),
           VisionInputStatus::bad_frame);
  CHECK_EQ(kernels::resize_to_patches(image, size, window, kernels::fastest_isa(), nullptr),
           VisionInputStatus::bad_frame);
  CHECK_EQ(status(image, {0, 28}, window), VisionInputStatus::bad_size);
  CHECK_EQ(status(image, {28, kernels::kMaxImageSide + 1}, window), VisionInputStatus::bad_size);
  constexpr std::array<PatchWindow, 9> kOutside{{{-1, 0, 1, 1, 14},
                                                 {0, -1, 1, 1, 14},
                                                 {1, 0, 2, 2, 14},
                                                 {0, 1, 2, 2, 14},
                                                 {0, 28, 1, 1, 1},
                                                 {0, 0, 0, 2, 14},
                                                 {0, 0, 2, 0, 14},
                                                 {0, 0, 2, 2, 0},
                                                 {0, 0, 1 << 30, 1 << 30, 14}}};
  for (const PatchWindow& outside : kOutside) {
    CHECK_EQ(status(image, size, outside), VisionInputStatus::bad_window);
  }
  CHECK(std::ranges::all_of(patches, [](float value) { return value == 7.0F; }));
}
