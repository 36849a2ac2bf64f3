// How a kernel of this project is started: one door for plain, cooperative and overlapping launches, on a GPU
// and on the CPU emulation of the tests.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <utility>

namespace molmoact2::kernels {

// What a block gets without asking for it by an attribute of the kernel.
inline constexpr std::size_t kDefaultSharedBytes = 48 * 1024;

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block
  cudaStream_t stream = nullptr;
  bool cooperative = false;  // all blocks run at once, or the launch fails: what a GridBarrier needs
  // The kernel may start while the one before it in the stream ends; it calls wait_for_previous_grid() before
  // it touches what that one writes. From sm_90 on; before it the launch is an ordinary one.
  bool overlap_previous = false;
};

// True when the current device lets a kernel start before the one ahead of it has ended.
inline bool overlaps_grids() {
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

// Queues the kernel. An error is the caller's to report and is not left behind for the next
// cudaGetLastError().
template <class... Parameters, class... Arguments>
cudaError_t launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto queue = [&] {
    if (shape.shared_bytes > kDefaultSharedBytes) {
      const cudaError_t granted = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       static_cast<int>(shape.shared_bytes));
      if (granted != cudaSuccess) return granted;
    }
    std::array<cudaLaunchAttribute, 2> attributes{};
    unsigned count = 0;
    if (shape.cooperative) {
      attributes[count].id = cudaLaunchAttributeCooperative;
      attributes[count].val.cooperative = 1;
      ++count;
    }
    if (shape.overlap_previous && overlaps_grids()) {
      attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[count].val.programmaticStreamSerializationAllowed = 1;
      ++count;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = shape.stream;
    config.attrs = attributes.data();
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  };
  const cudaError_t status = queue();
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  return status;
}

}  // namespace molmoact2::kernels
