#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/device_tensor.h"
#include "kernels/flow/flow_cuda.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::CudaFlowPlan;
using kernels::CudaFlowStatus;
using kernels::ModulationType;

using Linear = std::pair<py::object, py::object>;  // weight (out, in), bias (out,)
using Block = std::array<Linear, 6>;               // as in kernels::CudaFlowBlockWeights

// A plan and the device that it lives on.
struct FlowPlan {
  std::unique_ptr<CudaFlowPlan> plan;
  int device = 0;
};

// Holds what Python handed over until the plan has packed it.
class LinearTensors {
 public:
  LinearTensors(const Linear& linear, const std::string& name)
      : weight_(linear.first, name + " weight"), bias_(linear.second, name + " bias") {
    weight_.require(ElementType::bf16, {kAnySize, kAnySize}).require_contiguous();
  }

  std::int64_t rows() const { return weight_.size(0); }
  std::int64_t columns() const { return weight_.size(1); }
  const DeviceTensor& weight() const { return weight_; }

  kernels::CudaLinearView require(std::int64_t rows, std::int64_t columns, int device) const {
    weight_.require(ElementType::bf16, {rows, columns});
    bias_.require(ElementType::bf16, {rows}).require_contiguous();
    if (weight_.device() != device || bias_.device() != device) {
      throw std::invalid_argument("all weights must be on one device");
    }
    return {weight_.data(), bias_.data()};
  }

 private:
  DeviceTensor weight_;
  DeviceTensor bias_;
};

std::unique_ptr<FlowPlan> make_plan(int heads, const Linear& action_embed, const std::vector<Block>& blocks,
                                    const Linear& final, bool qk_norm, float qk_norm_eps, bool rope,
                                    bool causal, int max_horizon, int grid_blocks) {
  if (blocks.empty() || blocks.size() > static_cast<std::size_t>(kernels::kMaxFlowLayers)) {
    throw std::invalid_argument("there must be between 1 and 1024 blocks");
  }
  constexpr std::array<const char*, 6> kNames = {
      "qkv", "self-attention output", "query", "cross-attention output", "up_gate", "down"};
  const LinearTensors embed(action_embed, "action_embed");
  const LinearTensors last(final, "final");
  std::vector<std::vector<LinearTensors>> tensors;
  for (const Block& block : blocks) {
    std::vector<LinearTensors>& of_block = tensors.emplace_back();
    for (std::size_t i = 0; i < block.size(); ++i) of_block.emplace_back(block[i], kNames[i]);
  }
  const std::int64_t width = embed.rows();
  const std::int64_t inner = tensors.front()[5].columns();
  if (heads < 1 || width < 1 || width % heads != 0 || width > kernels::kMaxFlowWidth ||
      inner > kernels::kMaxFlowWidth || embed.columns() > kernels::kMaxFlowWidth) {
    throw std::invalid_argument("the width must be a multiple of heads, and every size at most 65536");
  }
  const int device = embed.weight().device();
  const kernels::FlowShapes shapes = {static_cast<int>(blocks.size()), heads, static_cast<int>(width) / heads,
                                      static_cast<int>(inner), static_cast<int>(embed.columns())};
  std::vector<kernels::CudaFlowBlockWeights> views;
  for (const std::vector<LinearTensors>& t : tensors) {
    views.push_back({t[0].require(3 * width, width, device), t[1].require(width, width, device),
                     t[2].require(width, width, device), t[3].require(width, width, device),
                     t[4].require(2 * inner, width, device), t[5].require(width, inner, device)});
  }
  const kernels::CudaFlowWeights weights = {embed.require(width, shapes.action_dim, device),
                                            last.require(shapes.action_dim, width, device), views};
  const CurrentDevice current({&embed.weight()});
  const py::gil_scoped_release release;
  return std::make_unique<FlowPlan>(FlowPlan{
      std::make_unique<CudaFlowPlan>(shapes, kernels::FlowOptions{qk_norm, qk_norm_eps, rope, causal},
                                     weights, max_horizon, grid_blocks),
      device});
}

std::optional<DeviceTensor> optional_tensor(const py::object& tensor, const char* name) {
  if (tensor.is_none()) return std::nullopt;
  return DeviceTensor(tensor, name);
}

const DeviceTensor& require_floats(const DeviceTensor& tensor, std::initializer_list<std::int64_t> shape) {
  return tensor.require(ElementType::float32, shape).require_contiguous();
}

ModulationType type_of(const DeviceTensor& tensor) {
  try {
    tensor.require(ElementType::bf16, {kAnySize, kAnySize, kAnySize, kAnySize});
    return ModulationType::bfloat16;
  } catch (const std::exception&) {
    tensor.require(ElementType::float32, {kAnySize, kAnySize, kAnySize, kAnySize});
    return ModulationType::float32;
  }
}

using Run = CudaFlowStatus (CudaFlowPlan::*)(const kernels::CudaFlowContext&,
                                             const kernels::CudaFlowSchedule&, const kernels::CudaFlowSample&,
                                             CUstream_st*);

