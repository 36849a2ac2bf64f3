// The rooms behind the one extension module; each bind_<room>.cpp checks what Python hands over.
#pragma once

#include <pybind11/pybind11.h>

namespace molmoact2::bindings {

void bind_build(pybind11::module_& module);
void bind_control(pybind11::module_& parent);
// Add to the submodule that bind_kernels() makes.
void bind_context(pybind11::module_& parent);
void bind_decoder_ops(pybind11::module_& parent);
void bind_flow(pybind11::module_& parent);
void bind_kernels(pybind11::module_& module);
// After bind_control(): its port is one of those.
void bind_damiao(pybind11::module_& parent);
// After bind_control(): its port is one of those.
void bind_dynamixel(pybind11::module_& module);
// After bind_control(): its port is one of those.
void bind_feetech(pybind11::module_& module);
// Only in a build with CUDA; what adds to its submodule is called by itself.
void bind_cuda(pybind11::module_& module);
// Add to the submodule that bind_cuda() makes.
void bind_cuda_context(pybind11::module_& cuda);
void bind_cuda_depth_diff(pybind11::module_& cuda);
void bind_cuda_flow(pybind11::module_& cuda);
void bind_cuda_vision_input(pybind11::module_& cuda);
// Add to the submodule that bind_control() makes.
void bind_control_loop(pybind11::module_& control);
void bind_loopback(pybind11::module_& control);

}  // namespace molmoact2::bindings
