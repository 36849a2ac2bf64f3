// What the emulation must find: kernels that are wrong on purpose. Only ever run emulated.
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "check.h"
#include "cuda_emulation.h"
#include "device_array.h"
#include "kernels/device/launch.cuh"

namespace {

namespace emulation = molmoact2::cuda_emulation;
namespace kernels = molmoact2::kernels;
using molmoact2::check::DeviceArray;

bool fails_with(const std::string& part) {
  const std::string failure = emulation::take_failure();
  if (failure.find(part) != std::string::npos) return true;
  std::cerr << "the failure is: " << failure << "\n";
  return false;
}

__global__ void reverse_kernel(int* values, bool synchronize) {
  __shared__ int copy[128];
  copy[threadIdx.x] = values[threadIdx.x];
  if (synchronize) __syncthreads();
  values[threadIdx.x] = copy[127 - threadIdx.x];
}

}  // namespace

CASE("a missing barrier gives wrong results, with it all is well") {
  std::vector<int> values(128);
  for (int i = 0; i < 128; ++i) values[static_cast<std::size_t>(i)] = i;
  const std::vector<int> reversed(values.rbegin(), values.rend());
  for (const bool synchronize : {false, true}) {
    const DeviceArray<int> device(values);
    REQUIRE(kernels::launch({.grid = 1, .block = 128}, reverse_kernel, device.get(), synchronize) ==
            cudaSuccess);
    CHECK_EQ(device.to_host() == reversed, synchronize);
  }
}
