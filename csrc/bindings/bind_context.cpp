#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/context/context.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::CpuContextPlan;
using kernels::CpuIsa;

// Exactly this type, read in place; what does not fit is refused, never converted.
using DenseFloats = py::array_t<float, py::array::c_style>;
using StridedFloats = py::array_t<float, 0>;
using Flags = py::array_t<bool, py::array::c_style>;
using Gate = std::pair<DenseFloats, DenseFloats>;  // weight (gates, kv_width), bias (gates,)

std::string text(const std::vector<py::ssize_t>& shape) {
  std::string result = "(";
  for (const py::ssize_t size : shape) result += std::to_string(size) + ", ";
  return result + ")";
}

void require_shape(const py::array& array, const std::vector<py::ssize_t>& expected,
                   const std::string& what) {
  const std::vector<py::ssize_t> found(array.shape(), array.shape() + array.ndim());
  if (found != expected) {
    throw std::invalid_argument(what + " must have shape " + text(expected) + ", got " + text(found));
  }
}

CpuIsa isa_named(const std::string& wanted) {
  std::string known;
  for (const CpuIsa isa : kernels::available_isas()) {
    if (wanted == kernels::name(isa)) return isa;
    known += std::string(known.empty() ? "" : ", ") + kernels::name(isa);
  }
  throw std::invalid_argument("isa must be one of " + known + ", got " + wanted);
}

std::unique_ptr<CpuContextPlan> make_plan(int layers, int heads, const DenseFloats& key,
                                          const DenseFloats& value, const std::optional<Gate>& gate,
                                          bool layer_norm, bool qk_norm, float qk_norm_eps, int threads,
                                          const std::optional<std::string>& isa) {
  constexpr py::ssize_t kMax = kernels::kMaxContextWidth;
  if (key.ndim() != 2 || heads < 1 || key.shape(0) < 1 || key.shape(0) % heads != 0 || key.shape(0) > kMax ||
      key.shape(1) > kMax) {
    throw std::invalid_argument("key must be (E, kv_width) with E a multiple of heads, both at most " +
                                std::to_string(kMax));
  }
  require_shape(value, {key.shape(0), key.shape(1)}, "value");
  kernels::ContextShapes shapes{layers, heads, static_cast<int>(key.shape(0)) / heads,
                                static_cast<int>(key.shape(1)), 0};
  kernels::ContextWeights weights{key.data(), value.data(), nullptr, nullptr};
  if (gate) {
    if (gate->second.ndim() != 1 || (gate->second.shape(0) != 1 && gate->second.shape(0) != layers)) {
      throw std::invalid_argument("there must be one gate, or one per layer");
    }
    require_shape(gate->first, {gate->second.shape(0), key.shape(1)}, "gate weight");
    shapes.gates = static_cast<int>(gate->second.shape(0));
    weights.gate_weight = gate->first.data();
    weights.gate_bias = gate->second.data();
  }
  const CpuIsa chosen = isa ? isa_named(*isa) : kernels::fastest_isa();
  const py::gil_scoped_release release;
  return std::make_unique<CpuContextPlan>(shapes, kernels::ContextOptions{layer_norm, qk_norm, qk_norm_eps},
                                          weights, threads, chosen);
}

kernels::CacheView cache_view(const StridedFloats& array, const kernels::ContextShapes& shapes,
                              py::ssize_t tokens, const std::string& what) {
  require_shape(array, {shapes.layers, tokens, shapes.kv_width}, what);
  if (array.size() == 0) return {array.data(), 0, 0};
  constexpr auto kSize = static_cast<py::ssize_t>(sizeof(float));
  if (array.strides(0) % kSize != 0 || array.strides(1) % kSize != 0) {
    throw std::invalid_argument(what + " is not aligned to float32");
  }
  // The stride of an axis with one entry means nothing.
  if (shapes.kv_width > 1 && array.strides(2) != kSize) {
    throw std::invalid_argument("the last axis of " + what + " must be contiguous");
  }
  return {array.data(), array.strides(0) / kSize, array.strides(1) / kSize};
}

const std::uint8_t* bytes_of(const Flags& flags) {
  static_assert(sizeof(bool) == sizeof(std::uint8_t));
  return static_cast<const std::uint8_t*>(flags.py::array::data());
}

std::pair<DenseFloats, DenseFloats> run(CpuContextPlan& plan, const StridedFloats& keys,
                                        const StridedFloats& values, const Flags& valid,
                                        const std::optional<Flags>& depth) {
  const kernels::ContextShapes& shapes = plan.shapes();
  if (valid.ndim() != 1 || std::cmp_greater(valid.size(), kernels::kMaxContextTokens)) {
    throw std::invalid_argument("valid must be (tokens,), of at most " +
                                std::to_string(kernels::kMaxContextTokens));
  }
  const py::ssize_t tokens = valid.shape(0);
  if (depth) require_shape(*depth, {tokens}, "depth");
  if (shapes.gates > 0 && !depth) throw std::invalid_argument("a depth gate needs the depth flags");
  const kernels::ContextInput input{static_cast<int>(tokens), cache_view(keys, shapes, tokens, "keys"),
                                    cache_view(values, shapes, tokens, "values"), bytes_of(valid),
                                    depth ? bytes_of(*depth) : nullptr};
  const int count = kernels::valid_tokens({input.valid, static_cast<std::size_t>(tokens)});
  const std::vector<py::ssize_t> shape = {shapes.layers, shapes.heads, count, shapes.head_dim};
  DenseFloats projected_keys(shape);
  DenseFloats projected_values(shape);
  const kernels::ContextOutput output{count, projected_keys.mutable_data(), projected_values.mutable_data()};
  kernels::ContextStatus status{};
  {
    const py::gil_scoped_release release;
    status = plan.run(input, output);
  }
  if (status == kernels::ContextStatus::no_memory) throw std::bad_alloc();
  if (status != kernels::ContextStatus::ok) throw std::invalid_argument(kernels::describe(status));
  return {projected_keys, projected_values};
}

}  // namespace

void bind_context(py::module_& parent) {
  py::class_<CpuContextPlan>(parent, "ContextPlan")
      .def(py::init(&make_plan), py::kw_only(), py::arg("layers"), py::arg("heads"),
           py::arg("key").noconvert(), py::arg("value").noconvert(), py::arg("gate").noconvert() = py::none(),
           py::arg("layer_norm"), py::arg("qk_norm"), py::arg("qk_norm_eps"), py::arg("threads") = 1,
           py::arg("isa") = py::none())
      .def_property_readonly("threads", &CpuContextPlan::threads)
      .def_property_readonly("isa", [](const CpuContextPlan& plan) { return kernels::name(plan.isa()); })
      .def("run", &run, py::arg("keys").noconvert(), py::arg("values").noconvert(),
           py::arg("valid").noconvert(), py::arg("depth").noconvert() = py::none());
}

}  // namespace molmoact2::bindings
