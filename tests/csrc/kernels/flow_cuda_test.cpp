#include "kernels/flow/flow_cuda.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "device_array.h"
#include "kernels/flow/flow.h"

namespace molmoact2::kernels {
namespace {

using check::DeviceArray;
using check::no_device;
using Floats = std::vector<float>;
using Halves = std::vector<std::uint16_t>;  // bf16

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Size {
  FlowShapes shapes;  // layers, heads, head_dim, inner, action_dim
  int horizon = 1;
  int tokens = 1;
  int capacity = 1;
  int steps = 1;
  int valid_columns = 1;
};

std::size_t count(std::initializer_list<int> sizes) {
  std::size_t product = 1;
  for (const int size : sizes) product *= static_cast<std::size_t>(size);
  return product;
}

// Half to even; for finite numbers.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}
float from_bf16(std::uint16_t value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }

// Numbers that are exactly bf16, on both sides.
struct Numbers {
  Numbers(std::mt19937& generator, std::size_t size, float scale) : host(size) {
    std::normal_distribution<float> normal(0.0F, scale);
    for (float& number : host) number = from_bf16(to_bf16(normal(generator)));
    upload();
  }

  void upload() {
    Halves halves(host.size());
    std::ranges::transform(host, halves.begin(), [](float number) {
      // Of NaN and infinity the upper half says it all.
      return std::isfinite(number) ? to_bf16(number)
                                   : static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(number) >> 16);
    });
    device = std::make_unique<DeviceArray<std::uint16_t>>(halves);
  }

  Floats host;
  std::unique_ptr<DeviceArray<std::uint16_t>> device;
};

struct Linear {
  Linear(std::mt19937& generator, int rows, int columns)
      : weight(generator, count({rows, columns}), 0.7F / std::sqrt(static_cast<float>(columns))),
        bias(generator, count({rows}), 0.3F) {}

  LinearView host() const { return {weight.host.data(), bias.host.data()}; }
  CudaLinearView device() const { return {weight.device->get(), bias.device->get()}; }

  Numbers weight, bias;
};

struct Block {
  Linear qkv, self_out, query, cross_out, up_gate, down;
};

enum class Way : std::uint8_t { persistent, launches };

struct Result {
  Floats chunk;
  Floats velocities;

  bool operator==(const Result& other) const {
    const auto same_bits = [](const Floats& a, const Floats& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same_bits(chunk, other.chunk) && same_bits(velocities, other.velocities);
  }
};

// Random weights and inputs; what the CPU makes of them in float is what the device should.
class Problem {
 public:
  Problem(const Size& size_of, const FlowOptions& options_of, unsigned seed, bool guided = false)
      : size(size_of),
        options(options_of),
        generator_(seed),
        action_embed_(generator_, size.shapes.width(), size.shapes.action_dim),
        final_(generator_, size.shapes.action_dim, size.shapes.width()),
        keys(generator_, context_size(), 1.0F),
        values(generator_, context_size(), 1.0F),
        modulation(generator_, count({size.steps, size.shapes.layers, kFlowModulations, size.shapes.width()}),
                   0.5F),
        final_modulation(generator_, count({size.steps, 2, size.shapes.width()}), 0.5F),
        noise(generator_, count({size.horizon, size.shapes.action_dim}), 1.0F) {
    const int width = size.shapes.width();
    const int inner = size.shapes.inner;
    for (int layer = 0; layer < size.shapes.layers; ++layer) {
      blocks_.push_back({{generator_, 3 * width, width},
                         {generator_, width, width},
                         {generator_, width, width},
                         {generator_, width, width},
                         {generator_, 2 * inner, width},
                         {generator_, width, inner}});
    }
    for (const Block& b : blocks_) {
      host_blocks_.push_back({b.qkv.host(), b.self_out.host(), b.query.host(), b.cross_out.host(),
                              b.up_gate.host(), b.down.host()});
      device_blocks_.push_back({b.qkv.device(), b.self_out.device(), b.query.device(), b.cross_out.device(),
                                b.up_gate.device(), b.down.device()});
    }
    if (guided) {
      std::uniform_real_distribution<float> between(0.0F, 1.0F);
      for (int row = 0; row < size.horizon; ++row) {
        const float free_row_weight = row % 3 == 0 ? 0.0F : between(generator_);
        guide_weight.push_back(row == 0 ? 1.0F : free_row_weight);
        for (int a = 0; a < size.shapes.action_dim; ++a) {
          // A row without a weight is not read.
          guide.push_back(guide_weight.back() == 0.0F ? kNan : 2.0F * between(generator_) - 1.0F);
        }
      }
    }
  }

