#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "bindings/device_tensor.h"
#include "kernels/vision_input/vision_input.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::VisionInputStatus;

void require_ok(VisionInputStatus status) {
  switch (status) {
    case VisionInputStatus::ok:
      return;
    case VisionInputStatus::bad_frame:
      throw std::invalid_argument("image must have 1 to " + std::to_string(kernels::kMaxImageSide) +
                                  " pixels a side");
    case VisionInputStatus::bad_size:
      throw std::invalid_argument("size must be 1 to " + std::to_string(kernels::kMaxImageSide) +
                                  " pixels a side");
    case VisionInputStatus::bad_window:
      throw std::invalid_argument("origin, grid and patch must lie inside of the resized frame");
    case VisionInputStatus::cuda_failed:
      break;
  }
  throw std::runtime_error("the resize could not be launched on the CUDA device");
}

void resize_to_patches(py::handle image_tensor, py::handle patches_tensor, std::array<int, 2> size,
                       std::array<int, 2> origin, std::array<int, 2> grid, int patch, std::uintptr_t stream) {
  if (grid[0] < 1 || grid[1] < 1 || patch < 1 || patch > kernels::kMaxPatchSide) {
    throw std::invalid_argument("grid must be at least (1, 1) and patch 1 to " +
                                std::to_string(kernels::kMaxPatchSide));
  }
  const DeviceTensor image(image_tensor, "image");
  const DeviceTensor patches(patches_tensor, "patches");
  image.require(ElementType::uint8, {kAnySize, kAnySize, kernels::kImageChannels}).require_contiguous();
  patches
      .require(ElementType::float32,
               {std::int64_t{grid[0]} * grid[1], std::int64_t{kernels::kImageChannels} * patch * patch})
      .require_contiguous();
  const int width = int_size(image, 1);
  const kernels::ImageView view = {image.as<std::uint8_t>(), int_size(image, 0), width,
                                   std::ptrdiff_t{width} * kernels::kImageChannels};
  const kernels::PatchWindow window = {origin[0], origin[1], grid[0], grid[1], patch};
  const CurrentDevice current({&image, &patches});
  require_ok(kernels::resize_to_patches_cuda(view, {size[0], size[1]}, window, patches.as<float>(),
                                             stream_of(stream)));
}

}  // namespace

void bind_cuda_vision_input(py::module_& cuda) {
  cuda.def("resize_to_patches", &resize_to_patches, py::arg("image"), py::arg("patches"), py::kw_only(),
           py::arg("size"), py::arg("origin"), py::arg("grid"), py::arg("patch"), py::arg("stream"));
}

}  // namespace molmoact2::bindings
