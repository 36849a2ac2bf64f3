// Which cells of the depth grid changed between two camera frames.
//
// Both frames are resized to (side * 32) squared with Pillow's bilinear filter, to the bit: an antialiasing
// triangle, weights in fixed point, along each row and then along each column, 8 bits between the two, either
// left out where the size already fits. (That was Pillow's order up to 12, with which the public model was
// made; from 13 on it starts with the columns for frames that lose far more height than width.) A cell is 32
// x 32 x 3 numbers; it changed when the cosine of now and before is below 0.996, and never when the product
// of the norms is below 1e-8.
//
// Pixels are 8 bit, so the three sums of a cell are exact in 32-bit integers (at most 3072 * 255^2 < 2^28)
// and the cosine is one square root and one division in double. The public code sums in fp32; against it
// this differs by the noise of fp32 only (1e-7), and the CPU and CUDA versions give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/isa.h"

#ifdef MOLMOACT2_HAVE_CUDA
struct CUstream_st;  // cudaStream_t is a pointer to it
#endif

namespace molmoact2::kernels {

inline constexpr int kCellPixels = 32;  // one cell is 32 x 32 pixels
inline constexpr int kColorChannels = 3;
inline constexpr double kUnchangedCosine = 0.996;
inline constexpr double kLeastNormProduct = 1e-8;
// Bounds that keep every index and sum inside 32 bits.
inline constexpr int kMaxFrameSide = 16384;
inline constexpr int kMaxGridSide = 64;

enum class DepthDiffStatus : std::uint8_t {
  ok,
  bad_frame,    // a null pointer, or a side outside 1..kMaxFrameSide
  bad_grid,     // cells per side outside 1..kMaxGridSide
  cuda_failed,  // a kernel could not be launched
};

// RGB, 8 bit, (height, width, 3), rows without padding.
struct RgbFrame {
  const std::uint8_t* pixels = nullptr;
  int height = 0;
  int width = 0;
};

// One axis of a resize: output i is the sum over j < counts[i] of weights[i * taps + j] * input[firsts[i] +
// j] in units of 2^-22. The pointers are to host memory or to device memory, as the function says.
struct ResizeAxisView {
  int input_size = 0;
  int output_size = 0;
  int taps = 0;
  const std::int32_t* firsts = nullptr;   // (output_size,)
  const std::int32_t* counts = nullptr;   // (output_size,)
  const std::int32_t* weights = nullptr;  // (output_size, taps), zero past counts[i]
};

// The weights of one axis, in host memory.
struct ResizeAxis {
  // Both sizes at least 1.
  ResizeAxis(int input_size, int output_size);

  ResizeAxisView view() const;

  int input_size;
  int output_size;
  int taps;
  std::vector<std::int32_t> firsts;
  std::vector<std::int32_t> counts;
  std::vector<std::int32_t> weights;
};

// On the CPU; the processor must have the instruction set, and all of them give the same bits.
// resized: (height, width, 3).
DepthDiffStatus resize_bilinear(const RgbFrame& frame, int height, int width, CpuIsa isa,
                                std::uint8_t* resized);

// current, previous: (side * 32, side * 32, 3), already resized. changed: (side * side,), row-major, 0 or 1.
DepthDiffStatus changed_cells(const std::uint8_t* current, const std::uint8_t* previous, int side, CpuIsa isa,
                              std::uint8_t* changed);

// Both steps; the frames may differ in size. changed: (side * side,), row-major, 0 or 1.
DepthDiffStatus depth_update_mask(const RgbFrame& current, const RgbFrame& previous, int side, CpuIsa isa,
                                  std::uint8_t* changed);

#ifdef MOLMOACT2_HAVE_CUDA

// The same on a GPU. Every pointer, also those inside `frame` and the views, is to device memory; the work is
// queued on `stream` and nothing is allocated or synchronized.
// rows: from frame.height; columns: from frame.width. between: (frame.height, columns.output_size, 3),
// written between the passes. resized: (rows.output_size, columns.output_size, 3).
DepthDiffStatus resize_bilinear_cuda(const RgbFrame& frame, const ResizeAxisView& rows,
                                     const ResizeAxisView& columns, std::uint8_t* between,
                                     std::uint8_t* resized, CUstream_st* stream);

DepthDiffStatus changed_cells_cuda(const std::uint8_t* current, const std::uint8_t* previous, int side,
                                   std::uint8_t* changed, CUstream_st* stream);

struct FrameSize {
  int height = 0;
  int width = 0;
};

// Both steps for frames of two sizes, on the device that was the current one when it was made: holds the
// weights of the resizes and what lies between the steps.
class CudaDepthDiff {
 public:
  // std::invalid_argument when a size is outside the bounds above. Needs no device.
  static void check(FrameSize current, FrameSize previous, int side);

  // Throws as check() does, and std::bad_alloc when the device has no memory.
  CudaDepthDiff(FrameSize current, FrameSize previous, int side);
  CudaDepthDiff(const CudaDepthDiff&) = delete;
  CudaDepthDiff& operator=(const CudaDepthDiff&) = delete;
  ~CudaDepthDiff();

  FrameSize current() const;
  FrameSize previous() const;
  int side() const;

  // Queues the kernels on `stream`; nothing is allocated or synchronized. Every pointer is to device memory,
  // the frames of the constructor's sizes; changed: (side * side,), row-major, 0 or 1. Calls share memory and
  // must follow one another on the device.
  DepthDiffStatus update_mask(const std::uint8_t* current_pixels, const std::uint8_t* previous_pixels,
                              std::uint8_t* changed, CUstream_st* stream) const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

#endif

}  // namespace molmoact2::kernels
