#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/device_tensor.h"
#include "kernels/depth_diff/depth_diff.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::CudaDepthDiff;
using kernels::DepthDiffStatus;
using kernels::FrameSize;

// A comparison and the device that it lives on.
struct DepthDiff {
  std::unique_ptr<CudaDepthDiff> diff;
  int device = 0;
};

std::unique_ptr<DepthDiff> make_diff(std::array<int, 2> current, std::array<int, 2> previous, int side,
                                     int device) {
  CudaDepthDiff::check({current[0], current[1]}, {previous[0], previous[1]}, side);
  const CurrentDevice there(device);
  return std::make_unique<DepthDiff>(
      DepthDiff{std::make_unique<CudaDepthDiff>(FrameSize{current[0], current[1]},
                                                FrameSize{previous[0], previous[1]}, side),
                device});
}

const std::uint8_t* pixels_of(const DeviceTensor& frame, FrameSize size) {
  frame.require(ElementType::uint8, {size.height, size.width, kernels::kColorChannels}).require_contiguous();
  return frame.as<std::uint8_t>();
}

void update_mask(const DepthDiff& self, py::handle current_tensor, py::handle previous_tensor,
                 py::handle changed_tensor, std::uintptr_t stream) {
  const DeviceTensor current(current_tensor, "current");
  const DeviceTensor previous(previous_tensor, "previous");
  const DeviceTensor changed(changed_tensor, "changed");
  const std::uint8_t* const now = pixels_of(current, self.diff->current());
  const std::uint8_t* const before = pixels_of(previous, self.diff->previous());
  changed.require(ElementType::boolean, {std::int64_t{self.diff->side()} * self.diff->side()})
      .require_contiguous();
  if (current.device() != self.device) throw std::invalid_argument("the comparison is on another device");
  const CurrentDevice there({&current, &previous, &changed});
  if (self.diff->update_mask(now, before, changed.as<std::uint8_t>(), stream_of(stream)) !=
      DepthDiffStatus::ok) {
    throw std::runtime_error("the comparison of frames could not be launched on the CUDA device");
  }
}

}  // namespace

void bind_cuda_depth_diff(py::module_& cuda) {
  py::class_<DepthDiff>(cuda, "DepthDiff")
      .def(py::init(&make_diff), py::kw_only(), py::arg("current"), py::arg("previous"), py::arg("side"),
           py::arg("device") = 0)
      .def("update_mask", &update_mask, py::arg("current"), py::arg("previous"), py::arg("changed"),
           py::kw_only(), py::arg("stream"));
}

}  // namespace molmoact2::bindings
