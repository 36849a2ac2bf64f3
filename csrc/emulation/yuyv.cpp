#include "emulation/yuyv.h"

#include <cstddef>

namespace molmoact2::emulation {
namespace {

struct Pixel {
  int red = 0;
  int green = 0;
  int blue = 0;
};

Pixel mean_of_block(const std::uint8_t* block, std::size_t row_bytes, std::uint32_t scale) noexcept {
  Pixel sum;
  for (std::uint32_t row = 0; row < scale; ++row) {
    const std::uint8_t* pixel = block + row * row_bytes;
    for (std::uint32_t column = 0; column < scale; ++column, pixel += 3) {
      sum.red += pixel[0];
      sum.green += pixel[1];
      sum.blue += pixel[2];
    }
  }
  const int count = static_cast<int>(scale * scale);
  const int half = count / 2;
  return {(sum.red + half) / count, (sum.green + half) / count, (sum.blue + half) / count};
}

// Coefficients in 1/256, for numbers from 0 to 255 in all three colours: nothing leaves a byte.
std::uint8_t luma(const Pixel& pixel) noexcept {
  return static_cast<std::uint8_t>(((66 * pixel.red + 129 * pixel.green + 25 * pixel.blue + 128) >> 8) + 16);
}

std::uint8_t blue_difference(const Pixel& pixel) noexcept {
  return static_cast<std::uint8_t>(((-38 * pixel.red - 74 * pixel.green + 112 * pixel.blue + 128) >> 8) +
                                   128);
}

std::uint8_t red_difference(const Pixel& pixel) noexcept {
  return static_cast<std::uint8_t>(((112 * pixel.red - 94 * pixel.green - 18 * pixel.blue + 128) >> 8) + 128);
}

}  // namespace

void rgb_to_yuyv(std::span<const std::uint8_t> rgb, std::uint32_t width, std::uint32_t height,
                 std::uint32_t scale, std::span<std::uint8_t> yuyv) noexcept {
  const std::size_t row_bytes = std::size_t{width} * 3;
  std::uint8_t* out = yuyv.data();
  for (std::uint32_t row = 0; row < height / scale; ++row) {
    const std::uint8_t* block = rgb.data() + std::size_t{row} * scale * row_bytes;
    for (std::uint32_t column = 0; column + 1 < width / scale; column += 2) {
      const Pixel left = mean_of_block(block, row_bytes, scale);
      block += std::size_t{scale} * 3;
      const Pixel right = mean_of_block(block, row_bytes, scale);
      block += std::size_t{scale} * 3;
      const Pixel both{(left.red + right.red + 1) / 2, (left.green + right.green + 1) / 2,
                       (left.blue + right.blue + 1) / 2};
      *out++ = luma(left);
      *out++ = blue_difference(both);
      *out++ = luma(right);
      *out++ = red_difference(both);
    }
  }
}

}  // namespace molmoact2::emulation
