// What CUDA devices this process can use. Callable without a GPU or driver: the answer is then empty.
#pragma once

#include <string>
#include <vector>

namespace molmoact2::kernels {

struct CudaDevice {
  int ordinal = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  std::size_t memory_bytes = 0;
  int multiprocessors = 0;
};

// True when the CUDA kernels were compiled in.
bool built_with_cuda();

// Devices the driver reports; empty without CUDA support, driver or device.
std::vector<CudaDevice> cuda_devices();

}  // namespace molmoact2::kernels
