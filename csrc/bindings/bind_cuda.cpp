#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "bindings/device_tensor.h"
#include "kernels/decoder_ops/decoder_ops.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::DecoderOpsStatus;
using kernels::QkNorm;
using kernels::RowsShape;

void require_ok(DecoderOpsStatus status) {
  if (status == DecoderOpsStatus::ok) return;
  if (status == DecoderOpsStatus::cuda_failed) throw std::runtime_error(kernels::describe(status));
  throw std::invalid_argument(kernels::describe(status));
}

// A contiguous (rows, width) matrix of bf16.
RowsShape matrix_shape(const DeviceTensor& tensor) {
  tensor.require(ElementType::bf16, {kAnySize, kAnySize}).require_contiguous();
  return {int_size(tensor, 0), int_size(tensor, 1)};
}

const DeviceTensor& require_bf16(const DeviceTensor& tensor, std::initializer_list<std::int64_t> shape) {
  return tensor.require(ElementType::bf16, shape).require_contiguous();
}

void rms_norm(py::handle x_tensor, py::handle weight_tensor, py::handle out_tensor, float eps,
              std::uintptr_t stream) {
  const DeviceTensor x(x_tensor, "x");
  const DeviceTensor weight(weight_tensor, "weight");
  const DeviceTensor out(out_tensor, "out");
  const RowsShape shape = matrix_shape(x);
  require_bf16(weight, {shape.width});
  require_bf16(out, {shape.rows, shape.width});
  const CurrentDevice current({&x, &weight, &out});
  require_ok(kernels::rms_norm_cuda(shape, x.data(), weight.data(), eps, out.data(), stream_of(stream)));
}

void add_rms_norm(py::handle x_tensor, py::handle residual_tensor, py::handle weight_tensor,
                  py::handle out_tensor, float eps, std::uintptr_t stream) {
  const DeviceTensor x(x_tensor, "x");
  const DeviceTensor residual(residual_tensor, "residual");
  const DeviceTensor weight(weight_tensor, "weight");
  const DeviceTensor out(out_tensor, "out");
  const RowsShape shape = matrix_shape(x);
  require_bf16(residual, {shape.rows, shape.width});
  require_bf16(weight, {shape.width});
  require_bf16(out, {shape.rows, shape.width});
  const CurrentDevice current({&x, &residual, &weight, &out});
  require_ok(kernels::add_rms_norm_cuda(shape, x.data(), residual.data(), weight.data(), eps, out.data(),
                                        stream_of(stream)));
}

void layer_norm(py::handle x_tensor, py::handle weight_tensor, py::handle bias_tensor, py::handle out_tensor,
                float eps, std::uintptr_t stream) {
  const DeviceTensor x(x_tensor, "x");
  const DeviceTensor weight(weight_tensor, "weight");
  const DeviceTensor bias(bias_tensor, "bias");
  const DeviceTensor out(out_tensor, "out");
  const RowsShape shape = matrix_shape(x);
  require_bf16(weight, {shape.width});
  require_bf16(bias, {shape.width});
  require_bf16(out, {shape.rows, shape.width});
  const CurrentDevice current({&x, &weight, &bias, &out});
  require_ok(kernels::layer_norm_cuda(shape, x.data(), weight.data(), bias.data(), eps, out.data(),
                                      stream_of(stream)));
}

QkNorm qk_norm_named(const std::string& name) {
  if (name == "none") return QkNorm::none;
  if (name == "per_head") return QkNorm::per_head;
  if (name == "whole") return QkNorm::whole;
  throw std::invalid_argument("norm must be none, per_head or whole, got " + name);
}

// The norm's weights, where there are any, of `heads` heads.
std::optional<DeviceTensor> norm_weight(const py::object& tensor, const char* name, QkNorm norm,
                                        std::int64_t heads, std::int64_t head_dim) {
  if (norm == QkNorm::none) return std::nullopt;
  DeviceTensor weight(tensor, name);
  require_bf16(weight, {norm == QkNorm::whole ? heads * head_dim : head_dim});
  return weight;
}

