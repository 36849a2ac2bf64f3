#include "bindings/device_tensor.h"

#include <cuda_runtime_api.h>

#include <limits>
#include <stdexcept>
#include <utility>

namespace py = pybind11;

namespace molmoact2::bindings {

// The layout that DLPack fixes for all (dmlc/dlpack, include/dlpack/dlpack.h, the capsule called "dltensor").
namespace {

constexpr std::int32_t kDlCuda = 2;
constexpr const char* kFreshCapsule = "dltensor";
constexpr const char* kUsedCapsule = "used_dltensor";

struct DlDevice {
  std::int32_t type;
  std::int32_t ordinal;
};

struct DlType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t rank;
  DlType type;
  std::int64_t* shape;
  std::int64_t* strides;  // null: contiguous
  std::uint64_t byte_offset;
};

enum DlCode : std::uint8_t { dl_signed = 0, dl_unsigned = 1, dl_float = 2, dl_bfloat = 4, dl_bool = 6 };

struct KnownType {
  ElementType type;
  DlCode code;
  std::uint8_t bits;
  const char* name;
};

constexpr KnownType kKnownTypes[] = {
    {ElementType::bf16, dl_bfloat, 16, "bfloat16"},  {ElementType::float32, dl_float, 32, "float32"},
    {ElementType::float64, dl_float, 64, "float64"}, {ElementType::int32, dl_signed, 32, "int32"},
    {ElementType::int64, dl_signed, 64, "int64"},    {ElementType::uint8, dl_unsigned, 8, "uint8"},
    {ElementType::boolean, dl_bool, 8, "bool"},
};

const KnownType& known(ElementType type) {
  for (const KnownType& entry : kKnownTypes) {
    if (entry.type == type) return entry;
  }
  throw std::logic_error("an element type without an entry");
}

bool is_type(const DlType& type, const KnownType& entry) {
  return type.code == entry.code && type.bits == entry.bits && type.lanes == 1;
}

std::string text_of(const DlType& type) {
  for (const KnownType& entry : kKnownTypes) {
    if (is_type(type, entry)) return entry.name;
  }
  return "elements of " + std::to_string(type.bits) + " bits and DLPack type " + std::to_string(type.code);
}

std::string text_of(const std::int64_t* shape, std::size_t rank) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (axis > 0) text += ", ";
    text += shape[axis] == kAnySize ? "any" : std::to_string(shape[axis]);
  }
  if (rank == 1) text += ',';
  return text + ')';
}

}  // namespace

struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*release)(DlManagedTensor* self);
};

void DeviceTensor::Release::operator()(DlManagedTensor* tensor) const {
  if (tensor->release != nullptr) tensor->release(tensor);
}

DeviceTensor::DeviceTensor(py::handle object, std::string name) : name_(std::move(name)) {
  if (!py::hasattr(object, "__dlpack__") || !py::hasattr(object, "__dlpack_device__")) {
    throw py::type_error(name_ + " must be a tensor that speaks DLPack, got " +
                         py::str(py::type::handle_of(object).attr("__name__")).cast<std::string>());
  }
  // Asked first: what lives elsewhere may not know of streams.
  const auto [type, ordinal] = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  if (type != kDlCuda) {
    throw py::type_error(name_ + " must be on a CUDA device (DLPack device type 2), got device type " +
                         std::to_string(type) + "; move it with .cuda()");
  }
  device_ = ordinal;
  // -1: no synchronization; the caller says on which stream the work goes.
  const py::object capsule = object.attr("__dlpack__")(py::arg("stream") = -1);
  void* const tensor = PyCapsule_GetPointer(capsule.ptr(), kFreshCapsule);
  if (tensor == nullptr) throw py::error_already_set();
  tensor_.reset(static_cast<DlManagedTensor*>(tensor));
  if (PyCapsule_SetName(capsule.ptr(), kUsedCapsule) != 0) throw py::error_already_set();
}

void* DeviceTensor::data() const {
  return static_cast<std::byte*>(tensor_->tensor.data) + tensor_->tensor.byte_offset;
}

int DeviceTensor::rank() const { return tensor_->tensor.rank; }

std::int64_t DeviceTensor::size(int axis) const { return tensor_->tensor.shape[axis]; }

std::int64_t DeviceTensor::stride(int axis) const {
  if (tensor_->tensor.strides != nullptr) return tensor_->tensor.strides[axis];
  std::int64_t stride = 1;
  for (int inner = rank() - 1; inner > axis; --inner) stride *= size(inner);
  return stride;
}

std::string DeviceTensor::describe() const {
  return text_of(tensor_->tensor.type) + " of shape " +
         text_of(tensor_->tensor.shape, static_cast<std::size_t>(rank()));
}

void DeviceTensor::refuse(const std::string& expected) const {
  throw std::invalid_argument(name_ + " must be " + expected + ", got " + describe());
}

const DeviceTensor& DeviceTensor::require(ElementType type, std::initializer_list<std::int64_t> shape) const {
  const KnownType& wanted = known(type);
  bool fits = is_type(tensor_->tensor.type, wanted) && std::cmp_equal(rank(), shape.size());
  int axis = 0;
  for (const std::int64_t expected : shape) {
    fits = fits && (expected == kAnySize || size(axis) == expected);
    ++axis;
  }
  if (!fits) refuse(std::string(wanted.name) + " of shape " + text_of(shape.begin(), shape.size()));
  return *this;
}

const DeviceTensor& DeviceTensor::require_contiguous() const {
  std::int64_t expected = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    // The stride of an axis with one entry means nothing, and an empty tensor has no second entry anywhere.
    if (size(axis) == 0) return *this;
    if (size(axis) > 1 && stride(axis) != expected) refuse("contiguous (call .contiguous())");
    expected *= size(axis);
  }
  return *this;
}

int int_size(const DeviceTensor& tensor, int axis) {
  if (tensor.size(axis) > std::numeric_limits<int>::max()) {
    throw std::invalid_argument(tensor.name() + " has " + std::to_string(tensor.size(axis)) +
                                " entries along one axis, more than 2^31 - 1");
  }
  return static_cast<int>(tensor.size(axis));
}

CurrentDevice::CurrentDevice(int ordinal) {
  if (cudaGetDevice(&before_) != cudaSuccess || cudaSetDevice(ordinal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw std::invalid_argument("there is no CUDA device " + std::to_string(ordinal));
  }
}

CurrentDevice::CurrentDevice(std::initializer_list<const DeviceTensor*> tensors) {
  const DeviceTensor* first = nullptr;
  for (const DeviceTensor* const tensor : tensors) {
    if (tensor == nullptr) continue;
    if (first == nullptr) first = tensor;
    if (tensor->device() != first->device()) {
      throw std::invalid_argument(first->name() + " is on CUDA device " + std::to_string(first->device()) +
                                  " and " + tensor->name() + " on " + std::to_string(tensor->device()) +
                                  "; move them to one device");
    }
  }
  cudaError_t status = cudaGetDevice(&before_);
  if (status == cudaSuccess && first != nullptr) status = cudaSetDevice(first->device());
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw std::runtime_error(std::string("the CUDA device cannot be used: ") + cudaGetErrorString(status));
  }
}

CurrentDevice::~CurrentDevice() { cudaSetDevice(before_); }

}  // namespace molmoact2::bindings
