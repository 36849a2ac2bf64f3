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

// Lets a block of the kernel have so many bytes of dynamic shared memory on the current device. The limit is
// one number for all threads of the process, so it is only ever raised, and to all that there is: a thread
// that set what it needs itself could have it lowered by another before its launch. Once raised, this only
// looks. Nothing but this function sets it.
template <class... Parameters>
cudaError_t allow_shared_bytes(void (*kernel)(Parameters...), std::size_t bytes) {
  if (bytes <= kDefaultSharedBytes) return cudaSuccess;
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaFuncAttributes compiled{};
  cudaError_t status = cudaFuncGetAttributes(&compiled, function);
  if (status != cudaSuccess) return status;
  if (std::cmp_less_equal(bytes, compiled.maxDynamicSharedSizeBytes)) return cudaSuccess;
  int device = 0;
  int most = 0;
  status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (status != cudaSuccess) return status;
  most -= static_cast<int>(compiled.sharedSizeBytes);  // that is the kernel's in any case
  if (std::cmp_greater(bytes, most)) return cudaErrorInvalidValue;
  return cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

// Queues the kernel. An error is the caller's to report and is not left behind for the next
// cudaGetLastError().
template <class... Parameters, class... Arguments>
cudaError_t launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto queue = [&] {
    const cudaError_t allowed = allow_shared_bytes(kernel, shape.shared_bytes);
    if (allowed != cudaSuccess) return allowed;
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
