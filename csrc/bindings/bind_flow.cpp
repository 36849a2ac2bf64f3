#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/cpu/isa.h"
#include "kernels/flow/flow.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::CpuFlowPlan;
using kernels::CpuIsa;

// Exactly float32, read in place; what does not fit is refused, never converted.
using DenseFloats = py::array_t<float, py::array::c_style>;
using StridedFloats = py::array_t<float, 0>;
using Linear = std::pair<DenseFloats, DenseFloats>;  // weight (out, in), bias (out,)
using Block = std::array<Linear, 6>;                 // as in kernels::FlowBlockWeights

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

kernels::LinearView checked(const Linear& linear, py::ssize_t rows, py::ssize_t columns,
                            const std::string& what) {
  require_shape(linear.first, {rows, columns}, what + " weight");
  require_shape(linear.second, {rows}, what + " bias");
  return {linear.first.data(), linear.second.data()};
}

CpuIsa isa_named(const std::string& wanted) {
  std::string known;
  for (const CpuIsa isa : kernels::available_isas()) {
    if (wanted == kernels::name(isa)) return isa;
    known += std::string(known.empty() ? "" : ", ") + kernels::name(isa);
  }
  throw std::invalid_argument("isa must be one of " + known + ", got " + wanted);
}

std::unique_ptr<CpuFlowPlan> make_plan(int heads, const Linear& action_embed,
                                       const std::vector<Block>& blocks, const Linear& final, bool qk_norm,
                                       float qk_norm_eps, bool rope, bool causal, std::optional<int> threads,
                                       int available_threads, const std::optional<std::string>& isa) {
  if (action_embed.first.ndim() != 2 || blocks.empty() || blocks.front()[5].first.ndim() != 2) {
    throw std::invalid_argument("weights must be matrices, and there must be at least one block");
  }
  constexpr py::ssize_t kMax = kernels::kMaxFlowWidth;
  const py::ssize_t width = action_embed.first.shape(0);
  const py::ssize_t action_dim = action_embed.first.shape(1);
  const py::ssize_t inner = blocks.front()[5].first.shape(1);
  if (heads < 1 || width < 1 || width % heads != 0 || width > kMax || action_dim > kMax || inner > kMax ||
      std::cmp_greater(blocks.size(), kernels::kMaxFlowLayers)) {
    throw std::invalid_argument("the width must be a multiple of heads, and every size at most " +
                                std::to_string(kMax));
  }
  const kernels::FlowShapes shapes = {static_cast<int>(blocks.size()), heads, static_cast<int>(width) / heads,
                                      static_cast<int>(inner), static_cast<int>(action_dim)};
  std::vector<kernels::FlowBlockWeights> views;
  views.reserve(blocks.size());
  for (const Block& block : blocks) {
    views.push_back(
        {checked(block[0], 3 * width, width, "qkv"), checked(block[1], width, width, "self-attention output"),
         checked(block[2], width, width, "cross-attention query"),
         checked(block[3], width, width, "cross-attention output"),
         checked(block[4], 2 * inner, width, "up_gate"), checked(block[5], width, inner, "down")});
  }
  const kernels::FlowWeights weights = {checked(action_embed, width, action_dim, "action_embed"),
                                        checked(final, action_dim, width, "final"), views};
  const int members = threads ? *threads : kernels::useful_flow_threads(shapes, available_threads);
  const CpuIsa chosen = isa ? isa_named(*isa) : kernels::fastest_isa();
  const py::gil_scoped_release release;
  return std::make_unique<CpuFlowPlan>(shapes, kernels::FlowOptions{qk_norm, qk_norm_eps, rope, causal},
                                       weights, members, chosen);
}

kernels::FlowContextView context_view(const StridedFloats& array, const kernels::FlowShapes& shapes,
                                      py::ssize_t tokens, const std::string& what) {
  require_shape(array, {shapes.layers, shapes.heads, tokens, shapes.head_dim}, what);
  constexpr auto kSize = static_cast<py::ssize_t>(sizeof(float));
  for (py::ssize_t axis = 0; axis < 4; ++axis) {
    if (array.strides(axis) % kSize != 0) throw std::invalid_argument(what + " is not aligned to float32");
  }
  if (shapes.head_dim > 1 && array.strides(3) != kSize) {
    throw std::invalid_argument("the last axis of " + what + " must be contiguous");
  }
  return {array.data(), array.strides(0) / kSize, array.strides(1) / kSize, array.strides(2) / kSize};
}