void qk_norm_rope_cache(py::handle qkv_tensor, py::handle q_tensor, py::handle keys_tensor,
                        py::handle values_tensor, py::handle cosines_tensor, py::handle sines_tensor,
                        py::handle position_tensor, const std::string& norm_name,
                        const py::object& q_weight_tensor, const py::object& k_weight_tensor, float eps,
                        std::uintptr_t stream) {
  const QkNorm norm = qk_norm_named(norm_name);
  const DeviceTensor qkv(qkv_tensor, "qkv");
  const DeviceTensor q(q_tensor, "q");
  const DeviceTensor keys(keys_tensor, "keys");
  const DeviceTensor values(values_tensor, "values");
  const DeviceTensor cosines(cosines_tensor, "cosines");
  const DeviceTensor sines(sines_tensor, "sines");
  const DeviceTensor position(position_tensor, "position");
  require_bf16(q, {kAnySize, kAnySize, kAnySize});
  require_bf16(keys, {kAnySize, kAnySize, q.size(2)});
  require_bf16(values, {keys.size(0), keys.size(1), keys.size(2)});
  cosines.require(ElementType::float32, {kAnySize, q.size(2)}).require_contiguous();
  sines.require(ElementType::float32, {cosines.size(0), q.size(2)}).require_contiguous();
  position.require(ElementType::int32, {1});
  const kernels::QkvShape shape{int_size(q, 0), int_size(q, 1),    int_size(keys, 1),
                                int_size(q, 2), int_size(keys, 0), int_size(cosines, 0)};
  require_bf16(qkv, {q.size(0), (q.size(1) + 2 * keys.size(1)) * q.size(2)});
  const auto q_weight = norm_weight(q_weight_tensor, "q_weight", norm, q.size(1), q.size(2));
  const auto k_weight = norm_weight(k_weight_tensor, "k_weight", norm, keys.size(1), q.size(2));
  const CurrentDevice current({&qkv, &q, &keys, &values, &cosines, &sines, &position,
                               q_weight ? &*q_weight : nullptr, k_weight ? &*k_weight : nullptr});
  require_ok(kernels::qk_norm_rope_cache_cuda(
      shape, norm, q_weight ? q_weight->data() : nullptr, k_weight ? k_weight->data() : nullptr, eps,
      qkv.data(), cosines.as<float>(), sines.as<float>(), position.as<std::int32_t>(), q.data(), keys.data(),
      values.data(), stream_of(stream)));
}

void silu_gated(py::handle up_gate_tensor, py::handle out_tensor, std::uintptr_t stream) {
  const DeviceTensor up_gate(up_gate_tensor, "up_gate");
  const DeviceTensor out(out_tensor, "out");
  const RowsShape shape = matrix_shape(out);
  require_bf16(up_gate, {shape.rows, 2 * std::int64_t{shape.width}});
  const CurrentDevice current({&up_gate, &out});
  require_ok(kernels::silu_gated_cuda(shape, up_gate.data(), out.data(), stream_of(stream)));
}

void argmax_range(py::handle logits_tensor, py::handle ids_tensor, int first, int last,
                  std::uintptr_t stream) {
  const DeviceTensor logits(logits_tensor, "logits");
  const DeviceTensor ids(ids_tensor, "ids");
  const RowsShape shape = matrix_shape(logits);
  ids.require(ElementType::int64, {shape.rows}).require_contiguous();
  const CurrentDevice current({&logits, &ids});
  require_ok(kernels::argmax_range_cuda(shape, logits.data(), first, last, ids.as<std::int64_t>(),
                                        stream_of(stream)));
}

}  // namespace

void bind_cuda(py::module_& module) {
  py::module_ cuda = module.def_submodule(
      "cuda", "Operations on CUDA tensors of any library, queued on a stream; nothing is allocated.");
  cuda.def("rms_norm", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("out"), py::kw_only(),
           py::arg("eps"), py::arg("stream"));
  cuda.def("add_rms_norm", &add_rms_norm, py::arg("x"), py::arg("residual"), py::arg("weight"),
           py::arg("out"), py::kw_only(), py::arg("eps"), py::arg("stream"));
  cuda.def("layer_norm", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("out"),
           py::kw_only(), py::arg("eps"), py::arg("stream"));
  cuda.def("qk_norm_rope_cache", &qk_norm_rope_cache, py::arg("qkv"), py::arg("q"), py::arg("keys"),
           py::arg("values"), py::kw_only(), py::arg("cosines"), py::arg("sines"), py::arg("position"),
           py::arg("norm"), py::arg("q_weight"), py::arg("k_weight"), py::arg("eps"), py::arg("stream"));
  cuda.def("silu_gated", &silu_gated, py::arg("up_gate"), py::arg("out"), py::kw_only(), py::arg("stream"));
  cuda.def("argmax_range", &argmax_range, py::arg("logits"), py::arg("ids"), py::kw_only(), py::arg("first"),
           py::arg("last"), py::arg("stream"));
}

}  // namespace molmoact2::bindings