  CudaFlowWeights device_weights() const { return {action_embed_.device(), final_.device(), device_blocks_}; }

  Result on_cpu() const {
    const FlowWeights weights = {action_embed_.host(), final_.host(), host_blocks_};
    CpuFlowPlan plan(size.shapes, options, weights, 1, CpuIsa::portable);
    Result result = empty_result();
    const auto view = [&](const Numbers& numbers) {
      const std::ptrdiff_t head = static_cast<std::ptrdiff_t>(size.capacity) * size.shapes.head_dim;
      return FlowContextView{numbers.host.data(), size.shapes.heads * head, head, size.shapes.head_dim};
    };
    const FlowStatus status = plan.run(
        {size.tokens, view(keys), view(values)},
        {size.steps, modulation.host.data(), final_modulation.host.data()},
        {size.horizon, size.valid_columns, noise.host.data(), result.chunk.data(), result.velocities.data(),
         guide.empty() ? nullptr : guide.data(), guide.empty() ? nullptr : guide_weight.data()});
    CHECK_EQ(status, FlowStatus::ok);
    return result;
  }

  Result on_device(CudaFlowPlan& plan, Way way, ModulationType type = ModulationType::bfloat16) const {
    const Result expected = empty_result();
    const DeviceArray<float> chunk(expected.chunk);
    const DeviceArray<float> velocities(expected.velocities);
    const DeviceArray<float> start(noise.host);
    const DeviceArray<int> tokens(std::vector<int>{size.tokens});
    const DeviceArray<float> float_blocks(modulation.host);
    const DeviceArray<float> float_final(final_modulation.host);
    const DeviceArray<float> goal(guide.empty() ? Floats{0.0F} : guide);
    const DeviceArray<float> weight(guide.empty() ? Floats{0.0F} : guide_weight);
    const bool floats = type == ModulationType::float32;
    const CudaFlowContext context = {keys.device->get(), values.device->get(), size.capacity, tokens.get()};
    const CudaFlowSchedule schedule = {
        size.steps, type, floats ? static_cast<const void*>(float_blocks.get()) : modulation.device->get(),
        floats ? static_cast<const void*>(float_final.get()) : final_modulation.device->get()};
    const CudaFlowSample sample = {size.horizon,
                                   size.valid_columns,
                                   start.get(),
                                   chunk.get(),
                                   velocities.get(),
                                   guide.empty() ? nullptr : goal.get(),
                                   guide.empty() ? nullptr : weight.get()};
    const CudaFlowStatus status = way == Way::persistent
                                      ? plan.run_persistent(context, schedule, sample, nullptr)
                                      : plan.run_launches(context, schedule, sample, nullptr);
    CHECK_EQ(status, CudaFlowStatus::ok);
    CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return {chunk.to_host(), velocities.to_host()};
  }

  CudaFlowPlan plan(int blocks = 0) const {
    return {size.shapes, options, device_weights(), size.horizon, blocks};
  }

  const Size size;
  const FlowOptions options;

 private:
  std::size_t context_size() const {
    return count({size.shapes.layers, size.shapes.heads, size.capacity, size.shapes.head_dim});
  }
  Result empty_result() const {
    const std::size_t cells = count({size.horizon, size.shapes.action_dim});
    return {Floats(cells, kNan), Floats(cells * static_cast<std::size_t>(size.steps), kNan)};
  }

