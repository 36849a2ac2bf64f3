#include "kernels/flow/flow.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernels/flow/flow_ops.h"

namespace molmoact2::kernels {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

struct Size {
  FlowShapes shapes;
  int horizon = 1;
  int tokens = 1;
  int steps = 1;
  int valid_columns = 1;
};

std::size_t at(int row, int columns, int column) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column);
}

struct Matrix {
  int rows;
  int columns;
  Floats weight;
  Floats bias;

  LinearView view() const { return {weight.data(), bias.data()}; }
};

struct Block {
  Matrix qkv, self_out, query, cross_out, up_gate, down;
};

// Random weights, context and noise, and the plain computation of the flow in double precision.
class Problem {
 public:
  Problem(const Size& size, const FlowOptions& options, unsigned seed)
      : size_(size), options_(options), generator_(seed) {
    const auto [layers, heads, head_dim, inner, action_dim] = size.shapes;
    const int width = size.shapes.width();
    action_embed_ = matrix(width, action_dim);
    final_ = matrix(action_dim, width);
    for (int layer = 0; layer < layers; ++layer) {
      blocks_.push_back({matrix(3 * width, width), matrix(width, width), matrix(width, width),
                         matrix(width, width), matrix(2 * inner, width), matrix(width, inner)});
    }
    for (const Block& b : blocks_) {
      views_.push_back({b.qkv.view(), b.self_out.view(), b.query.view(), b.cross_out.view(), b.up_gate.view(),
                        b.down.view()});
    }
    keys = normal(layers * heads * size.tokens * head_dim, 1.0F);
    values = normal(layers * heads * size.tokens * head_dim, 1.0F);
    modulation_ = normal(size.steps * layers * kFlowModulations * width, 0.5F);
    final_modulation_ = normal(size.steps * 2 * width, 0.5F);
    noise = normal(size.horizon * action_dim, 1.0F);
  }

  FlowWeights weights() const { return {action_embed_.view(), final_.view(), views_}; }

  FlowContext context() const {
    const int head = size_.tokens * size_.shapes.head_dim;
    const int layer = size_.shapes.heads * head;
    const auto view = [&](const Floats& data) {
      return FlowContextView{data.data(), layer, head, size_.shapes.head_dim};
    };
    return {size_.tokens, view(keys), view(values)};
  }

  FlowSchedule schedule() const { return {size_.steps, modulation_.data(), final_modulation_.data()}; }

  struct Result {
    FlowStatus status;
    Floats chunk;
    Floats velocities;
  };

  Result run(CpuFlowPlan& plan) const {
    const int cells = size_.horizon * size_.shapes.action_dim;
    Result result{FlowStatus::ok, Floats(static_cast<std::size_t>(cells)),
                  Floats(static_cast<std::size_t>(cells * size_.steps))};
    result.status = plan.run(
        context(), schedule(),
        {size_.horizon, size_.valid_columns, noise.data(), result.chunk.data(), result.velocities.data(),
         guide.empty() ? nullptr : guide.data(), guide.empty() ? nullptr : guide_weight.data()});
    return result;
  }

  Result run(int threads, CpuIsa isa) const {
    CpuFlowPlan plan(size_.shapes, options_, weights(), threads, isa);
    return run(plan);
  }

  // A guide for later runs: random actions, weights from 1 down to 0 over the horizon, `frozen` rows of 1.
  void add_guide(int frozen) {
    guide = normal(size_.horizon * size_.shapes.action_dim, 1.0F);
    guide_weight.resize(static_cast<std::size_t>(size_.horizon));
    for (int t = 0; t < size_.horizon; ++t) {
      const float left = static_cast<float>(size_.horizon - t) / static_cast<float>(size_.horizon);
      const float soft = 2 * t > size_.horizon ? 0.0F : left * left;
      guide_weight[at(t, 1, 0)] = t < frozen ? 1.0F : soft;
    }
  }

  // (steps, T, A)
  Doubles plain_velocities() const { return plain().velocities; }

  struct Plain {
    Doubles chunk;       // (T, A)
    Doubles velocities;  // (steps, T, A)
  };

