#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "check.h"
#include "context_case.h"
#include "device_array.h"
#include "kernels/context/context.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::ContextStatus;
using molmoact2::check::context_cases;
using molmoact2::check::context_data;
using molmoact2::check::context_reference;
using molmoact2::check::ContextCase;
using molmoact2::check::ContextData;
using molmoact2::check::ContextReference;
using molmoact2::check::DeviceArray;
using molmoact2::check::Mask;
using molmoact2::check::no_device;
using molmoact2::check::size_of;

constexpr std::uint16_t kUntouched = 0x4242;

std::uint16_t bf16_bits(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

float as_bf16(float number) { return from_bf16(bf16_bits(number)); }

DeviceArray<std::uint16_t> upload(const std::vector<float>& numbers) {
  std::vector<std::uint16_t> bits;
  for (const float number : numbers) bits.push_back(bf16_bits(number));
  bits.push_back(0);  // an array of nothing has no address
  return DeviceArray<std::uint16_t>(bits);
}

DeviceArray<std::uint8_t> upload(std::vector<std::uint8_t> flags) {
  flags.push_back(1);
  return DeviceArray<std::uint8_t>(flags);
}

// A case on the device, with as many rows in the output as in the cache and some more.
struct DeviceContext {
  DeviceContext(const ContextCase& test, const ContextData& data)
      : shapes(test.shapes),
        options(test.options),
        key_weight(upload(data.key_weight)),
        value_weight(upload(data.value_weight)),
        gate_weight(upload(data.gate_weight)),
        gate_bias(upload(data.gate_bias)),
        keys(upload(data.keys)),
        values(upload(data.values)),
        valid(upload(data.valid)),
        depth(upload(data.depth)),
        workspace(kernels::context_workspace_bytes(test.shapes, test.tokens)),
        count(std::vector<std::int32_t>{-5}),
        projected_keys(
            std::vector<std::uint16_t>(size_of(shapes.layers, shapes.width(), test.tokens + 2), kUntouched)),
        projected_values(projected_keys.to_host()),
        input{test.tokens,
              {keys.get(), data.layer_stride, data.token_stride},
              {values.get(), data.layer_stride, data.token_stride},
              valid.get(),
              depth.get()},
        output{test.tokens + 2, projected_keys.get(), projected_values.get(), count.get()} {}

  kernels::ContextWeightsCuda weights() const {
    return {key_weight.get(), value_weight.get(), gate_weight.get(), gate_bias.get()};
  }
  ContextStatus run() const {
    return kernels::context_cuda(shapes, options, weights(), input, output, workspace.get(), nullptr);
  }

  kernels::ContextShapes shapes;
  kernels::ContextOptions options;
  DeviceArray<std::uint16_t> key_weight, value_weight, gate_weight, gate_bias, keys, values;
  DeviceArray<std::uint8_t> valid, depth, workspace;
  DeviceArray<std::int32_t> count;
  DeviceArray<std::uint16_t> projected_keys, projected_values;
  kernels::ContextInputCuda input;
  kernels::ContextOutputCuda output;
};

void check_side(const std::vector<std::uint16_t>& found, const std::vector<double>& expected,
                const kernels::ContextShapes& shapes, int capacity, int count) {
  // Half a step of bf16, and the sums' order in float32.
  const double relative = 0.5 / 128.0;
  const double absolute = 1e-4;
  for (int row = 0; row < shapes.layers * shapes.heads; ++row) {
    for (int token = 0; token < count; ++token) {
      for (int d = 0; d < shapes.head_dim; ++d) {
        const auto number = static_cast<double>(
            from_bf16(found[size_of(row * capacity + token, shapes.head_dim) + size_of(d)]));
        const double wanted = expected[size_of(row * count + token, shapes.head_dim) + size_of(d)];
        CHECK_NEAR(number, wanted, relative * std::abs(wanted) + absolute);
      }
    }
  }
}

void check_case(const ContextCase& test, int gap) {
  const ContextData data = context_data(test, gap, as_bf16);
  const ContextReference reference = context_reference(test, data);
  const DeviceContext device(test, data);
  REQUIRE(device.run() == ContextStatus::ok);
  CHECK_EQ(device.count.to_host().at(0), reference.count);
  check_side(device.projected_keys.to_host(), reference.keys, test.shapes, test.tokens + 2, reference.count);
  check_side(device.projected_values.to_host(), reference.values, test.shapes, test.tokens + 2,
             reference.count);
}

}  // namespace

