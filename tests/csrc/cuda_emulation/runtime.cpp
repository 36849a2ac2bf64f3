// Devices, errors, streams, events and the launch of kernels.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <utility>

#include "allocations.h"
#include "cuda_emulation.h"
#include "cuda_runtime_api.h"
#include "device_language.h"
#include "grid.h"
#include "state.h"

using Clock = std::chrono::steady_clock;

struct CUstream_st {};

struct CUevent_st {
  bool timed = true;
  bool recorded = false;
  Clock::time_point time;
};

namespace molmoact2::cuda_emulation {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kDefaultSharedBytes = 48 * kKiB;
constexpr std::size_t kReservedSharedBytes = 1 * kKiB;  // of each block, for the system

constexpr std::array<DeviceModel, 2> kDeviceModels{{
    {"emulated device like sm_87", 8, 7, 5, 163 * kKiB, 164 * kKiB, 1536, 16, kKiB * kKiB * kKiB},
    {"emulated device like sm_90", 9, 0, 7, 227 * kKiB, 228 * kKiB, 2048, 32, kKiB * kKiB * kKiB},
}};

std::size_t shared_limit(const void* kernel) {
  const auto found = state().dynamic_shared_limits.find(kernel);
  return found == state().dynamic_shared_limits.end() ? kDefaultSharedBytes : found->second;
}

// Registers, which limit it too, are not known here.
std::size_t blocks_per_multiprocessor(std::size_t threads, std::size_t shared_bytes) {
  const DeviceModel& device = state().device;
  const std::size_t whole_warps = (threads + kWarpSize - 1) / kWarpSize * kWarpSize;
  return std::min({static_cast<std::size_t>(device.blocks_per_multiprocessor),
                   static_cast<std::size_t>(device.threads_per_multiprocessor) / whole_warps,
                   device.shared_bytes_per_multiprocessor / (shared_bytes + kReservedSharedBytes)});
}

struct LaunchOptions {
  bool cooperative = false;
  bool overlapping = false;
};

LaunchOptions options_of(const cudaLaunchConfig_t& config) {
  LaunchOptions options;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    switch (attribute.id) {
      case cudaLaunchAttributeIgnore:
        break;
      case cudaLaunchAttributeCooperative:
        options.cooperative = attribute.val.cooperative != 0;
        break;
      case cudaLaunchAttributeProgrammaticStreamSerialization:
        options.overlapping = attribute.val.programmaticStreamSerializationAllowed != 0;
        break;
    }
  }
  return options;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel, const LaunchOptions& options) {
  if (config.stream != nullptr && !state().streams.contains(config.stream)) {
    return cudaErrorInvalidResourceHandle;
  }
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  constexpr unsigned kMostInX = 0x7FFFFFFF;
  constexpr unsigned kMostInYOrZ = 65535;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMostInX || grid.y > kMostInYOrZ ||
      grid.z > kMostInYOrZ) {
    return cudaErrorInvalidConfiguration;
  }
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.x > kMostThreads || block.y > kMostThreads ||
      block.z > 64 || static_cast<std::size_t>(block.x) * block.y * block.z > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (config.dynamicSmemBytes > shared_limit(kernel)) return cudaErrorInvalidValue;
  if (options.overlapping && state().device.major < 9) return cudaErrorNotSupported;
  if (options.cooperative) {
    const std::size_t resident =
        blocks_per_multiprocessor(static_cast<std::size_t>(block.x) * block.y * block.z,
                                  config.dynamicSmemBytes) *
        static_cast<std::size_t>(state().device.multiprocessors);
    if (static_cast<std::size_t>(grid.x) * grid.y * grid.z > resident) {
      return cudaErrorCooperativeLaunchTooLarge;
    }
  }
  return cudaSuccess;
}

}  // namespace

std::span<const DeviceModel> device_models() { return kDeviceModels; }

State& state() {
  static State instance;
  return instance;
}

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) state().last_error = error;
  return error;
}

void record_failure(const std::string& what) {
  if (!state().failure.empty()) return;
  state().failure = what;
  state().last_error = cudaErrorLaunchFailure;
}

void use_device(const DeviceModel& model) {
  state().device = model;
  state().dynamic_shared_limits.clear();  // each device has its own
}

void use_seed(std::uint64_t seed) {
  state().seed = seed;
  state().launches = 0;
}

std::string take_failure() {
  state().last_error = cudaSuccess;
  return std::exchange(state().failure, "");
}

bool finds_every_stray_access() {
#ifdef __SANITIZE_ADDRESS__
  return true;
#else
  return false;
#endif
}

void require_writable(const void* memory, std::size_t bytes, const char* what, std::source_location where) {
  if (reinterpret_cast<std::uintptr_t>(memory) % bytes != 0) {
    running_block->fail(where, {what, " of an address that is not aligned"});
  }
  if (!running_block->is_shared(memory, bytes) && !is_device_memory(memory, bytes)) {
    running_block->fail(where, {what, " of an address that is neither device nor shared memory"});
  }
}

