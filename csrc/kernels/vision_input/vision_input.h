// Camera frames to the patches that the vision tower reads.
//
// A frame is resized with a bilinear filter without antialiasing (align_corners=False), rounded half to even
// to whole levels, scaled by x / 255 * 2 - 1 and cut into square patches, in one pass: the resized frame
// never exists in memory. Only a window of it is written, so that overlapping crops are windows of one
// resize.
//
// The public model resizes with PyTorch, whose filter computes differently with one thread than with several,
// and differently again for small outputs; a level next to a half then rounds the other way. The arithmetic
// here is that of its kernel for several threads, to the bit, which is what the public vectors were made
// with; it depends on nothing but its input.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.h"

#ifdef MOLMOACT2_HAVE_CUDA
struct CUstream_st;  // cudaStream_t is a pointer to it
#endif

namespace molmoact2::kernels {

inline constexpr int kImageChannels = 3;
// Up to here float32 counts pixels exactly, and three bytes per pixel stay inside 32 bits.
inline constexpr int kMaxImageSide = 1 << 24;
inline constexpr int kMaxPatchSide = 1024;

enum class VisionInputStatus : std::uint8_t {
  ok,
  bad_frame,    // a null pointer, or a side outside 1..kMaxImageSide
  bad_size,     // a side of the resized frame outside 1..kMaxImageSide
  bad_window,   // no patches, patches outside 1..kMaxPatchSide, or a window that leaves the resized frame
  cuda_failed,  // a kernel could not be launched
};

// RGB, 8 bit, (height, width, 3); a pixel's channels and a row's pixels are adjacent.
struct ImageView {
  const std::uint8_t* pixels = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_stride = 0;  // bytes from one row to the next: more than 3 * width, 0 and less are fine
};

struct ImageSize {
  int height = 0;
  int width = 0;
};

// Which part of the resized frame to cut into patches.
struct PatchWindow {
  int top = 0;   // pixels
  int left = 0;  // pixels
  int rows = 0;  // of patches
  int columns = 0;
  int patch = 0;  // pixels along a patch's side
};

// patches: (window.rows * window.columns, patch * patch * 3), row by row, each (row, column, channel). Every
// instruction set gives the same bits; it must be one of available_isas().
VisionInputStatus resize_to_patches(const ImageView& image, ImageSize size, const PatchWindow& window,
                                    CpuIsa isa, float* patches);

#ifdef MOLMOACT2_HAVE_CUDA

// The same bits on a GPU. image.pixels and `patches` are to memory that the device can read and write; the
// work is queued on `stream` and nothing is allocated or synchronized.
VisionInputStatus resize_to_patches_cuda(const ImageView& image, ImageSize size, const PatchWindow& window,
                                         float* patches, CUstream_st* stream);

#endif

}  // namespace molmoact2::kernels
