// What the CPU and CUDA doors check alike.
#pragma once

#include "kernels/vision_input/vision_input.h"

namespace molmoact2::kernels {

inline bool usable_image_side(int side) { return side >= 1 && side <= kMaxImageSide; }

// Whether `patches` patches of `patch` pixels from `start` on lie within `size` pixels.
inline bool patches_fit(int start, int patches, int patch, int size) {
  return start >= 0 && patches >= 1 && start < size && patches <= (size - start) / patch;
}

inline VisionInputStatus check_window(const ImageView& image, ImageSize size, const PatchWindow& window,
                                      const float* patches) {
  if (image.pixels == nullptr || patches == nullptr || !usable_image_side(image.height) ||
      !usable_image_side(image.width)) {
    return VisionInputStatus::bad_frame;
  }
  if (!usable_image_side(size.height) || !usable_image_side(size.width)) return VisionInputStatus::bad_size;
  if (window.patch < 1 || window.patch > kMaxPatchSide ||
      !patches_fit(window.top, window.rows, window.patch, size.height) ||
      !patches_fit(window.left, window.columns, window.patch, size.width)) {
    return VisionInputStatus::bad_window;
  }
  return VisionInputStatus::ok;
}

// Input pixels per output pixel, as PyTorch computes it.
inline float axis_scale(int input_size, int output_size) {
  return static_cast<float>(input_size) / static_cast<float>(output_size);
}

}  // namespace molmoact2::kernels
