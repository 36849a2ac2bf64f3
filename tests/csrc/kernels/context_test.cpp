#include "kernels/context/context.h"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.h"
#include "context_case.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::ContextStatus;
using kernels::CpuContextPlan;
using kernels::CpuIsa;
using molmoact2::check::context_cases;
using molmoact2::check::context_data;
using molmoact2::check::context_reference;
using molmoact2::check::ContextCase;
using molmoact2::check::ContextData;
using molmoact2::check::ContextReference;
using molmoact2::check::Mask;
using molmoact2::check::size_of;

constexpr float kUntouched = 77.0F;
constexpr int kGap = 3;

float exactly(float number) { return number; }

kernels::ContextWeights weights_of(const ContextData& data) {
  return {data.key_weight.data(), data.value_weight.data(), data.gate_weight.data(), data.gate_bias.data()};
}

kernels::ContextInput input_of(const ContextCase& test, const ContextData& data) {
  return {test.tokens,
          {data.keys.data(), data.layer_stride, data.token_stride},
          {data.values.data(), data.layer_stride, data.token_stride},
          data.valid.data(),
          data.depth.data()};
}

struct Output {
  Output(const kernels::ContextShapes& shapes, int rows)
      : capacity(rows), keys(size_of(shapes.layers, shapes.width(), rows), kUntouched), values(keys) {}

  kernels::ContextOutput view() { return {capacity, keys.data(), values.data()}; }

  int capacity;
  std::vector<float> keys;
  std::vector<float> values;
};

void check_side(const std::vector<float>& found, const std::vector<double>& expected,
                const kernels::ContextShapes& shapes, int capacity, int count) {
  const double tolerance = 2e-5;  // of numbers around 1, in float32
  for (int row = 0; row < shapes.layers * shapes.heads; ++row) {
    for (int token = 0; token < capacity; ++token) {
      for (int d = 0; d < shapes.head_dim; ++d) {
        const float number = found[size_of(row * capacity + token, shapes.head_dim) + size_of(d)];
        if (token < count) {
          const double wanted = expected[size_of(row * count + token, shapes.head_dim) + size_of(d)];
          CHECK_NEAR(static_cast<double>(number), wanted, tolerance * (1.0 + std::abs(wanted)));
        } else {
          CHECK_EQ(number, kUntouched);
        }
      }
    }
  }
}

}  // namespace

CASE("the context is what its definition says, on every instruction set") {
  for (const ContextCase& test : context_cases()) {
    const ContextData data = context_data(test, kGap, exactly);
    const ContextReference reference = context_reference(test, data);
    for (const CpuIsa isa : kernels::available_isas()) {
      CpuContextPlan plan(test.shapes, test.options, weights_of(data), 2, isa);
      Output output(test.shapes, reference.count + 2);
      REQUIRE(plan.run(input_of(test, data), output.view()) == ContextStatus::ok);
      check_side(output.keys, reference.keys, test.shapes, output.capacity, reference.count);
      check_side(output.values, reference.values, test.shapes, output.capacity, reference.count);
    }
  }
}

CASE("the number of threads changes no bit, nor does the call before") {
  // Large enough to be shared.
  const ContextCase test{{3, 4, 24, 96, 3}, 200, Mask::some, {}};
  const ContextCase before{{3, 4, 24, 96, 3}, 31, Mask::only_depth, {}};
  const ContextData data = context_data(test, kGap, exactly);
  const ContextData earlier = context_data(before, kGap, exactly);
  const int count = kernels::valid_tokens(data.valid);
  Output alone(test.shapes, count);
  CpuContextPlan one(test.shapes, test.options, weights_of(data), 1, kernels::fastest_isa());
  REQUIRE(one.run(input_of(test, data), alone.view()) == ContextStatus::ok);
  check_side(alone.keys, context_reference(test, data).keys, test.shapes, count, count);
  CpuContextPlan three(test.shapes, test.options, weights_of(data), 3, kernels::fastest_isa());
  Output other(test.shapes, before.tokens);
  REQUIRE(three.run(input_of(before, earlier), other.view()) == ContextStatus::ok);
  Output shared(test.shapes, count);
  REQUIRE(three.run(input_of(test, data), shared.view()) == ContextStatus::ok);
  CHECK(shared.keys == alone.keys);
  CHECK(shared.values == alone.values);
  CHECK_EQ(three.threads(), 3);
}

CASE("what does not fit is refused and written nowhere") {
  const ContextCase test{{2, 2, 8, 16, 1}, 9, Mask::all, {}};
  const ContextData data = context_data(test, kGap, exactly);
  CpuContextPlan plan(test.shapes, test.options, weights_of(data), 1, CpuIsa::portable);
  Output output(test.shapes, 8);
  CHECK_EQ(plan.run(input_of(test, data), output.view()), ContextStatus::bad_capacity);
  kernels::ContextInput input = input_of(test, data);
  input.tokens = -1;
  CHECK_EQ(plan.run(input, output.view()), ContextStatus::bad_tokens);
  input.tokens = kernels::kMaxContextTokens + 1;
  CHECK_EQ(plan.run(input, output.view()), ContextStatus::bad_tokens);
  input = input_of(test, data);
  input.depth = nullptr;
  CHECK_EQ(plan.run(input, output.view()), ContextStatus::missing);
  CHECK_EQ(plan.run(input_of(test, data), {9, nullptr, nullptr}), ContextStatus::missing);
  CHECK(output.keys == Output(test.shapes, 8).keys);

  const auto refused = [&](const kernels::ContextShapes& shapes, const kernels::ContextWeights& weights,
                           int threads) {
    CHECK_THROWS(CpuContextPlan(shapes, test.options, weights, threads, CpuIsa::portable),
                 std::invalid_argument);
  };
  refused({0, 2, 8, 16, 0}, weights_of(data), 1);
  refused({2, 0, 8, 16, 0}, weights_of(data), 1);
  refused({2, 2, 0, 16, 0}, weights_of(data), 1);
  refused({2, 1 << 12, 1 << 12, 16, 0}, weights_of(data), 1);
  refused({2, 2, 8, 0, 0}, weights_of(data), 1);
  refused({3, 2, 8, 16, 2}, weights_of(data), 1);
  refused(test.shapes, {data.key_weight.data(), nullptr, nullptr, nullptr}, 1);
  refused(test.shapes, {data.key_weight.data(), data.value_weight.data(), nullptr, nullptr}, 1);
  refused(test.shapes, weights_of(data), 0);
}
