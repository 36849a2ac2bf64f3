// What the tests of CUDA kernels share.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "kernels/device/device.h"

namespace molmoact2::check {

// For cases whose largest sizes only a GPU runs through in an instant.
#ifdef MOLMOACT2_CUDA_EMULATION
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    void* memory = nullptr;
    if (cudaMalloc(&memory, size * sizeof(T)) != cudaSuccess)
      throw std::runtime_error("out of device memory");
    data_ = static_cast<T*>(memory);
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    if (cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess) {
      throw std::runtime_error("copy to the device failed");
    }
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&&) = delete;
  DeviceArray& operator=(DeviceArray&&) = delete;

  T* get() const { return data_; }

  std::vector<T> to_host() const {
    std::vector<T> host(size_);
    if (cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess) {
      throw std::runtime_error("copy from the device failed");
    }
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

// True, and the case counts as skipped, where there is nothing to run on. An emulated device is always there.
inline bool no_device() {
  if (!kernels::cuda_devices().empty()) return false;
  CHECK(!kEmulated);
  skip("no CUDA device");
  return true;
}

}  // namespace molmoact2::check
