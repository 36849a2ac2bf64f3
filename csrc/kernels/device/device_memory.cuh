// Memory of the current device that lives as long as what it is a part of.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace molmoact2::kernels {

// Throws std::bad_alloc where the device has no memory left, std::runtime_error for anything else.
inline void require_success(cudaError_t status) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

// Throws as require_success() does.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    for (void* const block : blocks_) cudaFree(block);
  }

  template <class T>
  T* allocate(std::size_t count) {
    blocks_.reserve(blocks_.size() + 1);
    void* memory = nullptr;
    const std::size_t bytes = std::max<std::size_t>(count, 1) * sizeof(T);
    require_success(cudaMalloc(&memory, bytes));
    blocks_.push_back(memory);
    bytes_ += bytes;
    return static_cast<T*>(memory);
  }

  // The last bytes may be under way when it returns: wait for the default stream before another one reads.
  template <class T>
  T* copy(const std::vector<T>& host) {
    T* const memory = allocate<T>(host.size());
    require_success(cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
  }

  std::size_t bytes() const { return bytes_; }

 private:
  std::vector<void*> blocks_;
  std::size_t bytes_ = 0;
};

}  // namespace molmoact2::kernels
