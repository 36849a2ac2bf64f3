// What the emulated runtime remembers between calls.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "cuda_emulation.h"
#include "cuda_runtime_api.h"

namespace molmoact2::cuda_emulation {

struct State {
  DeviceModel device = device_models().front();
  std::uint64_t seed = 0;
  std::uint64_t launches = 0;
  cudaError_t last_error = cudaSuccess;
  std::string failure;  // not empty: every later call fails, as after a fault on a device
  std::map<const void*, std::size_t> dynamic_shared_limits;  // of kernels that asked for more than 48 KiB
  std::set<CUstream_st*> streams;
  std::set<CUevent_st*> events;
  std::mutex launching;
};

State& state();

// Remembers an error for cudaGetLastError() and hands it on.
cudaError_t answer(cudaError_t error);

// Ends the life of the emulated process: prints why, and makes later calls fail.
void record_failure(const std::string& what);

}  // namespace molmoact2::cuda_emulation
