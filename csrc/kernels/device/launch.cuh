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
  // it touches what that one writes. Where waits_for_previous_grid(kernel); elsewhere an ordinary launch.
  bool overlap_previous = false;
};

// True when what runs of the kernel on the current device has the instruction to wait. The device alone does
// not tell: a new one also runs code that was compiled for an old one, translated by the driver.
inline bool waits_for_previous_grid(const void* kernel) {
  constexpr int kFirstVersion = 90;  // sm_90
  cudaFuncAttributes compiled{};
  return cudaFuncGetAttributes(&compiled, kernel) == cudaSuccess && compiled.ptxVersion >= kFirstVersion;
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
    if (shape.overlap_previous && waits_for_previous_grid(reinterpret_cast<const void*>(kernel))) {
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
