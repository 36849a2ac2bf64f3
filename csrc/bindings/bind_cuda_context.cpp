#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/device_tensor.h"
#include "kernels/context/context.h"
#include "kernels/openfast/openfast.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::ContextStatus;
using kernels::CudaOpenFastDecoder;
using kernels::OpenFastStatus;

constexpr std::uintptr_t kWorkspaceAlignment = 16;

void require_ok(ContextStatus status) {
  if (status == ContextStatus::ok) return;
  if (status == ContextStatus::cuda_failed) throw std::runtime_error(kernels::describe(status));
  throw std::invalid_argument(kernels::describe(status));
}

const DeviceTensor& require_bf16(const DeviceTensor& tensor, std::initializer_list<std::int64_t> shape) {
  return tensor.require(ElementType::bf16, shape).require_contiguous();
}

// Rows of the cache: contiguous numbers, any strides between layers and tokens.
kernels::CacheViewCuda cache_view(const DeviceTensor& tensor, std::int64_t layers, std::int64_t tokens,
                                  std::int64_t kv_width) {
  tensor.require(ElementType::bf16, {layers, tokens, kv_width});
  if (kv_width > 1 && tensor.stride(2) != 1) {
    throw std::invalid_argument("the last axis of " + tensor.name() + " must be contiguous");
  }
  return {tensor.as<std::uint16_t>(), tensor.stride(0), tensor.stride(1)};
}

const std::uint8_t* flags_of(const DeviceTensor& tensor, std::int64_t tokens) {
  return tensor.require(ElementType::boolean, {tokens}).require_contiguous().as<std::uint8_t>();
}

const DeviceTensor* address_of(const std::optional<DeviceTensor>& tensor) {
  return tensor ? &*tensor : nullptr;
}

void context(py::handle keys_tensor, py::handle values_tensor, py::handle valid_tensor,
             const py::object& depth_tensor, py::handle key_tensor, py::handle value_tensor,
             const std::optional<std::pair<py::object, py::object>>& gate, py::handle workspace_tensor,
             py::handle projected_keys_tensor, py::handle projected_values_tensor, py::handle count_tensor,
             bool layer_norm, bool qk_norm, float qk_norm_eps, std::uintptr_t stream) {
  const DeviceTensor keys(keys_tensor, "keys");
  const DeviceTensor values(values_tensor, "values");
  const DeviceTensor valid(valid_tensor, "valid");
  const DeviceTensor key(key_tensor, "key");
  const DeviceTensor value(value_tensor, "value");
  const DeviceTensor workspace(workspace_tensor, "workspace");
  const DeviceTensor projected_keys(projected_keys_tensor, "projected_keys");
  const DeviceTensor projected_values(projected_values_tensor, "projected_values");
  const DeviceTensor count(count_tensor, "count");
  std::optional<DeviceTensor> depth;
  std::optional<DeviceTensor> gate_weight;
  std::optional<DeviceTensor> gate_bias;
  if (!depth_tensor.is_none()) depth.emplace(depth_tensor, "depth");
  if (gate) {
    gate_weight.emplace(gate->first, "gate weight");
    gate_bias.emplace(gate->second, "gate bias");
  }

  keys.require(ElementType::bf16, {kAnySize, kAnySize, kAnySize});
  const std::int64_t layers = keys.size(0);
  const std::int64_t tokens = keys.size(1);
  const std::int64_t kv_width = keys.size(2);
  require_bf16(projected_keys, {layers, kAnySize, kAnySize, kAnySize});
  kernels::ContextShapes shapes{int_size(keys, 0), int_size(projected_keys, 1), int_size(projected_keys, 3),
                                int_size(keys, 2), 0};
  const std::int64_t width = projected_keys.size(1) * projected_keys.size(3);
  require_bf16(projected_values,
               {layers, projected_keys.size(1), projected_keys.size(2), projected_keys.size(3)});
  require_bf16(key, {width, kv_width});
  require_bf16(value, {width, kv_width});
  count.require(ElementType::int32, {1});
  kernels::ContextWeightsCuda weights{key.as<std::uint16_t>(), value.as<std::uint16_t>(), nullptr, nullptr};
  if (gate_weight && gate_bias) {
    require_bf16(*gate_weight, {kAnySize, kv_width});
    require_bf16(*gate_bias, {gate_weight->size(0)});
    shapes.gates = int_size(*gate_weight, 0);
    weights.gate_weight = gate_weight->as<std::uint16_t>();
    weights.gate_bias = gate_bias->as<std::uint16_t>();
  }
  const kernels::ContextInputCuda input{int_size(keys, 1), cache_view(keys, layers, tokens, kv_width),
                                        cache_view(values, layers, tokens, kv_width), flags_of(valid, tokens),
                                        depth ? flags_of(*depth, tokens) : nullptr};
  const kernels::ContextOutputCuda output{int_size(projected_keys, 2), projected_keys.as<std::uint16_t>(),
                                          projected_values.as<std::uint16_t>(), count.as<std::int32_t>()};
  workspace.require(ElementType::uint8, {kAnySize}).require_contiguous();
  const std::size_t needed = kernels::context_workspace_bytes(shapes, input.tokens);
  if (std::cmp_less(workspace.size(0), needed) ||
      reinterpret_cast<std::uintptr_t>(workspace.data()) % kWorkspaceAlignment != 0) {
    throw std::invalid_argument("workspace must hold at least " + std::to_string(needed) +
                                " bytes and begin at a multiple of 16");
  }
  const CurrentDevice current({&keys, &values, &valid, &key, &value, &workspace, &projected_keys,
                               &projected_values, &count, address_of(depth), address_of(gate_weight),
                               address_of(gate_bias)});
  require_ok(kernels::context_cuda(shapes, {layer_norm, qk_norm, qk_norm_eps}, weights, input, output,
                                   workspace.data(), stream_of(stream)));
}

