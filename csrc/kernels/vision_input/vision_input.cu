#include <algorithm>

#include "kernels/device/launch.cuh"
#include "kernels/vision_input/linear_filter.h"
#include "kernels/vision_input/vision_input.h"
#include "kernels/vision_input/window_check.h"

namespace molmoact2::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxGridRows = 65535;  // the hardware's limit of gridDim.y

// One thread makes one channel of one column of the window, in every gridDim.y-th row; neighbours read the
// same few bytes through the cache and write runs of a patch's row.
__global__ void __launch_bounds__(kThreads)
    resize_to_patches_kernel(ImageView image, float row_scale, float column_scale, PatchWindow window,
                             float* __restrict__ patches) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  const int x = i / kImageChannels;
  if (x >= window.columns * window.patch) return;
  const int channel = i % kImageChannels;
  const LinearTap column = linear_tap(window.left + x, column_scale, image.width);
  const std::uint8_t* const first = image.pixels + column.first * kImageChannels + channel;
  const std::uint8_t* const second = image.pixels + column.second * kImageChannels + channel;
  const int patch_column = x / window.patch;
  const int in_patch = (x % window.patch) * kImageChannels + channel;
  const int segment = window.patch * kImageChannels;
  const auto blend_row = [&](int row) {
    const std::ptrdiff_t offset = row * image.row_stride;
    return blend(column.first_weight, first[offset], column.second_weight, second[offset]);
  };
  for (int y = static_cast<int>(blockIdx.y); y < window.rows * window.patch;
       y += static_cast<int>(gridDim.y)) {
    const LinearTap row = linear_tap(window.top + y, row_scale, image.height);
    const float value =
        blend(row.first_weight, blend_row(row.first), row.second_weight, blend_row(row.second));
    const std::ptrdiff_t patch =
        static_cast<std::ptrdiff_t>(y / window.patch) * window.columns + patch_column;
    patches[(patch * window.patch + y % window.patch) * segment + in_patch] = scaled_level(value);
  }
}

}  // namespace

VisionInputStatus resize_to_patches_cuda(const ImageView& image, ImageSize size, const PatchWindow& window,
                                         float* patches, CUstream_st* stream) {
  const VisionInputStatus status = check_window(image, size, window, patches);
  if (status != VisionInputStatus::ok) return status;
  const int values = window.columns * window.patch * kImageChannels;
  const dim3 grid(static_cast<unsigned>((values + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(window.rows * window.patch, kMaxGridRows)));
  const cudaError_t queued =
      launch({.grid = grid, .block = kThreads, .stream = stream}, resize_to_patches_kernel, image,
             axis_scale(image.height, size.height), axis_scale(image.width, size.width), window, patches);
  return queued == cudaSuccess ? VisionInputStatus::ok : VisionInputStatus::cuda_failed;
}

}  // namespace molmoact2::kernels
