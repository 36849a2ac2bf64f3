// The device side of CUDA C++ as far as kernels here use it, and the calls that take kernels; see
// cuda_emulation.h. Compiled in front of every .cu file, as nvcc does with the real one.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#include "cuda_runtime_api.h"
#include "device_language.h"

namespace molmoact2::cuda_emulation {

// Checks the configuration, and runs `body` once per thread.
cudaError_t queue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                         const std::function<void()>& body);

}  // namespace molmoact2::cuda_emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config == nullptr || kernel == nullptr) return cudaErrorInvalidValue;
  // Converted once, as the launch copies them; every thread then gets a copy of its own.
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  return molmoact2::cuda_emulation::queue_kernel(*config, reinterpret_cast<const void*>(kernel),
                                                 [&] { std::apply(kernel, values); });
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Parameters...),
                                                          int threads, std::size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel), threads,
                                                       shared_bytes);
}
