#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/decoder_ops/decoder_ops.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::DecoderOpsStatus;
using kernels::QkNorm;
using kernels::RowsShape;

// Exactly float32, read in place; what does not fit is refused, never converted.
using DenseFloats = py::array_t<float, py::array::c_style>;

std::string text(const std::vector<py::ssize_t>& shape) {
  std::string result = "(";
  for (const py::ssize_t size : shape) result += std::to_string(size) + ", ";
  return result + ")";
}

void require_shape(const DenseFloats& array, const std::vector<py::ssize_t>& expected, const char* what) {
  const std::vector<py::ssize_t> found(array.shape(), array.shape() + array.ndim());
  if (found != expected) {
    throw std::invalid_argument(std::string(what) + " must have shape " + text(expected) + ", got " +
                                text(found));
  }
}

// Too large a size becomes one that the kernels refuse.
int checked_int(py::ssize_t size) {
  return std::cmp_greater(size, std::numeric_limits<int>::max()) ? std::numeric_limits<int>::max()
                                                                 : static_cast<int>(size);
}

RowsShape matrix_shape(const DenseFloats& array, const char* what) {
  if (array.ndim() != 2) {
    throw std::invalid_argument(std::string(what) + " must have 2 dimensions, got " +
                                std::to_string(array.ndim()));
  }
  return {checked_int(array.shape(0)), checked_int(array.shape(1))};
}

void require_ok(DecoderOpsStatus status) {
  if (status != DecoderOpsStatus::ok) throw std::invalid_argument(kernels::describe(status));
}

DenseFloats rms_norm(const DenseFloats& x, const DenseFloats& weight, float eps) {
  const RowsShape shape = matrix_shape(x, "x");
  require_shape(weight, {x.shape(1)}, "weight");
  DenseFloats out({x.shape(0), x.shape(1)});
  require_ok(kernels::rms_norm(shape, x.data(), weight.data(), eps, out.mutable_data()));
  return out;
}

DenseFloats add_rms_norm(const DenseFloats& x, DenseFloats& residual, const DenseFloats& weight, float eps) {
  const RowsShape shape = matrix_shape(x, "x");
  require_shape(residual, {x.shape(0), x.shape(1)}, "residual");
  require_shape(weight, {x.shape(1)}, "weight");
  DenseFloats out({x.shape(0), x.shape(1)});
  require_ok(kernels::add_rms_norm(shape, x.data(), residual.mutable_data(), weight.data(), eps,
                                   out.mutable_data()));
  return out;
}

DenseFloats layer_norm(const DenseFloats& x, const DenseFloats& weight, const DenseFloats& bias, float eps) {
  const RowsShape shape = matrix_shape(x, "x");
  require_shape(weight, {x.shape(1)}, "weight");
  require_shape(bias, {x.shape(1)}, "bias");
  DenseFloats out({x.shape(0), x.shape(1)});
  require_ok(kernels::layer_norm(shape, x.data(), weight.data(), bias.data(), eps, out.mutable_data()));
  return out;
}

QkNorm qk_norm_named(const std::string& name) {
  if (name == "none") return QkNorm::none;
  if (name == "per_head") return QkNorm::per_head;
  if (name == "whole") return QkNorm::whole;
  throw std::invalid_argument("norm must be none, per_head or whole, got " + name);
}

const float* norm_weight(const std::optional<DenseFloats>& weight, QkNorm norm, py::ssize_t heads,
                         py::ssize_t head_dim, const char* what) {
  if (norm == QkNorm::none || !weight) return nullptr;
  require_shape(*weight, {norm == QkNorm::whole ? heads * head_dim : head_dim}, what);
  return weight->data();
}