  std::mt19937 generator_;
  Linear action_embed_, final_;

 public:
  Numbers keys, values, modulation, final_modulation, noise;
  Floats guide, guide_weight;

 private:
  std::vector<Block> blocks_;
  std::vector<FlowBlockWeights> host_blocks_;
  std::vector<CudaFlowBlockWeights> device_blocks_;
};

// |found - expected| / |expected| over all numbers; NaN if any is.
double relative_error(const Floats& found, const Floats& expected) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

// Operands of products are rounded to bf16, 2^-9 each and the first of a pair 2^-8, in every layer and step;
// everything else is float. Measured up to 0.004; a wrong index is of the order of 1.
constexpr double kTolerance = 0.01;

void check_both_ways(const Problem& problem, CudaFlowPlan& plan) {
  const Result expected = problem.on_cpu();
  const Result persistent = problem.on_device(plan, Way::persistent);
  CHECK(relative_error(persistent.velocities, expected.velocities) < kTolerance);
  CHECK(relative_error(persistent.chunk, expected.chunk) < kTolerance);
  CHECK(problem.on_device(plan, Way::launches) == persistent);
  CHECK(problem.on_device(plan, Way::persistent) == persistent);
}

const Size kSizes[] = {
    {{1, 1, 16, 16, 1}, 1, 1, 1, 1, 1},          // everything is one
    {{1, 1, 2, 1, 1}, 2, 3, 3, 1, 1},            // less than any tile
    {{4, 4, 10, 160, 8}, 12, 40, 40, 3, 6},      // the tiny checkpoints
    {{2, 2, 96, 192, 7}, 15, 37, 64, 2, 7},      // a last row tile that is full with the shift
    {{2, 3, 32, 144, 32}, 30, 131, 200, 2, 6},   //
    {{1, 2, 48, 64, 3}, 33, 5, 8, 2, 0},         // five row tiles for three, nothing but padding columns
    {{1, 1, 128, 80, 64}, 64, 300, 301, 1, 50},  // the largest head, five row tiles
    {{1, 6, 128, 48, 5}, 3, 19, 24, 1, 5},       // the largest width
    {{2, 5, 16, 1000, 7}, 17, 9, 16, 1, 7},      // an inner width of several splits, the last not full
};

CASE("the CUDA flow equals the CPU's on every size, both ways to run with the same bits") {
  if (no_device()) return;
  unsigned seed = 1;
  for (const Size& size : kSizes) {
    const Problem problem(size, {}, seed++);
    CudaFlowPlan plan = problem.plan();
    check_both_ways(problem, plan);
  }
}

CASE("the CUDA flow at release width equals the CPU's") {
  if (no_device()) return;
  const Problem problem({{1, 8, 96, 800, 32}, 30, 490, 512, 1, 6}, {}, 40);
  CudaFlowPlan plan = problem.plan();
  const Result expected = problem.on_cpu();
  const Result found = problem.on_device(plan, Way::persistent);
  CHECK(relative_error(found.velocities, expected.velocities) < kTolerance);
}

CASE("the CUDA flow computes every option") {
  if (no_device()) return;
  for (int bits = 0; bits < 8; ++bits) {
    const FlowOptions options = {(bits & 1) != 0, 1e-5F, (bits & 2) != 0, (bits & 4) != 0};
    const Problem problem({{2, 2, 16, 48, 7}, 35, 21, 24, 2, 6}, options, 100U + static_cast<unsigned>(bits));
    CudaFlowPlan plan = problem.plan();
    check_both_ways(problem, plan);
  }
}

CASE("the CUDA flow in-paints around a guide") {
  if (no_device()) return;
  const Problem problem({{2, 2, 32, 64, 7}, 13, 30, 32, 4, 6}, {}, 200, true);
  CudaFlowPlan plan = problem.plan();
  check_both_ways(problem, plan);
  const Result found = problem.on_device(plan, Way::persistent);
  for (int a = 0; a < problem.size.valid_columns; ++a) {
    // Row 0 has weight 1 and lands on its guide: four steps in float, each rounded.
    const auto at = static_cast<std::size_t>(a);
    CHECK_NEAR(static_cast<double>(found.chunk[at]), static_cast<double>(problem.guide[at]), 1e-5);
  }
}

CASE("the CUDA flow does not depend on how many blocks there are, but for the order of sums") {
  if (no_device()) return;
  const Problem problem({{2, 3, 32, 300, 7}, 20, 100, 128, 2, 7}, {}, 300);
  for (int blocks = 1; blocks <= 5; ++blocks) {
    CudaFlowPlan plan = problem.plan(blocks);
    CHECK_EQ(plan.blocks(), blocks);
    check_both_ways(problem, plan);
  }
}

CASE("a CUDA plan serves any sequence of horizons, prompts and schedules") {
  if (no_device()) return;
  const FlowShapes shapes = {2, 2, 16, 48, 8};
  const Size sizes[] = {{shapes, 40, 31, 40, 2, 6},
                        {shapes, 7, 1, 1, 1, 8},
                        {shapes, 16, 100, 100, 3, 8},
                        {shapes, 30, 5, 64, 2, 0}};
  const Problem first(sizes[0], {}, 9);
  CudaFlowPlan plan(shapes, {}, first.device_weights(), 64);
  for (int round = 0; round < 2; ++round) {
    for (const Size& size : sizes) {
      const Problem problem(size, {}, 400U + static_cast<unsigned>(size.horizon));
      CudaFlowPlan own(shapes, {}, first.device_weights(), size.horizon);
      CHECK(problem.on_device(plan, Way::persistent) == problem.on_device(own, Way::launches));
    }
  }
}

CASE("the CUDA flow takes modulation in float or bf16, and may write the chunk over the noise") {
  if (no_device()) return;
  const Problem problem({{2, 2, 16, 48, 8}, 9, 17, 20, 3, 6}, {}, 10);
  CudaFlowPlan plan = problem.plan();
  const Result found = problem.on_device(plan, Way::persistent, ModulationType::bfloat16);
  CHECK(problem.on_device(plan, Way::persistent, ModulationType::float32) == found);

  const DeviceArray<float> chunk(problem.noise.host);
  const DeviceArray<int> tokens(std::vector<int>{problem.size.tokens});
  for (const Way way : {Way::persistent, Way::launches}) {
    REQUIRE(cudaMemcpy(chunk.get(), problem.noise.host.data(), problem.noise.host.size() * sizeof(float),
                       cudaMemcpyHostToDevice) == cudaSuccess);
    const CudaFlowContext context = {problem.keys.device->get(), problem.values.device->get(),
                                     problem.size.capacity, tokens.get()};
    const CudaFlowSchedule schedule = {problem.size.steps, ModulationType::bfloat16,
                                       problem.modulation.device->get(),
                                       problem.final_modulation.device->get()};
    CudaFlowSample sample;
    sample.horizon = problem.size.horizon;
    sample.valid_columns = problem.size.valid_columns;
    sample.noise = chunk.get();
    sample.chunk = chunk.get();
    const CudaFlowStatus status = way == Way::persistent
                                      ? plan.run_persistent(context, schedule, sample, nullptr)
                                      : plan.run_launches(context, schedule, sample, nullptr);
    CHECK_EQ(status, CudaFlowStatus::ok);
    CHECK(chunk.to_host() == found.chunk);
  }
}

CASE("the CUDA flow keeps padding columns at zero and reports their velocity") {
  if (no_device()) return;
  const Problem problem({{1, 2, 16, 32, 8}, 5, 9, 9, 2, 5}, {}, 11);
  CudaFlowPlan plan = problem.plan();
  const Result found = problem.on_device(plan, Way::persistent);
  bool moves = false;
  for (int t = 0; t < problem.size.horizon; ++t) {
    for (int a = problem.size.valid_columns; a < problem.size.shapes.action_dim; ++a) {
      const std::size_t at = count({t, problem.size.shapes.action_dim}) + static_cast<std::size_t>(a);
      CHECK_EQ(found.chunk[at], 0.0F);
      moves = moves || found.velocities[at] != 0.0F;
    }
  }
  CHECK(moves);
}

CASE("NaN and infinity come out of the CUDA flow where they are read, and the plan works on") {
  if (no_device()) return;
  Problem problem({{2, 2, 16, 32, 4}, 9, 17, 17, 2, 4}, {}, 12);
  CudaFlowPlan plan = problem.plan();
  const Result before = problem.on_device(plan, Way::persistent);
  for (Numbers* const input : {&problem.noise, &problem.keys, &problem.values, &problem.modulation}) {
    const float kept = input->host.back();
    for (const float poison : {kNan, -kNan, std::numeric_limits<float>::infinity()}) {
      input->host.back() = poison;
      input->upload();
      for (const Way way : {Way::persistent, Way::launches}) {
        const Result found = problem.on_device(plan, way);
        // Attention over the chunk spreads it to every step; of the last modulation only the last column is.
        CHECK(input == &problem.modulation
                  ? std::ranges::any_of(found.chunk, [](float x) { return std::isnan(x); })
                  : std::ranges::none_of(found.chunk, [](float x) { return std::isfinite(x); }));
      }
    }
    input->host.back() = kept;
    input->upload();
    CHECK(problem.on_device(plan, Way::persistent) == before);
  }
}

CASE("a count of tokens that makes no sense makes the CUDA flow's result NaN") {
  if (no_device()) return;
  for (const int tokens : {0, -1, 18, std::numeric_limits<int>::max()}) {
    const Problem problem({{1, 2, 16, 32, 4}, 9, tokens, 17, 1, 4}, {}, 13);
    CudaFlowPlan plan = problem.plan();
    for (const Way way : {Way::persistent, Way::launches}) {
      const Result found = problem.on_device(plan, way);
      CHECK(std::ranges::all_of(found.chunk, [](float x) { return std::isnan(x); }));
    }
  }
}

CASE("the CUDA flow refuses shapes that it cannot compute") {
  if (no_device()) return;
  const Problem problem({{1, 2, 16, 32, 4}, 5, 9, 9, 1, 4}, {}, 14);
  const CudaFlowWeights weights = problem.device_weights();
  const auto plan = [&](const FlowShapes& shapes, int horizon = 5, int blocks = 0) {
    const CudaFlowPlan made(shapes, {}, weights, horizon, blocks);
  };
  plan({1, 2, 16, 32, 4});
  for (const FlowShapes& shapes :
       {FlowShapes{0, 2, 16, 32, 4}, FlowShapes{2, 2, 16, 32, 4}, FlowShapes{1, 0, 16, 32, 4},
        FlowShapes{1, 2, 15, 32, 4}, FlowShapes{1, 2, 130, 32, 4}, FlowShapes{1, 2, 0, 32, 4},
        FlowShapes{1, 7, 128, 32, 4}, FlowShapes{1, 49, 2, 32, 4}, FlowShapes{1, 2, 16, 0, 4},
        FlowShapes{1, 2, 16, kMaxFlowWidth + 1, 4}, FlowShapes{1, 2, 16, 32, 0},
        FlowShapes{1, 2, 16, 32, 65}}) {
    CHECK_THROWS(plan(shapes), std::invalid_argument);
  }
  CHECK_THROWS(plan({1, 2, 16, 32, 4}, 0), std::invalid_argument);
  CHECK_THROWS(plan({1, 2, 16, 32, 4}, kMaxCudaFlowHorizon + 1), std::invalid_argument);
  CHECK_THROWS(plan({1, 2, 16, 32, 4}, 5, -1), std::invalid_argument);
  CHECK_THROWS(plan({1, 2, 16, 32, 4}, 5, 1 << 20), std::invalid_argument);
  CudaFlowWeights incomplete = weights;
  incomplete.final.bias = nullptr;
  CHECK_THROWS(CudaFlowPlan(problem.size.shapes, {}, incomplete, 5), std::invalid_argument);
}

CASE("the CUDA flow refuses arguments that it cannot use") {
  if (no_device()) return;
  const Problem problem({{1, 2, 16, 32, 4}, 5, 9, 9, 1, 4}, {}, 15);
  CudaFlowPlan plan = problem.plan();
  const DeviceArray<float> numbers(problem.noise.host);
  const DeviceArray<int> tokens(std::vector<int>{9});
  const CudaFlowContext context = {problem.keys.device->get(), problem.values.device->get(), 9, tokens.get()};
  const CudaFlowSchedule schedule = {1, ModulationType::bfloat16, problem.modulation.device->get(),
                                     problem.final_modulation.device->get()};
  const CudaFlowSample sample = {5, 4, numbers.get(), numbers.get(), nullptr, nullptr, nullptr};
  const auto expect = [&](CudaFlowStatus expected, auto change) {
    CudaFlowContext changed_context = context;
    CudaFlowSchedule changed_schedule = schedule;
    CudaFlowSample changed_sample = sample;
    change(changed_context, changed_schedule, changed_sample);
    CHECK_EQ(plan.run_persistent(changed_context, changed_schedule, changed_sample, nullptr), expected);
    CHECK_EQ(plan.run_launches(changed_context, changed_schedule, changed_sample, nullptr), expected);
  };
  expect(CudaFlowStatus::ok, [](auto&, auto&, auto&) {});
  expect(CudaFlowStatus::bad_horizon, [](auto&, auto&, auto& s) { s.horizon = 0; });
  expect(CudaFlowStatus::bad_horizon, [](auto&, auto&, auto& s) { s.horizon = 6; });
  expect(CudaFlowStatus::bad_context, [](auto& c, auto&, auto&) { c.keys = nullptr; });
  expect(CudaFlowStatus::bad_context, [](auto& c, auto&, auto&) { c.values = nullptr; });
  expect(CudaFlowStatus::bad_context, [](auto& c, auto&, auto&) { c.tokens = nullptr; });
  expect(CudaFlowStatus::bad_context, [](auto& c, auto&, auto&) { c.capacity = 0; });
  expect(CudaFlowStatus::bad_context,
         [&](auto& c, auto&, auto&) { c.keys = problem.keys.device->get() + 1; });
  expect(CudaFlowStatus::bad_schedule, [](auto&, auto& s, auto&) { s.steps = 0; });
  expect(CudaFlowStatus::bad_schedule, [](auto&, auto& s, auto&) { s.steps = kMaxFlowSteps + 1; });
  expect(CudaFlowStatus::bad_schedule, [](auto&, auto& s, auto&) { s.blocks = nullptr; });
  expect(CudaFlowStatus::bad_schedule, [](auto&, auto& s, auto&) { s.final = nullptr; });
  expect(CudaFlowStatus::bad_columns, [](auto&, auto&, auto& s) { s.valid_columns = -1; });
  expect(CudaFlowStatus::bad_columns, [](auto&, auto&, auto& s) { s.valid_columns = 5; });
  expect(CudaFlowStatus::bad_sample, [](auto&, auto&, auto& s) { s.noise = nullptr; });
  expect(CudaFlowStatus::bad_sample, [](auto&, auto&, auto& s) { s.chunk = nullptr; });
  expect(CudaFlowStatus::bad_guide, [](auto&, auto&, auto& s) { s.guide = s.noise; });
  expect(CudaFlowStatus::bad_guide, [](auto&, auto&, auto& s) { s.guide_weight = s.noise; });
}

}  // namespace
}  // namespace molmoact2::kernels