template <Run kRun>
void run(FlowPlan& flow, py::handle keys_tensor, py::handle values_tensor, py::handle tokens_tensor,
         py::handle blocks_tensor, py::handle final_tensor, py::handle noise_tensor, py::handle chunk_tensor,
         int valid_columns, const py::object& velocities_tensor, const py::object& guide_tensor,
         const py::object& guide_weight_tensor, std::uintptr_t stream) {
  const kernels::FlowShapes& shapes = flow.plan->shapes();
  const std::int64_t width = shapes.width();
  const DeviceTensor keys(keys_tensor, "keys");
  const DeviceTensor values(values_tensor, "values");
  const DeviceTensor tokens(tokens_tensor, "tokens");
  const DeviceTensor blocks(blocks_tensor, "blocks");
  const DeviceTensor final(final_tensor, "final");
  const DeviceTensor noise(noise_tensor, "noise");
  const DeviceTensor chunk(chunk_tensor, "chunk");
  const auto velocities = optional_tensor(velocities_tensor, "velocities");
  const auto guide = optional_tensor(guide_tensor, "guide");
  const auto guide_weight = optional_tensor(guide_weight_tensor, "guide_weight");

  keys.require(ElementType::bf16, {shapes.layers, shapes.heads, kAnySize, shapes.head_dim})
      .require_contiguous();
  values.require(ElementType::bf16, {shapes.layers, shapes.heads, keys.size(2), shapes.head_dim})
      .require_contiguous();
  tokens.require(ElementType::int32, {1});
  const ModulationType type = type_of(blocks);
  const ElementType element = type == ModulationType::bfloat16 ? ElementType::bf16 : ElementType::float32;
  blocks.require(element, {kAnySize, shapes.layers, kernels::kFlowModulations, width}).require_contiguous();
  const std::int64_t steps = blocks.size(0);
  final.require(element, {steps, 2, width}).require_contiguous();
  require_floats(noise, {kAnySize, shapes.action_dim});
  const std::int64_t horizon = noise.size(0);
  require_floats(chunk, {horizon, shapes.action_dim});
  if (velocities) require_floats(*velocities, {steps, horizon, shapes.action_dim});
  if (guide) require_floats(*guide, {horizon, shapes.action_dim});
  if (guide_weight) require_floats(*guide_weight, {horizon});
  if (noise.device() != flow.device) throw std::invalid_argument("the plan is on another device");

  const auto floats = [](const std::optional<DeviceTensor>& tensor) {
    return tensor ? tensor->as<float>() : nullptr;
  };
  const CurrentDevice current({&keys, &values, &tokens, &blocks, &final, &noise, &chunk,
                               velocities ? &*velocities : nullptr, guide ? &*guide : nullptr,
                               guide_weight ? &*guide_weight : nullptr});
  const kernels::CudaFlowContext context = {keys.data(), values.data(), int_size(keys, 2), tokens.as<int>()};
  const kernels::CudaFlowSchedule schedule = {int_size(blocks, 0), type, blocks.data(), final.data()};
  const kernels::CudaFlowSample sample = {int_size(noise, 0),  valid_columns,      noise.as<float>(),
                                          chunk.as<float>(),   floats(velocities), floats(guide),
                                          floats(guide_weight)};
  CudaFlowStatus status{};
  {
    const py::gil_scoped_release release;
    status = (*flow.plan.*kRun)(context, schedule, sample, stream_of(stream));
  }
  if (status == CudaFlowStatus::cuda_failed) throw std::runtime_error(kernels::describe(status));
  if (status != CudaFlowStatus::ok) throw std::invalid_argument(kernels::describe(status));
}

}  // namespace

void bind_cuda_flow(py::module_& cuda) {
  py::class_<FlowPlan> plan(cuda, "FlowPlan");
  plan.def(py::init(&make_plan), py::kw_only(), py::arg("heads"), py::arg("action_embed"), py::arg("blocks"),
           py::arg("final"), py::arg("qk_norm"), py::arg("qk_norm_eps"), py::arg("rope"), py::arg("causal"),
           py::arg("max_horizon"), py::arg("grid_blocks") = 0)
      .def_property_readonly("max_horizon", [](const FlowPlan& flow) { return flow.plan->max_horizon(); })
      .def_property_readonly("grid_blocks", [](const FlowPlan& flow) { return flow.plan->blocks(); })
      .def_property_readonly("device_bytes", [](const FlowPlan& flow) { return flow.plan->device_bytes(); });
  const auto define_run = [&](const char* name, auto function) {
    plan.def(name, function, py::arg("keys"), py::arg("values"), py::arg("tokens"), py::arg("blocks"),
             py::arg("final"), py::arg("noise"), py::arg("chunk"), py::arg("valid_columns"),
             py::arg("velocities") = py::none(), py::arg("guide") = py::none(),
             py::arg("guide_weight") = py::none(), py::kw_only(), py::arg("stream"));
  };
  define_run("run_persistent", &run<&CudaFlowPlan::run_persistent>);
  define_run("run_launches", &run<&CudaFlowPlan::run_launches>);
}

}  // namespace molmoact2::bindings
