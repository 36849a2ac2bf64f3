#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/depth_diff/depth_diff.h"
#include "kernels/depth_diff/fixed_point.h"
#include "kernels/device/device_memory.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/warp.cuh"

namespace molmoact2::kernels {
namespace {

constexpr int kResizeThreads = 256;
constexpr int kCellThreads = 256;

// One thread makes one byte of the output; neighbours in x share their taps through the cache.
// input: (height, axis.input_size, 3); output: (height, axis.output_size, 3).
__global__ void __launch_bounds__(kResizeThreads)
    resize_columns_kernel(const std::uint8_t* __restrict__ input, ResizeAxisView axis,
                          std::uint8_t* __restrict__ output) {
  const int i = static_cast<int>(blockIdx.x * kResizeThreads + threadIdx.x);
  if (i >= axis.output_size * kColorChannels) return;
  const int x = i / kColorChannels;
  const int channel = i % kColorChannels;
  const std::size_t y = blockIdx.y;
  const std::size_t input_stride = static_cast<std::size_t>(axis.input_size) * kColorChannels;
  const std::size_t output_stride = static_cast<std::size_t>(axis.output_size) * kColorChannels;
  const std::uint8_t* pixel = input + y * input_stride + axis.firsts[x] * kColorChannels + channel;
  const std::int32_t* const weights = axis.weights + static_cast<std::ptrdiff_t>(x) * axis.taps;
  std::int32_t sum = kFixedPointHalf;
  for (int tap = 0; tap < axis.counts[x]; ++tap) sum += weights[tap] * pixel[tap * kColorChannels];
  output[y * output_stride + i] = fixed_point_to_byte(sum);
}

// input: (axis.input_size, row_bytes); output: (axis.output_size, row_bytes).
__global__ void __launch_bounds__(kResizeThreads)
    resize_rows_kernel(const std::uint8_t* __restrict__ input, int row_bytes, ResizeAxisView axis,
                       std::uint8_t* __restrict__ output) {
  const int i = static_cast<int>(blockIdx.x * kResizeThreads + threadIdx.x);
  if (i >= row_bytes) return;
  const int y = static_cast<int>(blockIdx.y);
  const std::uint8_t* pixel = input + static_cast<std::ptrdiff_t>(axis.firsts[y]) * row_bytes + i;
  const std::int32_t* const weights = axis.weights + static_cast<std::ptrdiff_t>(y) * axis.taps;
  std::int32_t sum = kFixedPointHalf;
  for (int tap = 0; tap < axis.counts[y]; ++tap) {
    sum += weights[tap] * *pixel;
    pixel += row_bytes;
  }
  output[static_cast<std::ptrdiff_t>(y) * row_bytes + i] = fixed_point_to_byte(sum);
}

// One block per cell; integer sums, so that the order of addition does not matter.
__global__ void __launch_bounds__(kCellThreads)
    changed_cells_kernel(const std::uint8_t* __restrict__ current, const std::uint8_t* __restrict__ previous,
                         std::uint8_t* __restrict__ changed) {
  constexpr int kCellWidth = kCellPixels * kColorChannels;
  __shared__ std::int32_t sums[3];
  if (threadIdx.x < 3) sums[threadIdx.x] = 0;
  __syncthreads();

  const int side = static_cast<int>(gridDim.x);
  const int stride = side * kCellWidth;
  const std::ptrdiff_t corner = static_cast<std::ptrdiff_t>(blockIdx.y) * kCellPixels * stride +
                                static_cast<std::ptrdiff_t>(blockIdx.x) * kCellWidth;
  std::int32_t dot = 0;
  std::int32_t current_square = 0;
  std::int32_t previous_square = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kCellPixels * kCellWidth; i += kCellThreads) {
    const std::ptrdiff_t at = corner + static_cast<std::ptrdiff_t>(i / kCellWidth) * stride + i % kCellWidth;
    const std::int32_t a = current[at];
    const std::int32_t b = previous[at];
    dot += a * b;
    current_square += a * a;
    previous_square += b * b;
  }
  // All lanes of all warps arrive here: kCellThreads divides the pixels of a cell.
  dot = warp_sum(dot);
  current_square = warp_sum(current_square);
  previous_square = warp_sum(previous_square);
  if (threadIdx.x % kWarpLanes == 0) {
    atomicAdd(&sums[0], dot);
    atomicAdd(&sums[1], current_square);
    atomicAdd(&sums[2], previous_square);
  }
  __syncthreads();
  if (threadIdx.x == 0)
    changed[blockIdx.y * gridDim.x + blockIdx.x] = cell_changed(sums[0], sums[1], sums[2]);
}

static_assert(kCellPixels * kCellPixels * kColorChannels % kCellThreads == 0);

bool usable_axis(const ResizeAxisView& axis, int input_size) {
  return axis.input_size == input_size && axis.input_size >= 1 && axis.input_size <= kMaxFrameSide &&
         axis.output_size >= 1 && axis.output_size <= kMaxFrameSide && axis.firsts != nullptr &&
         axis.counts != nullptr && axis.weights != nullptr;
}

unsigned blocks_for(int count) {
  return static_cast<unsigned>((count + kResizeThreads - 1) / kResizeThreads);
}

DepthDiffStatus status_of(cudaError_t error) {
  return error == cudaSuccess ? DepthDiffStatus::ok : DepthDiffStatus::cuda_failed;
}

}  // namespace

