#include <algorithm>
#include <cmath>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/flow/flow.h"
#include "kernels/flow/flow_ops.h"
#include "kernels/flow/flow_pack.h"

namespace molmoact2::kernels {
namespace {

constexpr double kRopeBase = 10'000.0;
// A thread claims panels of about this many floats at a time: long enough to stream, short enough to share.
constexpr int kPieceSize = 1 << 15;
// Below this many weights a phase takes a few microseconds, as long as two threads take to meet after it.
constexpr std::int64_t kWeightsWorthSharing = 1 << 14;

std::size_t area(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

struct PackedBlock {
  OwnedMatrix qkv, self_out, query, cross_out, up_gate, down;
};

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

void check(const FlowShapes& shapes, const FlowOptions& options, const FlowWeights& weights, int threads) {
  require(shapes.layers >= 1 && shapes.layers <= kMaxFlowLayers, "layers must be 1 to 1024");
  require(shapes.heads >= 1 && shapes.head_dim >= 1 && shapes.heads <= kMaxFlowWidth / shapes.head_dim,
          "heads and head_dim must be at least 1, their product at most 65536");
  require(shapes.inner >= 1 && shapes.inner <= kMaxFlowWidth, "inner must be 1 to 65536");
  require(shapes.action_dim >= 1 && shapes.action_dim <= kMaxFlowWidth, "action_dim must be 1 to 65536");
  require(!options.rope || shapes.head_dim % 2 == 0, "rope needs an even head_dim");
  require(threads >= 1, "threads must be at least 1");
  require(std::cmp_equal(weights.blocks.size(), shapes.layers),
          "there must be one block of weights per layer");
  const auto given = [](const LinearView& view) { return view.weight != nullptr && view.bias != nullptr; };
  bool all = given(weights.action_embed) && given(weights.final);
  for (const FlowBlockWeights& block : weights.blocks) {
    for (const LinearView& view :
         {block.qkv, block.self_out, block.query, block.cross_out, block.up_gate, block.down}) {
      all = all && given(view);
    }
  }
  require(all, "every weight and bias must be given");
}

const FlowOps& checked_ops(CpuIsa isa) {
  require(std::ranges::count(available_isas(), isa) == 1, "this processor lacks the instruction set");
  return *flow_ops(isa);
}

}  // namespace

const char* describe(FlowStatus status) {
  switch (status) {
    case FlowStatus::ok:
      return "done";
    case FlowStatus::bad_horizon:
      return "the horizon must be 1 to 4096 steps";
    case FlowStatus::bad_context:
      return "the context must hold 1 to 1048576 tokens";
    case FlowStatus::bad_schedule:
      return "there must be 1 to 65536 flow steps";
    case FlowStatus::bad_columns:
      return "valid_columns must be 0 to the number of action columns";
    case FlowStatus::bad_guide:
      return "a guide needs weights, and weights need a guide";
    case FlowStatus::no_memory:
      return "not enough memory for the workspace of this horizon and context";
  }
  return "unknown status";
}

const FlowOps* flow_ops(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return &flow_ops_portable();
#if defined(__x86_64__)
    case CpuIsa::avx2:
      return &flow_ops_avx2();
    case CpuIsa::avx512:
      return &flow_ops_avx512();
#elif defined(__aarch64__)
    case CpuIsa::neon:
      return &flow_ops_neon();
#endif
    default:
      return nullptr;
  }
}

int useful_flow_threads(const FlowShapes& shapes, int available) {
  const std::int64_t width = shapes.width();
  const std::int64_t block = 6 * width * width + 3 * width * shapes.inner;
  constexpr std::int64_t kPhases = 8;
  return block / kPhases < kWeightsWorthSharing ? 1 : std::max(available, 1);
}

class CpuFlowPlan::Loop {
 public:
  Loop(const FlowShapes& shapes, const FlowOptions& options, const FlowWeights& weights, int threads,
       const FlowOps& ops)
      : shapes_(shapes),
        options_(options),
        ops_(ops),
        format_{ops.panel_rows, ops.row_step},
        head_{shapes.head_dim, options.qk_norm, options.qk_norm_eps,
              1.0F / std::sqrt(static_cast<float>(shapes.head_dim))},
        action_embed_(OwnedMatrix::linear(format_, weights.action_embed, shapes.width(), shapes.action_dim)),
        final_(OwnedMatrix::linear(format_, weights.final, shapes.action_dim, shapes.width())),
        team_(threads),
        private_(static_cast<std::size_t>(threads)) {
    const int width = shapes.width();
    blocks_.reserve(weights.blocks.size());
    for (const FlowBlockWeights& block : weights.blocks) {
      blocks_.push_back({OwnedMatrix::linear(format_, block.qkv, 3 * width, width),
                         OwnedMatrix::linear(format_, block.self_out, width, width),
                         OwnedMatrix::linear(format_, block.query, width, width),
                         OwnedMatrix::linear(format_, block.cross_out, width, width),
                         OwnedMatrix::up_gate(format_, block.up_gate, shapes.inner, width),
                         OwnedMatrix::linear(format_, block.down, width, shapes.inner)});
    }
  }

