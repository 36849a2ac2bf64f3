#include <algorithm>
#include <cmath>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/context/context.h"
#include "kernels/context/context_ops.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_team.h"

namespace molmoact2::kernels {
namespace {

constexpr float kLayerNormEps = 1e-6F;
// Tokens that pass a strip of weights together, in panels: enough to amortize reading it from memory, and few
// enough to stay in a second-level cache of half a megabyte.
constexpr int kPanelsPerBlock = 4;
// Below this many multiplications the team takes longer to meet than to work.
constexpr std::int64_t kProductsWorthSharing = 1 << 21;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

const ContextOps& checked_ops(CpuIsa isa) {
  require(std::ranges::count(available_isas(), isa) == 1, "this processor lacks the instruction set");
  return *context_ops(isa);
}

void check(const ContextShapes& shapes, const ContextWeights& weights, int threads) {
  require(shapes.layers >= 1 && shapes.layers <= kMaxContextLayers, "layers must be 1 to 1024");
  require(shapes.heads >= 1 && shapes.head_dim >= 1 && shapes.heads <= kMaxContextWidth / shapes.head_dim,
          "heads and head_dim must be at least 1, their product at most 65536");
  require(shapes.kv_width >= 1 && shapes.kv_width <= kMaxContextWidth, "kv_width must be 1 to 65536");
  require(shapes.gates == 0 || shapes.gates == 1 || shapes.gates == shapes.layers,
          "there must be no gate, one, or one per layer");
  require(weights.key != nullptr && weights.value != nullptr, "both projections must be given");
  require(shapes.gates == 0 || (weights.gate_weight != nullptr && weights.gate_bias != nullptr),
          "the weights of the gates must be given");
  require(threads >= 1, "threads must be at least 1");
}

std::size_t area(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

// (width, depth) row-major as strips of `strip` features, each (depth, strip).
AlignedBuffer pack_strips(const float* weight, int width, int depth, int strip) {
  const int strips = (width + strip - 1) / strip;
  AlignedBuffer packed(area(strips * strip, depth));
  for (int feature = 0; feature < width; ++feature) {
    float* to = packed.data() + area(feature / strip * strip, depth) + feature % strip;
    for (int k = 0; k < depth; ++k, to += strip) *to = *weight++;
  }
  return packed;
}

float inverse_rms(float squares, int count, float eps) {
  return 1.0F / std::sqrt(squares / static_cast<float>(count) + eps);
}

}  // namespace

const char* describe(ContextStatus status) {
  switch (status) {
    case ContextStatus::ok:
      return "done";
    case ContextStatus::bad_shape:
      return "a size is outside its bounds, or too wide for the device's kernel";
    case ContextStatus::bad_tokens:
      return "the cache must hold 0 to 1048576 tokens";
    case ContextStatus::bad_capacity:
      return "the output has room for fewer tokens than may be valid";
    case ContextStatus::missing:
      return "a pointer is null where there is something to read or write";
    case ContextStatus::no_memory:
      return "not enough memory for the workspace";
    case ContextStatus::cuda_failed:
      return "a CUDA kernel could not be launched";
  }
  return "unknown status";
}

const ContextOps* context_ops(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return &context_ops_portable();
#if defined(__x86_64__)
    case CpuIsa::avx2:
      return &context_ops_avx2();
    case CpuIsa::avx512:
      return &context_ops_avx512();
#elif defined(__aarch64__)
    case CpuIsa::neon:
      return &context_ops_neon();
#endif
    default:
      return nullptr;
  }
}

int valid_tokens(std::span<const std::uint8_t> valid) {
  return static_cast<int>(std::ranges::count_if(valid, [](std::uint8_t flag) { return flag != 0; }));
}

class CpuContextPlan::Projection {
 public:
  Projection(const ContextShapes& shapes, const ContextOptions& options, const ContextWeights& weights,
             int threads, const ContextOps& ops)
      : shapes_(shapes),
        options_(options),
        ops_(ops),
        strip_count_((shapes.width() + ops.strip - 1) / ops.strip),
        key_(pack_strips(weights.key, shapes.width(), shapes.kv_width, ops.strip)),
        value_(pack_strips(weights.value, shapes.width(), shapes.kv_width, ops.strip)),
        team_(threads),
        private_(static_cast<std::size_t>(threads)) {
    if (shapes.gates > 0) {
      gate_weight_.assign(weights.gate_weight, weights.gate_weight + area(shapes.gates, shapes.kv_width));
      gate_bias_.assign(weights.gate_bias, weights.gate_bias + shapes.gates);
    }
    const int block_tokens = kPanelsPerBlock * ops.panel_rows;
    for (Private& own : private_) {
      own.rows.resize(static_cast<std::size_t>(block_tokens));
      own.panels.reserve(area(block_tokens, shapes.kv_width));
      own.projected.reserve(area(block_tokens, strip_count_ * ops.strip));
      own.mean.resize(static_cast<std::size_t>(shapes.gates > 0 ? shapes.kv_width : 0));
    }
  }