CASE("the CUDA context is what its definition says") {
  if (no_device()) return;
  // Rows that begin anywhere, and rows that begin at 16 bytes where kv_width lets them.
  for (const ContextCase& test : context_cases()) check_case(test, test.shapes.kv_width % 8 == 0 ? 8 : 3);
  check_case({{2, 2, 12, 24, 2}, 67, Mask::some, {}}, 3);
}

CASE("the CUDA context of wide experts is what its definition says") {
  if (no_device()) return;
  check_case({{1, 3, 128, 40, 1}, 70, Mask::some, {}}, 0);
  check_case({{1, 8, 96, 72, 1}, 65, Mask::some, {}}, 0);
  check_case({{1, 7, 109, 33, 0}, 20, Mask::some, {}}, 0);
}

CASE("the CUDA context gives the same bits again, and follows the flags without being told") {
  if (no_device()) return;
  const ContextCase test{{2, 4, 10, 48, 2}, 100, Mask::some, {}};
  const ContextData data = context_data(test, 0, as_bf16);
  const DeviceContext device(test, data);
  REQUIRE(device.run() == ContextStatus::ok);
  const std::vector<std::uint16_t> first = device.projected_keys.to_host();
  REQUIRE(device.run() == ContextStatus::ok);
  CHECK(device.projected_keys.to_host() == first);
  // Without a depth token in sight nothing is gated.
  ContextData plain = data;
  plain.depth.assign(plain.depth.size(), 0);
  const ContextReference reference = context_reference(test, plain);
  REQUIRE(cudaMemset(device.depth.get(), 0, plain.depth.size()) == cudaSuccess);
  REQUIRE(device.run() == ContextStatus::ok);
  check_side(device.projected_keys.to_host(), reference.keys, test.shapes, test.tokens + 2, reference.count);
}

CASE("the CUDA context refuses what does not fit") {
  if (no_device()) return;
  const ContextCase test{{2, 2, 8, 16, 1}, 9, Mask::all, {}};
  const ContextData data = context_data(test, 0, as_bf16);
  DeviceContext device(test, data);
  const auto status_with = [&](const auto& change) {
    const DeviceContext changed(test, data);
    auto shapes = changed.shapes;
    auto weights = changed.weights();
    auto input = changed.input;
    auto output = changed.output;
    void* workspace = changed.workspace.get();
    change(shapes, weights, input, output, workspace);
    return kernels::context_cuda(shapes, changed.options, weights, input, output, workspace, nullptr);
  };
  using Shapes = kernels::ContextShapes;
  using Weights = kernels::ContextWeightsCuda;
  using Input = kernels::ContextInputCuda;
  using Result = kernels::ContextOutputCuda;
  const auto with_shapes = [&](Shapes wanted) {
    return status_with([&](Shapes& shapes, Weights&, Input&, Result&, void*&) { shapes = wanted; });
  };
  CHECK_EQ(with_shapes({2, 1, kernels::kMaxContextWidthCuda + 1, 16, 1}), ContextStatus::bad_shape);
  CHECK_EQ(with_shapes({0, 2, 8, 16, 0}), ContextStatus::bad_shape);
  CHECK_EQ(with_shapes({3, 2, 8, 16, 2}), ContextStatus::bad_shape);
  CHECK_EQ(status_with([](Shapes&, Weights&, Input& input, Result&, void*&) { input.tokens = -1; }),
           ContextStatus::bad_tokens);
  CHECK_EQ(status_with([](Shapes&, Weights&, Input&, Result& output, void*&) { output.capacity = 8; }),
           ContextStatus::bad_capacity);
  CHECK_EQ(status_with([](Shapes&, Weights&, Input& input, Result&, void*&) { input.depth = nullptr; }),
           ContextStatus::missing);
  CHECK_EQ(status_with([](Shapes&, Weights& weights, Input&, Result&, void*&) { weights.value = nullptr; }),
           ContextStatus::missing);
  CHECK_EQ(status_with([](Shapes&, Weights&, Input&, Result&, void*& workspace) { workspace = nullptr; }),
           ContextStatus::missing);
}
