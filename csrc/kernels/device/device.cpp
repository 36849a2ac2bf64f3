#include "kernels/device/device.h"

#ifdef MOLMOACT2_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace molmoact2::kernels {

#ifdef MOLMOACT2_HAVE_CUDA

bool built_with_cuda() { return true; }

std::vector<CudaDevice> cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // a missing driver is an answer here, not a sticky error for later calls
    return {};
  }
  std::vector<CudaDevice> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    devices.push_back({ordinal, properties.name, properties.major, properties.minor,
                       properties.totalGlobalMem, properties.multiProcessorCount});
  }
  return devices;
}

#else

bool built_with_cuda() { return false; }

std::vector<CudaDevice> cuda_devices() { return {}; }

#endif

}  // namespace molmoact2::kernels