DepthDiffStatus resize_bilinear_cuda(const RgbFrame& frame, const ResizeAxisView& rows,
                                     const ResizeAxisView& columns, std::uint8_t* between,
                                     std::uint8_t* resized, CUstream_st* stream) {
  if (frame.pixels == nullptr || between == nullptr || resized == nullptr ||
      !usable_axis(rows, frame.height) || !usable_axis(columns, frame.width)) {
    return DepthDiffStatus::bad_frame;
  }
  const bool columns_fit = columns.input_size == columns.output_size;
  const bool rows_fit = rows.input_size == rows.output_size;
  const int row_bytes = columns.output_size * kColorChannels;
  if (columns_fit && rows_fit) {
    const std::size_t bytes = static_cast<std::size_t>(row_bytes) * static_cast<std::size_t>(frame.height);
    return status_of(cudaMemcpyAsync(resized, frame.pixels, bytes, cudaMemcpyDeviceToDevice, stream));
  }
  const std::uint8_t* rows_input = frame.pixels;
  if (!columns_fit) {
    std::uint8_t* const output = rows_fit ? resized : between;
    const dim3 grid(blocks_for(row_bytes), static_cast<unsigned>(frame.height));
    const cudaError_t queued = launch({.grid = grid, .block = kResizeThreads, .stream = stream},
                                      resize_columns_kernel, frame.pixels, columns, output);
    if (queued != cudaSuccess || rows_fit) return status_of(queued);
    rows_input = output;
  }
  const dim3 grid(blocks_for(row_bytes), static_cast<unsigned>(rows.output_size));
  return status_of(launch({.grid = grid, .block = kResizeThreads, .stream = stream}, resize_rows_kernel,
                          rows_input, row_bytes, rows, resized));
}

DepthDiffStatus changed_cells_cuda(const std::uint8_t* current, const std::uint8_t* previous, int side,
                                   std::uint8_t* changed, CUstream_st* stream) {
  if (side < 1 || side > kMaxGridSide) return DepthDiffStatus::bad_grid;
  if (current == nullptr || previous == nullptr || changed == nullptr) return DepthDiffStatus::bad_frame;
  const dim3 grid(static_cast<unsigned>(side), static_cast<unsigned>(side));
  return status_of(launch({.grid = grid, .block = kCellThreads, .stream = stream}, changed_cells_kernel,
                          current, previous, changed));
}