// A decoder and the device that it lives on.
struct OpenFastDecoder {
  std::unique_ptr<CudaOpenFastDecoder> decoder;
  int device = 0;
};

std::unique_ptr<OpenFastDecoder> make_decoder(const kernels::OpenFastCodec& codec, int steps, int dims,
                                              int device) {
  const CurrentDevice there(device);
  return std::make_unique<OpenFastDecoder>(
      OpenFastDecoder{std::make_unique<CudaOpenFastDecoder>(codec, steps, dims), device});
}

void decode(const OpenFastDecoder& self, py::handle tokens_tensor, py::handle count_tensor,
            py::handle chunk_tensor, py::handle status_tensor, std::uintptr_t stream) {
  const DeviceTensor tokens(tokens_tensor, "tokens");
  const DeviceTensor count(count_tensor, "count");
  const DeviceTensor chunk(chunk_tensor, "chunk");
  const DeviceTensor status(status_tensor, "status");
  tokens.require(ElementType::int64, {kAnySize}).require_contiguous();
  count.require(ElementType::int32, {1});
  chunk.require(ElementType::float64, {self.decoder->steps(), self.decoder->dims()}).require_contiguous();
  status.require(ElementType::int32, {1});
  if (tokens.device() != self.device) throw std::invalid_argument("the decoder is on another device");
  const CurrentDevice current({&tokens, &count, &chunk, &status});
  const OpenFastStatus launched =
      self.decoder->decode(tokens.as<std::int64_t>(), int_size(tokens, 0), count.as<std::int32_t>(),
                           chunk.as<double>(), status.as<std::int32_t>(), stream_of(stream));
  if (launched != OpenFastStatus::ok) throw std::runtime_error(kernels::describe(launched));
}

}  // namespace

void bind_cuda_context(py::module_& cuda) {
  cuda.def("context", &context, py::arg("keys"), py::arg("values"), py::arg("valid"), py::arg("depth"),
           py::kw_only(), py::arg("key"), py::arg("value"), py::arg("gate"), py::arg("workspace"),
           py::arg("projected_keys"), py::arg("projected_values"), py::arg("count"), py::arg("layer_norm"),
           py::arg("qk_norm"), py::arg("qk_norm_eps"), py::arg("stream"));
  cuda.def(
      "context_workspace_bytes",
      [](int gates, int tokens) {
        if (gates < 0 || gates > kernels::kMaxContextLayers || tokens < 0 ||
            tokens > kernels::kMaxContextTokens) {
          throw std::invalid_argument("gates must be 0 to 1024 and tokens 0 to 1048576");
        }
        return kernels::context_workspace_bytes({0, 0, 0, 0, gates}, tokens);
      },
      py::kw_only(), py::arg("gates"), py::arg("tokens"));
  cuda.attr("MAX_CONTEXT_WIDTH") = kernels::kMaxContextWidthCuda;
  py::class_<OpenFastDecoder>(cuda, "OpenFastDecoder")
      .def(py::init(&make_decoder), py::arg("codec"), py::kw_only(), py::arg("steps"), py::arg("dims"),
           py::arg("device") = 0)
      .def("decode", &decode, py::arg("tokens"), py::arg("count"), py::arg("chunk"), py::arg("status"),
           py::kw_only(), py::arg("stream"));
  // What a status word says, by its number; None where the chunk is valid.
  cuda.def("openfast_reason", [](int status) -> std::optional<std::string> {
    if (status == static_cast<int>(OpenFastStatus::ok)) return std::nullopt;
    return kernels::describe(static_cast<OpenFastStatus>(status));
  });
}

}  // namespace molmoact2::bindings