  Plain plain() const {
    Doubles x(noise.begin(), noise.end());
    Doubles all;
    const int columns = size_.shapes.action_dim;
    const int width = size_.shapes.width();
    clear_padding(x);
    for (int step = 0; step < size_.steps; ++step) {
      Doubles h = linear(action_embed_, x, size_.horizon);
      for (int layer = 0; layer < size_.shapes.layers; ++layer) {
        const float* const m =
            modulation_.data() + at(step * size_.shapes.layers + layer, kFlowModulations * width, 0);
        block(layer, m, h);
      }
      const float* const m = final_modulation_.data() + at(2 * step, width, 0);
      Doubles v = linear(final_, modulated(h, m, m + width), size_.horizon);
      all.insert(all.end(), v.begin(), v.end());
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (!guide.empty()) {
          const auto weight = static_cast<double>(guide_weight[i / static_cast<std::size_t>(columns)]);
          const double time = static_cast<double>(step) / size_.steps;
          v[i] += weight * ((static_cast<double>(guide[i]) - x[i]) / (1 - time) - v[i]);
        }
        x[i] += v[i] / size_.steps;
      }
      clear_padding(x);
    }
    return {x, all};
  }

  Floats keys, values, noise;
  Floats guide, guide_weight;  // empty without in-painting

 private:
  Floats normal(int count, float scale) {
    std::normal_distribution<float> distribution(0.0F, scale);
    Floats numbers(static_cast<std::size_t>(count));
    for (float& number : numbers) number = distribution(generator_);
    return numbers;
  }

  Matrix matrix(int rows, int columns) {
    const float scale = 0.7F / std::sqrt(static_cast<float>(columns));
    return {rows, columns, normal(rows * columns, scale), normal(rows, 0.3F)};
  }

  void clear_padding(Doubles& x) const {
    for (int t = 0; t < size_.horizon; ++t) {
      for (int a = size_.valid_columns; a < size_.shapes.action_dim; ++a) {
        x[at(t, size_.shapes.action_dim, a)] = 0;
      }
    }
  }

  static Doubles linear(const Matrix& m, const Doubles& x, int count) {
    Doubles y(at(count, m.rows, 0));
    for (int t = 0; t < count; ++t) {
      for (int r = 0; r < m.rows; ++r) {
        double sum = m.bias[at(r, 1, 0)];
        for (int k = 0; k < m.columns; ++k) {
          sum += static_cast<double>(m.weight[at(r, m.columns, k)]) * x[at(t, m.columns, k)];
        }
        y[at(t, m.rows, r)] = sum;
      }
    }
    return y;
  }

  Doubles modulated(const Doubles& h, const float* shift, const float* one_plus_scale) const {
    const int width = size_.shapes.width();
    Doubles y(h.size());
    for (int t = 0; t < size_.horizon; ++t) {
      double squares = 0;
      for (int e = 0; e < width; ++e) squares += h[at(t, width, e)] * h[at(t, width, e)];
      const double rms = std::sqrt(squares / width + 1e-6);
      for (int e = 0; e < width; ++e) {
        y[at(t, width, e)] =
            h[at(t, width, e)] / rms * static_cast<double>(one_plus_scale[e]) + static_cast<double>(shift[e]);
      }
    }
    return y;
  }

  void head_norm(double* head) const {
    if (!options_.qk_norm) return;
    double squares = 0;
    for (int d = 0; d < size_.shapes.head_dim; ++d) squares += head[d] * head[d];
    const double rms = std::sqrt(squares / size_.shapes.head_dim + static_cast<double>(options_.qk_norm_eps));
    for (int d = 0; d < size_.shapes.head_dim; ++d) head[d] /= rms;
  }

  void rotate(double* head, int position) const {
    if (!options_.rope) return;
    const int half = size_.shapes.head_dim / 2;
    for (int j = 0; j < half; ++j) {
      const double angle = position / std::pow(10000.0, static_cast<double>(j) / half);
      const double first = head[j];
      const double second = head[j + half];
      head[j] = first * std::cos(angle) - second * std::sin(angle);
      head[j + half] = second * std::cos(angle) + first * std::sin(angle);
    }
  }

  // One query over `count` keys; key(s) and value(s) give their first element.
  template <typename Key, typename Value>
  void attend(const double* query, int count, const Key& key, const Value& value, double* out) const {
    const int d = size_.shapes.head_dim;
    Doubles weights(static_cast<std::size_t>(count));
    double sum = 0;
    double maximum = -std::numeric_limits<double>::infinity();
    for (int s = 0; s < count; ++s) {
      double score = 0;
      for (int i = 0; i < d; ++i) score += query[i] * static_cast<double>(key(s)[i]);
      weights[at(s, 1, 0)] = score / std::sqrt(d);
      maximum = std::max(maximum, weights[at(s, 1, 0)]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - maximum);
    std::fill(out, out + d, 0.0);
    for (int s = 0; s < count; ++s) {
      for (int i = 0; i < d; ++i) out[i] += weights[at(s, 1, 0)] / sum * static_cast<double>(value(s)[i]);
    }
  }

  void add_gated(const Matrix& m, const Doubles& x, const float* gate, Doubles& h) const {
    const int width = size_.shapes.width();
    const Doubles y = linear(m, x, size_.horizon);
    for (int t = 0; t < size_.horizon; ++t) {
      for (int e = 0; e < width; ++e) {
        h[at(t, width, e)] += static_cast<double>(gate[e]) * y[at(t, width, e)];
      }
    }
  }

  void block(int layer, const float* m, Doubles& h) const {
    const Block& b = blocks_[at(layer, 1, 0)];
    const auto [layers, heads, d, inner, action_dim] = size_.shapes;
    const int width = size_.shapes.width();
    const int horizon = size_.horizon;

    Doubles qkv = linear(b.qkv, modulated(h, m, m + width), horizon);
    Doubles attended(at(horizon, width, 0));
    for (int t = 0; t < horizon; ++t) {
      for (int head = 0; head < 2 * heads; ++head) {
        head_norm(&qkv[at(t, 3 * width, head * d)]);
        rotate(&qkv[at(t, 3 * width, head * d)], t);
      }
    }
    for (int t = 0; t < horizon; ++t) {
      for (int head = 0; head < heads; ++head) {
        attend(
            &qkv[at(t, 3 * width, head * d)], options_.causal ? t + 1 : horizon,
            [&](int s) { return &qkv[at(s, 3 * width, width + head * d)]; },
            [&](int s) { return &qkv[at(s, 3 * width, 2 * width + head * d)]; },
            &attended[at(t, width, head * d)]);
      }
    }
    add_gated(b.self_out, attended, m + 2 * width, h);

    Doubles query = linear(b.query, modulated(h, m + 3 * width, m + 4 * width), horizon);
    for (int t = 0; t < horizon; ++t) {
      for (int head = 0; head < heads; ++head) {
        head_norm(&query[at(t, width, head * d)]);
        const int first = (layer * heads + head) * size_.tokens;
        attend(
            &query[at(t, width, head * d)], size_.tokens, [&](int s) { return &keys[at(first + s, d, 0)]; },
            [&](int s) { return &values[at(first + s, d, 0)]; }, &attended[at(t, width, head * d)]);
      }
    }
    add_gated(b.cross_out, attended, m + 5 * width, h);

    const Doubles both = linear(b.up_gate, modulated(h, m + 6 * width, m + 7 * width), horizon);
    Doubles inside(at(horizon, inner, 0));
    for (int t = 0; t < horizon; ++t) {
      for (int i = 0; i < inner; ++i) {
        const double gate = both[at(t, 2 * inner, inner + i)];
        inside[at(t, inner, i)] = gate / (1 + std::exp(-gate)) * both[at(t, 2 * inner, i)];
      }
    }
    add_gated(b.down, inside, m + 8 * width, h);
    static_cast<void>(layers);
    static_cast<void>(action_dim);
  }

  Size size_;
  FlowOptions options_;
  std::mt19937 generator_;
  Matrix action_embed_, final_;
  std::vector<Block> blocks_;
  std::vector<FlowBlockWeights> views_;
  Floats modulation_, final_modulation_;
};

