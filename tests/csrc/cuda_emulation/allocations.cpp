#include "allocations.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "cuda_runtime_api.h"
#include "state.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace molmoact2::cuda_emulation {
namespace {

constexpr std::size_t kAlignment = 256;  // what cudaMalloc promises
constexpr std::size_t kRedZoneBytes = 256;
constexpr unsigned char kFresh = 0xFF;  // as bf16 and as float: NaN
constexpr std::byte kRedZone{0xA5};

// Start and size of what the caller may use; red zones lie on both sides.
using Allocations = std::map<std::byte*, std::size_t>;

Allocations& allocations() {
  static Allocations live;
  return live;
}

std::size_t used_bytes() {
  std::size_t sum = 0;
  for (const auto& [start, size] : allocations()) sum += size;
  return sum;
}

// From the end of the allocation to the end of the memory behind it.
std::size_t tail_bytes(std::size_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment - size + kRedZoneBytes;
}

void poison(std::byte* start, std::size_t size) {
  std::memset(start - kRedZoneBytes, static_cast<int>(kRedZone), kRedZoneBytes);
  std::memset(start + size, static_cast<int>(kRedZone), tail_bytes(size));
  ASAN_POISON_MEMORY_REGION(start - kRedZoneBytes, kRedZoneBytes);
  ASAN_POISON_MEMORY_REGION(start + size, tail_bytes(size));
}

void unpoison(std::byte* start, std::size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(start - kRedZoneBytes, kRedZoneBytes + size + tail_bytes(size));
}

bool damaged(const std::byte* zone, std::size_t size) {
  return std::any_of(zone, zone + size, [](std::byte value) { return value != kRedZone; });
}

bool allocated(const void* memory, std::size_t bytes, bool& starts_inside) {
  auto* const at = static_cast<std::byte*>(const_cast<void*>(memory));
  auto next = allocations().upper_bound(at);
  starts_inside = false;
  if (next == allocations().begin()) return false;
  const auto& [start, size] = *--next;
  starts_inside = at < start + size;
  return starts_inside && bytes <= static_cast<std::size_t>(start + size - at);
}

bool touches_device(const void* memory) {
  bool inside = false;
  allocated(memory, 0, inside);
  return inside;
}

// Each side must lie in one allocation, or outside all, as `kind` says.
cudaError_t check_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (to == nullptr || from == nullptr) return cudaErrorInvalidValue;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  const auto fits = [&](const void* memory, bool device) {
    return device ? is_device_memory(memory, bytes) : !touches_device(memory);
  };
  const bool any = kind == cudaMemcpyDefault;
  const bool to_device =
      any ? touches_device(to) : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device =
      any ? touches_device(from) : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return fits(to, to_device) && fits(from, from_device) ? cudaSuccess : cudaErrorInvalidValue;
}

bool known(cudaStream_t stream) { return stream == nullptr || state().streams.contains(stream); }

}  // namespace

bool is_device_memory(const void* memory, std::size_t bytes) {
  bool inside = false;
  return allocated(memory, bytes, inside);
}

std::string damaged_allocation() {
  if (finds_every_stray_access()) return "";  // the sanitizer told
  for (const auto& [start, size] : allocations()) {
    const bool before = damaged(start - kRedZoneBytes, kRedZoneBytes);
    const bool after = damaged(start + size, tail_bytes(size));
    if (!before && !after) continue;
    poison(start, size);
    return std::string("a kernel wrote ") + (before ? "before the start" : "past the end") +
           " of an allocation of " + std::to_string(size) + " bytes";
  }
  return "";
}

}  // namespace molmoact2::cuda_emulation

using namespace molmoact2::cuda_emulation;

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  if (pointer == nullptr) return answer(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (!state().failure.empty()) return answer(cudaErrorLaunchFailure);
  if (bytes == 0) return cudaSuccess;
  if (bytes > state().device.memory_bytes || used_bytes() > state().device.memory_bytes - bytes) {
    return answer(cudaErrorMemoryAllocation);
  }
  void* const memory = std::aligned_alloc(kAlignment, kRedZoneBytes + bytes + tail_bytes(bytes));
  if (memory == nullptr) return answer(cudaErrorMemoryAllocation);
  std::byte* const start = static_cast<std::byte*>(memory) + kRedZoneBytes;
  std::memset(start, kFresh, bytes);
  poison(start, bytes);
  allocations().emplace(start, bytes);
  *pointer = start;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const auto found = allocations().find(static_cast<std::byte*>(pointer));
  if (found == allocations().end()) return answer(cudaErrorInvalidValue);
  if (const std::string damage = damaged_allocation(); !damage.empty()) record_failure(damage);
  const auto [start, size] = *found;
  allocations().erase(found);
  unpoison(start, size);
  std::free(start - kRedZoneBytes);
  return state().failure.empty() ? cudaSuccess : answer(cudaErrorLaunchFailure);
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  if (pointer == nullptr) return answer(cudaErrorInvalidValue);
  *pointer = bytes == 0 ? nullptr : std::malloc(bytes);
  return bytes == 0 || *pointer != nullptr ? cudaSuccess : answer(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream) {
  return known(stream) ? cudaMalloc(pointer, bytes) : answer(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return known(stream) ? cudaFree(pointer) : answer(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  if (free == nullptr || total == nullptr) return answer(cudaErrorInvalidValue);
  *total = state().device.memory_bytes;
  *free = *total - std::min(*total, used_bytes());
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  if (attributes == nullptr) return answer(cudaErrorInvalidValue);
  void* const memory = const_cast<void*>(pointer);
  const bool device = touches_device(pointer);
  *attributes = {device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, device ? 0 : -2,
                 device ? memory : nullptr, device ? nullptr : memory};
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t row_bytes, std::size_t rows, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (!state().failure.empty()) return answer(cudaErrorLaunchFailure);
  if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
  if (row_bytes > to_pitch || row_bytes > from_pitch) return answer(cudaErrorInvalidValue);
  if (row_bytes == 0) return cudaSuccess;
  for (std::size_t row = 0; row < rows; ++row) {
    std::byte* const target = static_cast<std::byte*>(to) + row * to_pitch;
    const std::byte* const source = static_cast<const std::byte*>(from) + row * from_pitch;
    const cudaError_t usable = check_copy(target, source, row_bytes, kind);
    if (usable != cudaSuccess) return answer(usable);
    std::memmove(target, source, row_bytes);
  }
  return cudaSuccess;
}

cudaError_t cudaMemset(void* pointer, int value, std::size_t bytes) {
  return cudaMemsetAsync(pointer, value, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
  if (!state().failure.empty()) return answer(cudaErrorLaunchFailure);
  if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  if (!is_device_memory(pointer, bytes)) return answer(cudaErrorInvalidValue);
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}