int checked_count(py::ssize_t count, int most) {
  return std::cmp_greater(count, most) ? most + 1 : static_cast<int>(count);
}

DenseFloats run(CpuFlowPlan& plan, const DenseFloats& noise, const StridedFloats& keys,
                const StridedFloats& values, const DenseFloats& modulation,
                const DenseFloats& final_modulation, int valid_columns, std::optional<DenseFloats> velocities,
                const std::optional<DenseFloats>& guide, const std::optional<DenseFloats>& guide_weight) {
  const kernels::FlowShapes& shapes = plan.shapes();
  if (noise.ndim() != 2 || keys.ndim() != 4 || modulation.ndim() != 4) {
    throw std::invalid_argument(
        "noise must be (T, A), keys (layers, heads, tokens, head_dim), modulation (steps, layers, 9, width)");
  }
  const py::ssize_t horizon = noise.shape(0);
  const py::ssize_t steps = modulation.shape(0);
  const py::ssize_t tokens = keys.shape(2);
  const py::ssize_t width = shapes.width();
  require_shape(noise, {horizon, shapes.action_dim}, "noise");
  require_shape(modulation, {steps, shapes.layers, kernels::kFlowModulations, width}, "modulation");
  require_shape(final_modulation, {steps, 2, width}, "final_modulation");
  if (velocities) require_shape(*velocities, {steps, horizon, shapes.action_dim}, "velocities");
  if (guide) require_shape(*guide, {horizon, shapes.action_dim}, "guide");
  if (guide_weight) require_shape(*guide_weight, {horizon}, "guide_weight");
  const kernels::FlowContext context = {checked_count(tokens, kernels::kMaxFlowTokens),
                                        context_view(keys, shapes, tokens, "keys"),
                                        context_view(values, shapes, tokens, "values")};
  DenseFloats chunk({horizon, static_cast<py::ssize_t>(shapes.action_dim)});
  const kernels::FlowSchedule schedule = {checked_count(steps, kernels::kMaxFlowSteps), modulation.data(),
                                          final_modulation.data()};
  const kernels::FlowSample sample = {checked_count(horizon, kernels::kMaxFlowHorizon),
                                      valid_columns,
                                      noise.data(),
                                      chunk.mutable_data(),
                                      velocities ? velocities->mutable_data() : nullptr,
                                      guide ? guide->data() : nullptr,
                                      guide_weight ? guide_weight->data() : nullptr};
  kernels::FlowStatus status{};
  {
    const py::gil_scoped_release release;
    status = plan.run(context, schedule, sample);
  }
  if (status == kernels::FlowStatus::no_memory) throw std::bad_alloc();
  if (status != kernels::FlowStatus::ok) throw std::invalid_argument(kernels::describe(status));
  return chunk;
}

}  // namespace

void bind_flow(py::module_& parent) {
  py::class_<CpuFlowPlan>(parent, "FlowPlan")
      .def(py::init(&make_plan), py::kw_only(), py::arg("heads"), py::arg("action_embed").noconvert(),
           py::arg("blocks").noconvert(), py::arg("final").noconvert(), py::arg("qk_norm"),
           py::arg("qk_norm_eps"), py::arg("rope"), py::arg("causal"), py::arg("threads") = py::none(),
           py::arg("available_threads") = 1, py::arg("isa") = py::none())
      .def_property_readonly("threads", &CpuFlowPlan::threads)
      .def_property_readonly("isa", [](const CpuFlowPlan& plan) { return kernels::name(plan.isa()); })
      .def("run", &run, py::arg("noise").noconvert(), py::arg("keys").noconvert(),
           py::arg("values").noconvert(), py::arg("modulation").noconvert(),
           py::arg("final_modulation").noconvert(), py::arg("valid_columns"),
           py::arg("velocities").noconvert() = py::none(), py::arg("guide").noconvert() = py::none(),
           py::arg("guide_weight").noconvert() = py::none());
  parent.def("cpu_isas", [] {
    std::vector<std::string> names;
    for (const CpuIsa isa : kernels::available_isas()) names.emplace_back(kernels::name(isa));
    return names;
  });
}

}  // namespace molmoact2::bindings