DenseFloats qk_norm_rope_cache(const DenseFloats& qkv, DenseFloats& keys, DenseFloats& values,
                               const DenseFloats& cosines, const DenseFloats& sines, std::int32_t position,
                               const std::string& norm_name, const std::optional<DenseFloats>& q_weight,
                               const std::optional<DenseFloats>& k_weight, float eps) {
  const QkNorm norm = qk_norm_named(norm_name);
  if (keys.ndim() != 3 || keys.shape(2) < 1) {
    throw std::invalid_argument("keys must have shape (capacity, kv_heads, head_dim)");
  }
  const py::ssize_t kv_heads = keys.shape(1);
  const py::ssize_t head_dim = keys.shape(2);
  const RowsShape rows = matrix_shape(qkv, "qkv");
  const py::ssize_t heads = qkv.shape(1) / head_dim - 2 * kv_heads;
  require_shape(qkv, {qkv.shape(0), (std::max(heads, py::ssize_t{1}) + 2 * kv_heads) * head_dim}, "qkv");
  require_shape(values, {keys.shape(0), kv_heads, head_dim}, "values");
  matrix_shape(cosines, "cosines");
  require_shape(cosines, {cosines.shape(0), head_dim}, "cosines");
  require_shape(sines, {cosines.shape(0), head_dim}, "sines");
  const float* const q_factors = norm_weight(q_weight, norm, heads, head_dim, "q_weight");
  const float* const k_factors = norm_weight(k_weight, norm, kv_heads, head_dim, "k_weight");
  DenseFloats q({qkv.shape(0), heads, head_dim});
  const kernels::QkvShape shape{rows.rows,
                                checked_int(heads),
                                checked_int(kv_heads),
                                checked_int(head_dim),
                                checked_int(keys.shape(0)),
                                checked_int(cosines.shape(0))};
  require_ok(kernels::qk_norm_rope_cache(shape, norm, q_factors, k_factors, eps, qkv.data(), cosines.data(),
                                         sines.data(), position, q.mutable_data(), keys.mutable_data(),
                                         values.mutable_data()));
  return q;
}

DenseFloats silu_gated(const DenseFloats& up_gate) {
  const RowsShape both = matrix_shape(up_gate, "up_gate");
  if (both.width % 2 != 0) {
    throw std::invalid_argument("up_gate must have an even number of columns, got " +
                                std::to_string(both.width));
  }
  DenseFloats out({up_gate.shape(0), up_gate.shape(1) / 2});
  require_ok(kernels::silu_gated({both.rows, both.width / 2}, up_gate.data(), out.mutable_data()));
  return out;
}

py::array_t<std::int64_t> argmax_range(const DenseFloats& logits, int first, int last) {
  const RowsShape shape = matrix_shape(logits, "logits");
  py::array_t<std::int64_t> ids(logits.shape(0));
  require_ok(kernels::argmax_range(shape, logits.data(), first, last, ids.mutable_data()));
  return ids;
}

}  // namespace

void bind_decoder_ops(py::module_& parent) {
  parent.def("rms_norm", &rms_norm, py::arg("x").noconvert(), py::arg("weight").noconvert(), py::kw_only(),
             py::arg("eps"));
  parent.def("add_rms_norm", &add_rms_norm, py::arg("x").noconvert(), py::arg("residual").noconvert(),
             py::arg("weight").noconvert(), py::kw_only(), py::arg("eps"));
  parent.def("layer_norm", &layer_norm, py::arg("x").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::kw_only(), py::arg("eps"));
  parent.def("qk_norm_rope_cache", &qk_norm_rope_cache, py::arg("qkv").noconvert(),
             py::arg("keys").noconvert(), py::arg("values").noconvert(), py::kw_only(),
             py::arg("cosines").noconvert(), py::arg("sines").noconvert(), py::arg("position"),
             py::arg("norm"), py::arg("q_weight").noconvert(), py::arg("k_weight").noconvert(),
             py::arg("eps"));
  parent.def("silu_gated", &silu_gated, py::arg("up_gate").noconvert());
  parent.def("argmax_range", &argmax_range, py::arg("logits").noconvert(), py::kw_only(), py::arg("first"),
             py::arg("last"));
}

}  // namespace molmoact2::bindings