  const ContextShapes& shapes() const { return shapes_; }
  int threads() const { return team_.size(); }
  CpuIsa isa() const { return ops_.isa; }

  ContextStatus run(const ContextInput& input, const ContextOutput& output) {
    if (input.tokens < 0 || input.tokens > kMaxContextTokens) return ContextStatus::bad_tokens;
    if (input.tokens == 0) return ContextStatus::ok;
    if (input.valid == nullptr || input.keys.data == nullptr || input.values.data == nullptr ||
        (shapes_.gates > 0 && input.depth == nullptr)) {
      return ContextStatus::missing;
    }
    const std::scoped_lock turn(mutex_);
    try {
      choose_tokens(input);
    } catch (const std::bad_alloc&) {
      return ContextStatus::no_memory;
    }
    const auto count = static_cast<int>(tokens_.size());
    if (count > output.capacity) return ContextStatus::bad_capacity;
    if (count == 0) return ContextStatus::ok;
    if (output.keys == nullptr || output.values == nullptr) return ContextStatus::missing;

    const int block_tokens = kPanelsPerBlock * ops_.panel_rows;
    const int blocks = (count + block_tokens - 1) / block_tokens;
    const int pieces = 2 * shapes_.layers * blocks;
    const auto piece = [&](int index, Private& own) {
      const int side = index / blocks;
      const int first = index % blocks * block_tokens;
      project(input, output, side / 2, side % 2 == 0, first, std::min(block_tokens, count - first), own);
    };
    const std::int64_t products = static_cast<std::int64_t>(2) * shapes_.layers * count * shapes_.width() *
                                  static_cast<std::int64_t>(shapes_.kv_width);
    if (products < kProductsWorthSharing) {
      for (int gate = 0; gated_ && gate < shapes_.gates; ++gate) compute_gain(input, gate, private_[0]);
      for (int index = 0; index < pieces; ++index) piece(index, private_[0]);
      return ContextStatus::ok;
    }
    team_.run([&](int member) {
      Private& own = private_[static_cast<std::size_t>(member)];
      if (gated_) team_.for_each(shapes_.gates, [&](int gate) { compute_gain(input, gate, own); });
      team_.for_each(pieces, [&](int index) { piece(index, own); });
    });
    return ContextStatus::ok;
  }

 private:
  // What one thread alone reads and writes.
  struct Private {
    std::vector<const float*> rows;
    AlignedBuffer panels;
    AlignedBuffer projected;
    std::vector<double> mean;
  };

  void choose_tokens(const ContextInput& input) {
    tokens_.clear();
    pooled_.clear();
    gated_ = false;
    gains_.assign(static_cast<std::size_t>(shapes_.gates), 1.0F);
    for (int token = 0; token < input.tokens; ++token) {
      if (input.valid[token] == 0) continue;
      const bool depth = shapes_.gates > 0 && input.depth[token] != 0;
      gated_ = gated_ || depth;
      tokens_.push_back({token, depth});
      if (!depth) pooled_.push_back(token);
    }
    if (pooled_.empty()) {
      for (const Token& token : tokens_) pooled_.push_back(token.index);
    }
  }