  const FlowShapes& shapes() const { return shapes_; }
  int threads() const { return team_.size(); }
  CpuIsa isa() const { return ops_.isa; }

  FlowStatus run(const FlowContext& context, const FlowSchedule& schedule, const FlowSample& sample) {
    if (sample.horizon < 1 || sample.horizon > kMaxFlowHorizon) return FlowStatus::bad_horizon;
    if (context.tokens < 1 || context.tokens > kMaxFlowTokens || context.keys.data == nullptr ||
        context.values.data == nullptr) {
      return FlowStatus::bad_context;
    }
    if (schedule.steps < 1 || schedule.steps > kMaxFlowSteps || schedule.blocks == nullptr ||
        schedule.final == nullptr) {
      return FlowStatus::bad_schedule;
    }
    if (sample.valid_columns < 0 || sample.valid_columns > shapes_.action_dim) return FlowStatus::bad_columns;
    if ((sample.guide == nullptr) != (sample.guide_weight == nullptr)) return FlowStatus::bad_guide;
    const std::scoped_lock turn(mutex_);
    try {
      prepare(sample.horizon, context.tokens);
    } catch (const std::bad_alloc&) {
      horizon_ = 0;
      return FlowStatus::no_memory;
    }
    load_noise(sample);
    team_.run([&](int member) {
      integrate(context, schedule, sample, private_[static_cast<std::size_t>(member)]);
    });
    store_chunk(sample);
    return FlowStatus::ok;
  }

 private:
  // What one thread alone reads and writes.
  struct Private {
    AlignedBuffer normed;  // (E, columns)
    AlignedBuffer query, key, values, scores, inverse;

    AttentionScratch attention() {
      return {query.data(), key.data(), values.data(), scores.data(), inverse.data()};
    }
  };

  // Workspace for this horizon and context; tables depend on the horizon.
  void prepare(int horizon, int tokens) {
    const int width = shapes_.width();
    const int columns = (horizon + ops_.lanes - 1) / ops_.lanes * ops_.lanes;
    const std::size_t layers_heads = area(shapes_.layers, shapes_.heads);
    keys_.reserve(layers_heads * format_.size(tokens, shapes_.head_dim));
    values_.reserve(layers_heads * format_.size(shapes_.head_dim, tokens));
    x_.reserve(area(shapes_.action_dim, columns));
    velocity_.reserve(area(shapes_.action_dim, columns));
    h_.reserve(area(width, columns));
    wide_.reserve(area(std::max(3 * width, shapes_.inner), columns));
    attended_.reserve(area(width, columns));
    for (Private& own : private_) {
      own.normed.reserve(area(width, columns));
      own.query.reserve(area(shapes_.head_dim, columns));
      own.key.reserve(area(shapes_.head_dim, columns));
      own.values.reserve(area(format_.padded(shapes_.head_dim), columns));
      own.scores.reserve(area(std::max(tokens, horizon), columns));
      own.inverse.reserve(static_cast<std::size_t>(columns));
    }
    if (horizon != horizon_) {
      columns_ = columns;
      make_rotation(horizon);
      make_causal_bias(horizon);
      horizon_ = horizon;
    }
  }

  void make_rotation(int horizon) {
    if (!options_.rope) return;
    const int half = shapes_.head_dim / 2;
    cos_.reserve(area(half, columns_));
    sin_.reserve(area(half, columns_));
    for (int j = 0; j < half; ++j) {
      // In float32 as far as the angle, like the public model; the angles of a chunk are small.
      const float exponent = static_cast<float>(2 * j) / static_cast<float>(shapes_.head_dim);
      const auto frequency = static_cast<float>(1.0 / std::pow(kRopeBase, static_cast<double>(exponent)));
      for (int t = 0; t < columns_; ++t) {
        const double angle = t < horizon ? static_cast<double>(static_cast<float>(t) * frequency) : 0.0;
        cos_.data()[area(j, columns_) + static_cast<std::size_t>(t)] = static_cast<float>(std::cos(angle));
        sin_.data()[area(j, columns_) + static_cast<std::size_t>(t)] = static_cast<float>(std::sin(angle));
      }
    }
  }

  // Row: the key's step; column: the query's.
  void make_causal_bias(int horizon) {
    if (!options_.causal) return;
    causal_bias_.reserve(area(horizon, columns_));
    for (int key = 0; key < horizon; ++key) {
      float* const row = causal_bias_.data() + area(key, columns_);
      for (int query = 0; query < columns_; ++query) row[query] = key <= query ? 0.0F : -INFINITY;
    }
  }