cudaError_t queue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                         const std::function<void()>& body) {
  State& now = state();
  const std::scoped_lock lock(now.launching);
  if (!now.failure.empty()) return answer(cudaErrorLaunchFailure);
  const LaunchOptions options = options_of(config);
  const cudaError_t usable = check_launch(config, kernel, options);
  if (usable != cudaSuccess) return answer(usable);
  Launch launch{config.gridDim,
                config.blockDim,
                config.dynamicSmemBytes,
                body,
                RandomStream(now.seed + now.launches++).next(),
                0,
                ""};
  options.cooperative ? run_blocks_together(launch) : run_blocks_in_turn(launch);
  if (launch.failure.empty()) launch.failure = damaged_allocation();
  // As on a device, the fault shows in the calls that follow.
  if (!launch.failure.empty()) record_failure(launch.failure);
  return cudaSuccess;
}

}  // namespace molmoact2::cuda_emulation

using namespace molmoact2::cuda_emulation;

namespace {

bool known(cudaStream_t stream) { return stream == nullptr || state().streams.contains(stream); }

cudaError_t finished(cudaStream_t stream) {
  if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
  return state().failure.empty() ? cudaSuccess : answer(cudaErrorLaunchFailure);
}

cudaError_t known_event(cudaEvent_t event) {
  return state().events.contains(event) ? cudaSuccess : answer(cudaErrorInvalidResourceHandle);
}

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};

constexpr std::array<ErrorText, 13> kErrors{{
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
}};

const ErrorText* find_error(cudaError_t error) {
  const auto* const found = std::ranges::find(kErrors, error, &ErrorText::error);
  return found == kErrors.end() ? nullptr : found;
}

}  // namespace

cudaError_t cudaGetLastError() {
  const cudaError_t error = state().last_error;
  if (state().failure.empty()) state().last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return state().last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorText* const found = find_error(error);
  return found != nullptr ? found->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorText* const found = find_error(error);
  return found != nullptr ? found->text : "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (count == nullptr) return answer(cudaErrorInvalidValue);
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (device == nullptr) return answer(cudaErrorInvalidValue);
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : answer(cudaErrorInvalidDevice); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (properties == nullptr) return answer(cudaErrorInvalidValue);
  if (device != 0) return answer(cudaErrorInvalidDevice);
  const DeviceModel& model = state().device;
  *properties = {};
  std::strncpy(properties->name, model.name, sizeof(properties->name) - 1);
  properties->totalGlobalMem = model.memory_bytes;
  properties->sharedMemPerBlock = kDefaultSharedBytes;
  properties->sharedMemPerBlockOptin = model.shared_bytes_per_block;
  properties->sharedMemPerMultiprocessor = model.shared_bytes_per_multiprocessor;
  properties->warpSize = kWarpSize;
  properties->maxThreadsPerBlock = kMostThreads;
  properties->maxThreadsPerMultiProcessor = model.threads_per_multiprocessor;
  properties->multiProcessorCount = model.multiprocessors;
  properties->cooperativeLaunch = 1;
  properties->l2CacheSize = 4 * kKiB * kKiB;
  properties->major = model.major;
  properties->minor = model.minor;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (value == nullptr) return answer(cudaErrorInvalidValue);
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  if (status != cudaSuccess) return status;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = properties.cooperativeLaunch;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return answer(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() { return finished(nullptr); }

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (stream == nullptr || (flags & ~cudaStreamNonBlocking) != 0) return answer(cudaErrorInvalidValue);
  *stream = *state().streams.insert(new CUstream_st).first;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (state().streams.erase(stream) == 0) return answer(cudaErrorInvalidResourceHandle);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return finished(stream); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return finished(stream); }

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (flags != 0) return answer(cudaErrorInvalidValue);
  if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
  return known_event(event);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (event == nullptr || (flags & ~cudaEventDisableTiming) != 0) return answer(cudaErrorInvalidValue);
  *event = *state().events.insert(new CUevent_st{flags == cudaEventDefault, false, {}}).first;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (state().events.erase(event) == 0) return answer(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
  const cudaError_t status = known_event(event);
  if (status != cudaSuccess) return status;
  event->recorded = true;
  event->time = Clock::now();
  return finished(stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const cudaError_t status = known_event(event);
  return status != cudaSuccess ? status : finished(nullptr);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (milliseconds == nullptr) return answer(cudaErrorInvalidValue);
  for (cudaEvent_t event : {start, end}) {
    if (known_event(event) != cudaSuccess || !event->recorded || !event->timed) {
      return answer(cudaErrorInvalidResourceHandle);
    }
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (attributes == nullptr) return answer(cudaErrorInvalidValue);
  if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
  // As if compiled for this very device.
  *attributes = {.sharedSizeBytes = 0,  // static shared memory is the block's own here
                 .ptxVersion = 10 * state().device.major + state().device.minor,
                 .maxDynamicSharedSizeBytes = static_cast<int>(shared_limit(kernel))};
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > state().device.shared_bytes_per_block) {
    return answer(cudaErrorInvalidValue);
  }
  state().dynamic_shared_limits[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads,
                                                          std::size_t shared_bytes) {
  if (blocks == nullptr || threads < 1) return answer(cudaErrorInvalidValue);
  if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
  const bool runs = std::cmp_less_equal(threads, kMostThreads) && shared_bytes <= shared_limit(kernel);
  *blocks =
      runs ? static_cast<int>(blocks_per_multiprocessor(static_cast<std::size_t>(threads), shared_bytes)) : 0;
  return cudaSuccess;
}