  void compute_gain(const ContextInput& input, int gate, Private& own) {
    const int layer = shapes_.gates == 1 ? shapes_.layers - 1 : gate;
    const float* const values = input.values.data + layer * input.values.layer_stride;
    const auto width = static_cast<std::size_t>(shapes_.kv_width);
    std::ranges::fill(own.mean, 0.0);
    for (const int token : pooled_) {
      const float* const value = values + token * input.values.token_stride;
      for (std::size_t i = 0; i < width; ++i) own.mean[i] += static_cast<double>(value[i]);
    }
    const float* const weight = gate_weight_.data() + static_cast<std::size_t>(gate) * width;
    double score = 0.0;
    for (std::size_t i = 0; i < width; ++i) score += own.mean[i] * static_cast<double>(weight[i]);
    score = score / static_cast<double>(pooled_.size()) +
            static_cast<double>(gate_bias_[static_cast<std::size_t>(gate)]);
    gains_[static_cast<std::size_t>(gate)] = static_cast<float>(1.0 / (1.0 + std::exp(-score)));
  }

  // Tokens first..first+count of one layer's keys or values.
  void project(const ContextInput& input, const ContextOutput& output, int layer, bool keys, int first,
               int count, Private& own) {
    const CacheView& cache = keys ? input.keys : input.values;
    const Token* const tokens = tokens_.data() + first;
    for (int i = 0; i < count; ++i) {
      own.rows[static_cast<std::size_t>(i)] =
          cache.data + layer * cache.layer_stride + tokens[i].index * cache.token_stride;
    }
    ops_.project({own.rows.data(), count, shapes_.kv_width, (keys ? key_ : value_).data(), strip_count_,
                  own.panels.data(), own.projected.data()});
    const float gain = shapes_.gates == 0 ? 1.0F : gains_[static_cast<std::size_t>(layer % shapes_.gates)];
    const std::size_t head_size = area(output.capacity, shapes_.head_dim);
    float* const to = (keys ? output.keys : output.values) +
                      static_cast<std::size_t>(layer) * static_cast<std::size_t>(shapes_.heads) * head_size +
                      area(first, shapes_.head_dim);
    for (int i = 0; i < count; ++i) {
      finish(own.projected.data() + area(i, strip_count_ * ops_.strip), tokens[i].depth ? gain : 1.0F, keys,
             to + area(i, shapes_.head_dim), head_size);
    }
  }

  // Both norms are one factor per head; `row` is what the projection gave.
  void finish(const float* row, float gain, bool keys, float* to, std::size_t head_size) const {
    float factor = gain;
    if (options_.layer_norm) {
      factor *= inverse_rms(gain * gain * ops_.sum_of_squares(row, shapes_.width()), shapes_.width(),
                            kLayerNormEps);
    }
    for (int head = 0; head < shapes_.heads; ++head) {
      float scale = factor;
      if (keys && options_.qk_norm) {
        scale *= inverse_rms(factor * factor * ops_.sum_of_squares(row, shapes_.head_dim), shapes_.head_dim,
                             options_.qk_norm_eps);
      }
      ops_.scaled_copy(row, shapes_.head_dim, scale, to);
      row += shapes_.head_dim;
      to += head_size;
    }
  }

  struct Token {
    int index;
    bool depth;
  };

  ContextShapes shapes_;
  ContextOptions options_;
  const ContextOps& ops_;
  int strip_count_;
  AlignedBuffer key_;
  AlignedBuffer value_;
  std::vector<float> gate_weight_;
  std::vector<float> gate_bias_;
  ThreadTeam team_;
  std::vector<Private> private_;
  std::mutex mutex_;

  // Of the observation at hand.
  std::vector<Token> tokens_;  // the valid ones, in order
  std::vector<int> pooled_;    // those that the gates' mean runs over
  std::vector<float> gains_;
  bool gated_ = false;
};

CpuContextPlan::CpuContextPlan(const ContextShapes& shapes, const ContextOptions& options,
                               const ContextWeights& weights, int threads, CpuIsa isa) {
  check(shapes, weights, threads);
  projection_ = std::make_unique<Projection>(shapes, options, weights, threads, checked_ops(isa));
}

CpuContextPlan::~CpuContextPlan() = default;

const ContextShapes& CpuContextPlan::shapes() const { return projection_->shapes(); }
int CpuContextPlan::threads() const { return projection_->threads(); }
CpuIsa CpuContextPlan::isa() const { return projection_->isa(); }

ContextStatus CpuContextPlan::run(const ContextInput& input, const ContextOutput& output) {
  return projection_->run(input, output);
}

}  // namespace molmoact2::kernels