  void load_noise(const FlowSample& sample) {
    for (int a = 0; a < shapes_.action_dim; ++a) {
      float* const row = x_.data() + area(a, columns_);
      std::fill(row, row + columns_, 0.0F);
      if (a >= sample.valid_columns) continue;
      for (int t = 0; t < sample.horizon; ++t) {
        row[t] = sample.noise[area(t, shapes_.action_dim) + static_cast<std::size_t>(a)];
      }
    }
  }

  void store_chunk(const FlowSample& sample) const {
    for (int t = 0; t < sample.horizon; ++t) {
      for (int a = 0; a < shapes_.action_dim; ++a) {
        sample.chunk[area(t, shapes_.action_dim) + static_cast<std::size_t>(a)] =
            x_.data()[area(a, columns_) + static_cast<std::size_t>(t)];
      }
    }
  }

  // What every thread does, in step with the others.
  void integrate(const FlowContext& context, const FlowSchedule& schedule, const FlowSample& sample,
                 Private& own) {
    pack_context(context);
    const auto width = static_cast<std::size_t>(shapes_.width());
    for (int step = 0; step < schedule.steps; ++step) {
      linear(action_embed_, x_.data(), h_.data());
      for (int layer = 0; layer < shapes_.layers; ++layer) {
        const float* const modulation =
            schedule.blocks +
            (area(step, shapes_.layers) + static_cast<std::size_t>(layer)) * kFlowModulations * width;
        run_block(layer, modulation, context.tokens, own);
      }
      finish_step(step, schedule, sample, own);
    }
  }

  void pack_context(const FlowContext& context) {
    const std::size_t key_size = format_.size(context.tokens, shapes_.head_dim);
    const std::size_t value_size = format_.size(shapes_.head_dim, context.tokens);
    team_.for_each(shapes_.layers * shapes_.heads, [&](int i) {
      const auto at = [&](const FlowContextView& view) {
        return view.data + i / shapes_.heads * view.layer_stride + i % shapes_.heads * view.head_stride;
      };
      const auto index = static_cast<std::size_t>(i);
      pack_panels(format_, at(context.keys), context.keys.token_stride, 1, context.tokens, shapes_.head_dim,
                  keys_.data() + index * key_size);
      pack_panels(format_, at(context.values), 1, context.values.token_stride, shapes_.head_dim,
                  context.tokens, values_.data() + index * value_size);
    });
  }

  void run_block(int layer, const float* modulation, int tokens, Private& own) {
    const PackedBlock& block = blocks_[static_cast<std::size_t>(layer)];
    const auto vector = [&](int index) { return modulation + area(index, shapes_.width()); };

    norm(vector(0), vector(1), own);
    linear(block.qkv, own.normed.data(), wide_.data());
    const SelfAttention self = {head_,
                                shapes_.heads,
                                horizon_,
                                columns_,
                                wide_.data(),
                                options_.rope ? cos_.data() : nullptr,
                                options_.rope ? sin_.data() : nullptr,
                                options_.causal ? causal_bias_.data() : nullptr,
                                attended_.data()};
    team_.for_each(shapes_.heads, [&](int head) { ops_.self_attention(self, head, own.attention()); });
    linear_add_gated(block.self_out, attended_.data(), vector(2));

    norm(vector(3), vector(4), own);
    linear(block.query, own.normed.data(), wide_.data());
    const std::size_t key_size = format_.size(tokens, shapes_.head_dim);
    const std::size_t value_size = format_.size(shapes_.head_dim, tokens);
    team_.for_each(shapes_.heads, [&](int head) {
      const std::size_t index = area(layer, shapes_.heads) + static_cast<std::size_t>(head);
      const CrossAttention cross = {head_,
                                    tokens,
                                    columns_,
                                    wide_.data(),
                                    keys_.data() + index * key_size,
                                    values_.data() + index * value_size,
                                    attended_.data()};
      ops_.cross_attention(cross, head, own.attention());
    });
    linear_add_gated(block.cross_out, attended_.data(), vector(5));

    norm(vector(6), vector(7), own);
    for_each_panel(block.up_gate, [&](const PackedMatrix& matrix, int panel) {
      ops_.linear_silu_gated(matrix, own.normed.data(), columns_, panel, wide_.data());
    });
    linear_add_gated(block.down, wide_.data(), vector(8));
  }

  void finish_step(int step, const FlowSchedule& schedule, const FlowSample& sample, Private& own) {
    const float* const modulation = schedule.final + area(2 * step, shapes_.width());
    norm(modulation, modulation + shapes_.width(), own);
    for_each_panel(final_, [&](const PackedMatrix& matrix, int panel) {
      ops_.linear(matrix, own.normed.data(), columns_, panel, velocity_.data());
      const int first = panel * format_.panel_rows;
      for (int a = first; a < std::min(first + format_.panel_rows, shapes_.action_dim); ++a) {
        advance(a, step, schedule.steps, sample);
      }
    });
  }

