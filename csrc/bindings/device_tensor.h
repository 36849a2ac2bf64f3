// Device memory that Python owns, taken through DLPack: torch, CuPy, JAX and others hand over a pointer and
// say what it points to, and this side needs no header of theirs.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace molmoact2::bindings {

enum class ElementType : std::uint8_t { bf16, float32, float64, int32, int64, uint8, boolean };

// Stands for any size in an expected shape.
inline constexpr std::int64_t kAnySize = -1;

struct DlManagedTensor;

// A tensor on a CUDA device, held as long as this object lives. Nothing is copied or converted.
class DeviceTensor {
 public:
  // `name` is what error messages call it. Throws TypeError for what speaks no DLPack or is elsewhere.
  DeviceTensor(pybind11::handle object, std::string name);

  // Throws ValueError, naming what was expected and what came. `shape` may hold kAnySize.
  const DeviceTensor& require(ElementType type, std::initializer_list<std::int64_t> shape) const;
  const DeviceTensor& require_contiguous() const;

  // First element.
  void* data() const;
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }
  int rank() const;
  std::int64_t size(int axis) const;
  std::int64_t stride(int axis) const;  // in elements
  int device() const { return device_; }
  const std::string& name() const { return name_; }

 private:
  struct Release {
    void operator()(DlManagedTensor* tensor) const;
  };

  std::string describe() const;
  [[noreturn]] void refuse(const std::string& expected) const;

  std::string name_;
  int device_ = 0;
  std::unique_ptr<DlManagedTensor, Release> tensor_;
};

// A size as the kernels take it; throws ValueError beyond 2^31 - 1.
int int_size(const DeviceTensor& tensor, int axis);

// Makes a device the current one while it lives.
class CurrentDevice {
 public:
  // Throws ValueError where there is no such device.
  explicit CurrentDevice(int ordinal);
  // The tensors' device, null ones are skipped. Throws ValueError where they are on several.
  explicit CurrentDevice(std::initializer_list<const DeviceTensor*> tensors);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

// A stream as Python holds it (torch.cuda.Stream.cuda_stream); 0 is the default stream.
inline CUstream_st* stream_of(std::uintptr_t handle) {
  return reinterpret_cast<CUstream_st*>(handle);  // NOLINT(performance-no-int-to-ptr): that is what it is
}

}  // namespace molmoact2::bindings