double largest_difference(const Floats& found, const Doubles& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
    // A NaN must not pass as the smaller number.
    largest = difference <= largest ? largest : difference;
    if (std::isnan(difference)) return difference;
  }
  return largest;
}

// {layers, heads, head_dim, inner, action_dim}, horizon, tokens, steps, valid columns.
const Size kSizes[] = {
    {{1, 1, 2, 1, 1}, 1, 1, 1, 1},        {{1, 1, 6, 5, 3}, 1, 5, 2, 2},
    {{4, 4, 10, 160, 8}, 12, 40, 10, 6},  {{2, 4, 10, 160, 8}, 7, 1, 3, 8},
    {{2, 3, 32, 64, 32}, 30, 131, 2, 6},  {{3, 4, 10, 37, 3}, 30, 5, 4, 3},
    {{1, 3, 32, 130, 32}, 33, 131, 1, 0}, {{1, 2, 14, 47, 8}, 50, 13, 2, 7},
    {{1, 5, 8, 12, 3}, 16, 24, 1, 3},
};
// float32 against double through up to forty blocks; velocities are of the order of one. Measured below 1e-5.
constexpr double kTolerance = 5e-5;

CASE("flow equals the plain loops on every size, with every instruction set") {
  unsigned seed = 1;
  for (const Size& size : kSizes) {
    const Problem problem(size, {}, seed++);
    const Doubles expected = problem.plain_velocities();
    for (const CpuIsa isa : available_isas()) {
      const auto result = problem.run(1, isa);
      CHECK_EQ(static_cast<int>(result.status), static_cast<int>(FlowStatus::ok));
      CHECK(largest_difference(result.velocities, expected) < kTolerance);
    }
  }
}

