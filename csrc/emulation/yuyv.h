// RGB to YUYV as webcams send it: BT.601 with Y from 16 to 235, two neighbours sharing their colour.
#pragma once

#include <cstdint>
#include <span>

namespace molmoact2::emulation {

// `rgb` is (height, width, 3); every block of `scale` x `scale` pixels becomes one of the picture's, their
// mean. `yuyv` takes width / scale * height / scale * 2 bytes; width / scale is even.
void rgb_to_yuyv(std::span<const std::uint8_t> rgb, std::uint32_t width, std::uint32_t height,
                 std::uint32_t scale, std::span<std::uint8_t> yuyv) noexcept;

}  // namespace molmoact2::emulation