  // x += v / N in one column of actions, and a copy of v for whoever wants it.
  void advance(int a, int step, int steps, const FlowSample& sample) {
    float* const v = velocity_.data() + area(a, columns_);
    float* const x = x_.data() + area(a, columns_);
    if (sample.velocities != nullptr) {
      for (int t = 0; t < sample.horizon; ++t) {
        const std::size_t row = area(step, sample.horizon) + static_cast<std::size_t>(t);
        sample.velocities[row * static_cast<std::size_t>(shapes_.action_dim) + static_cast<std::size_t>(a)] =
            v[t];
      }
    }
    if (a >= sample.valid_columns) return;  // still zero from the start
    if (sample.guide != nullptr) pull_to_guide(a, step, steps, sample);
    const float length = 1.0F / static_cast<float>(steps);
    for (int t = 0; t < columns_; ++t) x[t] += v[t] * length;
  }

  void pull_to_guide(int a, int step, int steps, const FlowSample& sample) {
    float* const v = velocity_.data() + area(a, columns_);
    const float* const x = x_.data() + area(a, columns_);
    const float inverse_of_rest =
        static_cast<float>(steps) / static_cast<float>(steps - step);  // 1 / (1 - t)
    for (int t = 0; t < sample.horizon; ++t) {
      const float weight = sample.guide_weight[t];
      if (weight == 0.0F) continue;
      const float goal = sample.guide[area(t, shapes_.action_dim) + static_cast<std::size_t>(a)];
      v[t] += weight * ((goal - x[t]) * inverse_of_rest - v[t]);
    }
  }

  // Every thread computes all of it for itself: cheaper than sharing it and meeting once more.
  void norm(const float* shift, const float* one_plus_scale, Private& own) const {
    ops_.norm_modulate(h_.data(), shapes_.width(), columns_, shift, one_plus_scale, own.normed.data());
  }

  void linear(const OwnedMatrix& weights, const float* x, float* y) {
    for_each_panel(
        weights, [&](const PackedMatrix& matrix, int panel) { ops_.linear(matrix, x, columns_, panel, y); });
  }

  void linear_add_gated(const OwnedMatrix& weights, const float* x, const float* gate) {
    for_each_panel(weights, [&](const PackedMatrix& matrix, int panel) {
      ops_.linear_add_gated(matrix, x, columns_, panel, gate, h_.data());
    });
  }

  template <typename Product>
  void for_each_panel(const OwnedMatrix& weights, const Product& product) {
    const PackedMatrix matrix = weights.view();
    const int panels = format_.panels(matrix.rows);
    const int together = std::max(1, kPieceSize / (matrix.depth * format_.panel_rows));
    team_.for_each((panels + together - 1) / together, [&](int piece) {
      const int last = std::min((piece + 1) * together, panels);
      for (int panel = piece * together; panel < last; ++panel) product(matrix, panel);
    });
  }

  const FlowShapes shapes_;
  const FlowOptions options_;
  const FlowOps& ops_;
  const PanelFormat format_;
  const HeadOptions head_;
  const OwnedMatrix action_embed_;
  const OwnedMatrix final_;
  std::vector<PackedBlock> blocks_;

  std::mutex mutex_;
  ThreadTeam team_;
  int horizon_ = 0;  // that the tables are for
  int columns_ = 0;  // the horizon in whole vectors
  AlignedBuffer keys_, values_;
  AlignedBuffer cos_, sin_;     // (D / 2, columns)
  AlignedBuffer causal_bias_;   // (T, columns)
  AlignedBuffer x_, velocity_;  // (A, columns)
  AlignedBuffer h_, attended_;  // (E, columns)
  AlignedBuffer wide_;          // (3E or I, columns): q, k, v; q alone; the MLP's inside
  std::vector<Private> private_;
};

CpuFlowPlan::CpuFlowPlan(const FlowShapes& shapes, const FlowOptions& options, const FlowWeights& weights,
                         int threads, CpuIsa isa) {
  check(shapes, options, weights, threads);
  loop_ = std::make_unique<Loop>(shapes, options, weights, threads, checked_ops(isa));
}

CpuFlowPlan::~CpuFlowPlan() = default;

const FlowShapes& CpuFlowPlan::shapes() const { return loop_->shapes(); }

int CpuFlowPlan::threads() const { return loop_->threads(); }

CpuIsa CpuFlowPlan::isa() const { return loop_->isa(); }

FlowStatus CpuFlowPlan::run(const FlowContext& context, const FlowSchedule& schedule,
                            const FlowSample& sample) {
  return loop_->run(context, schedule, sample);
}

}  // namespace molmoact2::kernels