class CudaDepthDiff::State {
 public:
  State(FrameSize current, FrameSize previous, int side)
      : side_(side),
        current_(current, side * kCellPixels, memory_),
        previous_(previous, side * kCellPixels, memory_) {
    const int height = std::max(current.height, previous.height);
    between_ = memory_.allocate<std::uint8_t>(bytes_of(height, side * kCellPixels));
    require_success(cudaStreamSynchronize(nullptr));  // the weights are there
  }

  FrameSize current() const { return current_.size; }
  FrameSize previous() const { return previous_.size; }
  int side() const { return side_; }

  DepthDiffStatus update_mask(const std::uint8_t* current, const std::uint8_t* previous,
                              std::uint8_t* changed, cudaStream_t stream) const {
    DepthDiffStatus status = resize(current_, current, stream);
    if (status == DepthDiffStatus::ok) status = resize(previous_, previous, stream);
    if (status != DepthDiffStatus::ok) return status;
    return changed_cells_cuda(current_.resized, previous_.resized, side_, changed, stream);
  }

 private:
  // One frame's way to the grid.
  struct Resize {
    Resize(FrameSize frame, int pixels, DeviceMemory& memory)
        : size(frame),
          rows(on_device(ResizeAxis(frame.height, pixels), memory)),
          columns(on_device(ResizeAxis(frame.width, pixels), memory)),
          resized(memory.allocate<std::uint8_t>(bytes_of(pixels, pixels))) {}

    FrameSize size;
    ResizeAxisView rows;
    ResizeAxisView columns;
    std::uint8_t* resized;
  };

  static std::size_t bytes_of(int height, int width) {
    return static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * kColorChannels;
  }

  static ResizeAxisView on_device(const ResizeAxis& axis, DeviceMemory& memory) {
    return {axis.input_size,          axis.output_size,         axis.taps,
            memory.copy(axis.firsts), memory.copy(axis.counts), memory.copy(axis.weights)};
  }

  DepthDiffStatus resize(const Resize& to, const std::uint8_t* pixels, cudaStream_t stream) const {
    return resize_bilinear_cuda({pixels, to.size.height, to.size.width}, to.rows, to.columns, between_,
                                to.resized, stream);
  }

  const int side_;
  DeviceMemory memory_;
  const Resize current_;
  const Resize previous_;
  std::uint8_t* between_ = nullptr;  // of one frame after the other
};

void CudaDepthDiff::check(FrameSize current, FrameSize previous, int side) {
  const auto usable = [](int size) { return size >= 1 && size <= kMaxFrameSide; };
  for (const FrameSize& frame : {current, previous}) {
    if (!usable(frame.height) || !usable(frame.width)) {
      throw std::invalid_argument("frame sides must be 1 to " + std::to_string(kMaxFrameSide) + ", got (" +
                                  std::to_string(frame.height) + ", " + std::to_string(frame.width) + ")");
    }
  }
  if (side < 1 || side > kMaxGridSide) {
    throw std::invalid_argument("cells per side must be 1 to " + std::to_string(kMaxGridSide) + ", got " +
                                std::to_string(side));
  }
}

CudaDepthDiff::CudaDepthDiff(FrameSize current, FrameSize previous, int side) {
  check(current, previous, side);
  state_ = std::make_unique<State>(current, previous, side);
}

CudaDepthDiff::~CudaDepthDiff() = default;

FrameSize CudaDepthDiff::current() const { return state_->current(); }

FrameSize CudaDepthDiff::previous() const { return state_->previous(); }

int CudaDepthDiff::side() const { return state_->side(); }

DepthDiffStatus CudaDepthDiff::update_mask(const std::uint8_t* current_pixels,
                                           const std::uint8_t* previous_pixels, std::uint8_t* changed,
                                           CUstream_st* stream) const {
  return state_->update_mask(current_pixels, previous_pixels, changed, stream);
}

}  // namespace molmoact2::kernels