CASE("flow computes every option") {
  const Size size = {{2, 4, 10, 40, 8}, 13, 21, 3, 6};
  for (int bits = 0; bits < 8; ++bits) {
    const FlowOptions options = {(bits & 1) != 0, 1e-5F, (bits & 2) != 0, (bits & 4) != 0};
    const Problem problem(size, options, 100U + static_cast<unsigned>(bits));
    const Doubles expected = problem.plain_velocities();
    for (const CpuIsa isa : available_isas()) {
      CHECK(largest_difference(problem.run(1, isa).velocities, expected) < kTolerance);
    }
  }
}

CASE("flow gives the same bits for every number of threads") {
  for (const Size& size : {kSizes[2], kSizes[4]}) {
    const Problem problem(size, {}, 7);
    for (const CpuIsa isa : available_isas()) {
      const auto alone = problem.run(1, isa);
      for (const int threads : {2, 3}) {
        const auto shared = problem.run(threads, isa);
        CHECK(shared.chunk == alone.chunk);
        CHECK(shared.velocities == alone.velocities);
      }
    }
  }
}

CASE("flow keeps padding columns at zero and reports their velocity") {
  const Size size = kSizes[2];
  const Problem problem(size, {}, 8);
  const auto result = problem.run(1, fastest_isa());
  bool moved = false;
  for (int t = 0; t < size.horizon; ++t) {
    for (int a = size.valid_columns; a < size.shapes.action_dim; ++a) {
      CHECK_EQ(result.chunk[at(t, size.shapes.action_dim, a)], 0.0F);
      moved = moved || result.velocities[at(t, size.shapes.action_dim, a)] != 0.0F;
    }
  }
  CHECK(moved);
}

CASE("flow in-paints around a guide as the plain loops do, with every instruction set") {
  unsigned seed = 200;
  for (const Size& size : kSizes) {
    for (const int frozen : {0, 1, size.horizon / 3, size.horizon}) {
      Problem problem(size, {}, seed++);
      problem.add_guide(frozen);
      const auto expected = problem.plain();
      for (const CpuIsa isa : available_isas()) {
        const auto result = problem.run(2, isa);
        CHECK_EQ(static_cast<int>(result.status), static_cast<int>(FlowStatus::ok));
        CHECK(largest_difference(result.velocities, expected.velocities) < kTolerance);
        CHECK(largest_difference(result.chunk, expected.chunk) < kTolerance);
      }
    }
  }
}

