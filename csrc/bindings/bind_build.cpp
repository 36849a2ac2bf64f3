#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/build_info.h"
#include "kernels/device/device.h"

namespace py = pybind11;

namespace molmoact2::bindings {

void bind_build(py::module_& module) {
  module.def("build_config", [] {
    py::dict config;
    config["version"] = MOLMOACT2_VERSION;
    config["build_type"] = MOLMOACT2_BUILD_TYPE;
    config["cxx_compiler"] = MOLMOACT2_CXX_COMPILER;
    config["cuda"] = kernels::built_with_cuda();
    config["cuda_compiler"] = MOLMOACT2_CUDA_COMPILER;
    config["cuda_architectures"] = MOLMOACT2_CUDA_ARCHITECTURES;
    return config;
  });
  module.def("cuda_devices", [] {
    py::list devices;
    for (const kernels::CudaDevice& device : kernels::cuda_devices()) {
      py::dict entry;
      entry["ordinal"] = device.ordinal;
      entry["name"] = device.name;
      entry["compute_capability"] = py::make_tuple(device.compute_major, device.compute_minor);
      entry["memory_bytes"] = device.memory_bytes;
      entry["multiprocessors"] = device.multiprocessors;
      devices.append(entry);
    }
    return devices;
  });
}

}  // namespace molmoact2::bindings
