#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled part of molmoact2_edge; use the Python modules that wrap it.";
  molmoact2::bindings::bind_build(module);
  molmoact2::bindings::bind_control(module);
  pybind11::module_ control = module.attr("control");
  molmoact2::bindings::bind_loopback(control);
  molmoact2::bindings::bind_damiao(module);
  molmoact2::bindings::bind_dynamixel(module);
  molmoact2::bindings::bind_feetech(module);
  molmoact2::bindings::bind_kernels(module);
  pybind11::module_ kernels = module.attr("kernels");
  molmoact2::bindings::bind_context(kernels);
  molmoact2::bindings::bind_decoder_ops(kernels);
  molmoact2::bindings::bind_flow(kernels);
#ifdef MOLMOACT2_HAVE_CUDA
  molmoact2::bindings::bind_cuda(module);
  pybind11::module_ cuda = module.attr("cuda");
  molmoact2::bindings::bind_cuda_context(cuda);
  molmoact2::bindings::bind_cuda_depth_diff(cuda);
  molmoact2::bindings::bind_cuda_flow(cuda);
  molmoact2::bindings::bind_cuda_vision_input(cuda);
#endif
}