CASE("frozen rows land on the guide, padding columns stay zero, rows without weight are not read") {
  const Size size = kSizes[2];
  Problem problem(size, {}, 20);
  problem.add_guide(9);
  const auto before = problem.run(1, fastest_isa());
  const int columns = size.shapes.action_dim;
  for (int t = 0; t < size.horizon; ++t) {
    for (int a = 0; a < columns; ++a) {
      const float found = before.chunk[at(t, columns, a)];
      if (a >= size.valid_columns) {
        CHECK_EQ(found, 0.0F);
      } else if (t < 9) {
        CHECK(std::abs(found - problem.guide[at(t, columns, a)]) < 2e-6F);
      }
      if (problem.guide_weight[at(t, 1, 0)] == 0.0F || a >= size.valid_columns) {
        problem.guide[at(t, columns, a)] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  CHECK(problem.run(1, fastest_isa()).chunk == before.chunk);

  problem.guide_weight.assign(problem.guide_weight.size(), 0.0F);
  const auto unguided = problem.run(1, fastest_isa());
  problem.guide.clear();
  CHECK(problem.run(1, fastest_isa()).chunk == unguided.chunk);
}

CASE("a plan serves any sequence of horizons and contexts") {
  const FlowShapes shapes = {2, 4, 10, 48, 8};
  const Size sizes[] = {
      {shapes, 30, 131, 2, 6}, {shapes, 7, 1, 1, 8}, {shapes, 12, 300, 3, 8}, {shapes, 30, 5, 2, 0}};
  for (const FlowOptions& options : {FlowOptions{}, FlowOptions{true, 1e-6F, true, true}}) {
    // The same seed gives the same weights, which are drawn first.
    const Problem first(sizes[0], options, 9);
    CpuFlowPlan plan(shapes, options, first.weights(), 2, fastest_isa());
    for (int round = 0; round < 2; ++round) {
      for (const Size& size : sizes) {
        const Problem problem(size, options, 9);
        CHECK(problem.run(plan).velocities == problem.run(1, fastest_isa()).velocities);
      }
    }
  }
}

CASE("flow reads a strided context, and may write the chunk over the noise") {
  const Size size = {{2, 3, 6, 20, 4}, 5, 9, 2, 4};
  const Problem problem(size, {}, 10);
  // (tokens, layers, heads, head_dim), as a cache of tokens would have it.
  const auto transposed = [&](const Floats& dense) {
    Floats moved(dense.size());
    for (int lh = 0; lh < 6; ++lh) {
      for (int s = 0; s < 9; ++s) {
        std::copy_n(&dense[at(lh * 9 + s, 6, 0)], 6, &moved[at(s * 6 + lh, 6, 0)]);
      }
    }
    return moved;
  };
  const Floats keys = transposed(problem.keys);
  const Floats values = transposed(problem.values);
  const auto view = [](const Floats& data) { return FlowContextView{data.data(), 18, 6, 36}; };
  CpuFlowPlan plan(size.shapes, {}, problem.weights(), 1);
  Floats chunk = problem.noise;
  const FlowStatus status =
      plan.run({9, view(keys), view(values)}, problem.schedule(), {5, 4, chunk.data(), chunk.data()});
  CHECK_EQ(static_cast<int>(status), static_cast<int>(FlowStatus::ok));
  CHECK(chunk == problem.run(plan).chunk);
}

CASE("NaN comes out where it is read, and the plan works on") {
  const Size size = {{2, 2, 10, 32, 4}, 9, 17, 2, 4};
  Problem problem(size, {}, 11);
  for (const CpuIsa isa : available_isas()) {
    CpuFlowPlan plan(size.shapes, {}, problem.weights(), 2, isa);
    const auto before = problem.run(plan);
    for (Floats* const input : {&problem.noise, &problem.keys, &problem.values}) {
      const float kept = input->back();
      for (const float poison :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        input->back() = poison;
        const auto result = problem.run(plan);
        CHECK_EQ(static_cast<int>(result.status), static_cast<int>(FlowStatus::ok));
        // Attention over the chunk spreads it to every step.
        CHECK(std::ranges::none_of(result.chunk, [](float v) { return std::isfinite(v); }));
      }
      input->back() = kept;
    }
    CHECK(problem.run(plan).chunk == before.chunk);
  }
}

CASE("callers from several threads take turns") {
  const Problem problem(kSizes[3], {}, 12);
  CpuFlowPlan plan(kSizes[3].shapes, {}, problem.weights(), 2);
  const auto expected = problem.run(plan);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 5; ++i) CHECK(problem.run(plan).chunk == expected.chunk);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

CASE("flow refuses what it cannot compute") {
  const Size size = {{1, 2, 6, 8, 4}, 3, 5, 2, 4};
  const Problem problem(size, {}, 13);
  CpuFlowPlan plan(size.shapes, {}, problem.weights(), 1);
  Floats chunk(12);
  const FlowSample sample = {3, 4, problem.noise.data(), chunk.data()};
  const auto run = [&](FlowContext context, FlowSchedule schedule, const FlowSample& wanted) {
    return plan.run(context, schedule, wanted);
  };
  FlowSample changed = sample;
  changed.horizon = 0;
  CHECK(run(problem.context(), problem.schedule(), changed) == FlowStatus::bad_horizon);
  changed.horizon = kMaxFlowHorizon + 1;
  CHECK(run(problem.context(), problem.schedule(), changed) == FlowStatus::bad_horizon);
  changed = sample;
  changed.valid_columns = 5;
  CHECK(run(problem.context(), problem.schedule(), changed) == FlowStatus::bad_columns);
  changed = sample;
  changed.guide = problem.noise.data();
  CHECK(run(problem.context(), problem.schedule(), changed) == FlowStatus::bad_guide);
  changed.guide = nullptr;
  changed.guide_weight = problem.noise.data();
  CHECK(run(problem.context(), problem.schedule(), changed) == FlowStatus::bad_guide);
  FlowContext context = problem.context();
  context.tokens = 0;
  CHECK(run(context, problem.schedule(), sample) == FlowStatus::bad_context);
  context = problem.context();
  context.values.data = nullptr;
  CHECK(run(context, problem.schedule(), sample) == FlowStatus::bad_context);
  FlowSchedule schedule = problem.schedule();
  schedule.steps = 0;
  CHECK(run(problem.context(), schedule, sample) == FlowStatus::bad_schedule);

  const auto make = [&](FlowShapes shapes, const FlowOptions& options, int threads) {
    CpuFlowPlan(shapes, options, problem.weights(), threads);
  };
  FlowShapes shapes = size.shapes;
  shapes.layers = 2;
  CHECK_THROWS(make(shapes, {}, 1), std::invalid_argument);
  shapes = size.shapes;
  shapes.heads = 4;
  shapes.head_dim = 3;
  CHECK_THROWS(make(shapes, {}, 1), std::invalid_argument);
  CHECK_THROWS(make(size.shapes, {}, 0), std::invalid_argument);
  const FlowWeights missing = {{}, problem.weights().final, problem.weights().blocks};
  CHECK_THROWS(CpuFlowPlan(size.shapes, {}, missing, 1), std::invalid_argument);
}

CASE("small experts stay on one thread, large ones take what there is") {
  CHECK_EQ(useful_flow_threads({4, 4, 10, 160, 8}, 8), 1);
  CHECK_EQ(useful_flow_threads({36, 8, 96, 3072, 32}, 8), 8);
  CHECK_EQ(useful_flow_threads({36, 8, 96, 3072, 32}, 0), 1);
}

CASE("the exponential is exact to 2e-7, zero far below, NaN for NaN") {
  for (const CpuIsa isa : available_isas()) {
    const FlowOps& ops = *flow_ops(isa);
    constexpr int kCount = 1 << 16;
    Floats x(kCount);
    Floats y(kCount);
    for (int i = 0; i < kCount; ++i) x[at(i, 1, 0)] = -86.99F + 174.9F * static_cast<float>(i) / kCount;
    ops.exponential(x.data(), kCount, y.data());
    double largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      largest = std::max(largest, std::abs(static_cast<double>(y[i]) / exact - 1));
    }
    CHECK(largest < 2e-7);

    const float infinity = std::numeric_limits<float>::infinity();
    Floats edges(16, 0.0F);
    edges[1] = -88.0F;
    edges[2] = -infinity;
    edges[3] = std::numeric_limits<float>::quiet_NaN();
    edges[4] = infinity;
    edges[5] = 100.0F;
    Floats found(16);
    ops.exponential(edges.data(), 16, found.data());
    CHECK_EQ(found[0], 1.0F);
    CHECK_EQ(found[1], 0.0F);
    CHECK_EQ(found[2], 0.0F);
    CHECK(std::isnan(found[3]));
    CHECK(found[4] > 1.6e38F);
    CHECK_EQ(found[4], found[5]);
  }
}

}  // namespace
}  // namespace molmoact2::kernels
