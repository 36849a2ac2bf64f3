#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/device/device_memory.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/flow/flow_cuda.h"
#include "kernels/flow/flow_kernels.cuh"
#include "kernels/flow/flow_pack_cuda.cuh"
#include "kernels/flow/flow_shares.h"

namespace molmoact2::kernels {
namespace flow {
namespace {

// Calls use(row tiles as a constant) with enough of them for T + 1 rows.
template <class Use>
auto with_row_tiles(int horizon, const Use& use) {
  const int rows = horizon + 1;
  if (rows <= kRowTile) return use(std::integral_constant<int, 1>{});
  if (rows <= 2 * kRowTile) return use(std::integral_constant<int, 2>{});
  return use(std::integral_constant<int, kMaxRows / kRowTile>{});
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  require_success(cudaGetDevice(&device));
  require_success(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

void check(const FlowShapes& shapes, const CudaFlowWeights& weights, int max_horizon) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("the CUDA flow needs ") + what);
  };
  require(shapes.layers >= 1 && shapes.layers <= kMaxFlowLayers, "between 1 and 1024 blocks");
  require(shapes.heads >= 1 && shapes.heads <= kMaxCudaFlowWidth, "at least one head");
  require(shapes.head_dim >= 2 && shapes.head_dim % 2 == 0 && shapes.head_dim <= kMaxCudaFlowHead,
          "an even head size between 2 and 128");
  require(shapes.heads * ((shapes.head_dim + kDepthTile - 1) / kDepthTile * kDepthTile) <= kMaxCudaFlowWidth,
          "heads whose sizes, rounded up to 16, add up to at most 768");
  require(shapes.inner >= 1 && shapes.inner <= kMaxFlowWidth, "an inner width between 1 and 65536");
  require(shapes.action_dim >= 1 && shapes.action_dim <= kMaxCudaFlowColumns,
          "between 1 and 64 action columns");
  require(max_horizon >= 1 && max_horizon <= kMaxCudaFlowHorizon, "a horizon between 1 and 79");
  require(weights.blocks.size() == static_cast<std::size_t>(shapes.layers), "as many blocks as layers");
  const auto is_there = [](const CudaLinearView& linear) {
    return linear.weight != nullptr && linear.bias != nullptr;
  };
  bool complete = is_there(weights.action_embed) && is_there(weights.final);
  for (const CudaFlowBlockWeights& block : weights.blocks) {
    for (const CudaLinearView& linear :
         {block.qkv, block.self_out, block.query, block.cross_out, block.up_gate, block.down}) {
      complete = complete && is_there(linear);
    }
  }
  require(complete, "every weight and bias");
}

std::vector<float2> rope_table(int head_dim) {
  constexpr double kBase = 10000.0;
  const int half = head_dim / 2;
  std::vector<float2> table;
  table.reserve(static_cast<std::size_t>(kMaxRows * half));
  for (int position = 0; position < kMaxRows; ++position) {
    for (int j = 0; j < half; ++j) {
      const double angle = position / std::pow(kBase, static_cast<double>(j) / half);
      table.push_back(make_float2(static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))));
    }
  }
  return table;
}

}  // namespace
}  // namespace flow

const char* describe(CudaFlowStatus status) {
  switch (status) {
    case CudaFlowStatus::ok:
      return "ok";
    case CudaFlowStatus::bad_horizon:
      return "the horizon must be between 1 and the plan's max_horizon";
    case CudaFlowStatus::bad_context:
      return "the context needs keys, values and a count of tokens on the device, aligned to 16 bytes, with "
             "room for at least one token";
    case CudaFlowStatus::bad_schedule:
      return "the schedule needs modulation vectors for between 1 and 65536 steps";
    case CudaFlowStatus::bad_columns:
      return "valid_columns must be between 0 and the number of action columns";
    case CudaFlowStatus::bad_sample:
      return "noise and chunk must not be null";
    case CudaFlowStatus::bad_guide:
      return "a guide needs weights, and weights need a guide";
    case CudaFlowStatus::cuda_failed:
      return "CUDA refused to launch the flow";
  }
  return "unknown status";
}

class CudaFlowPlan::State {
 public:
  State(const FlowShapes& shapes, const FlowOptions& options, const CudaFlowWeights& weights, int max_horizon,
        int blocks)
      : shapes_(shapes), max_horizon_(max_horizon) {
    const int multiprocessors = flow::device_attribute(cudaDevAttrMultiProcessorCount);
    if (blocks < 0 || blocks > multiprocessors) {
      throw std::invalid_argument("the CUDA flow runs on 1 to " + std::to_string(multiprocessors) +
                                  " blocks here, got " + std::to_string(blocks));
    }
    blocks_ = blocks == 0 ? multiprocessors : blocks;
    shared_bytes_ = static_cast<std::size_t>(flow::device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    run_.geometry = flow::geometry_of(shapes, options, blocks_);
    require_room();
    pack(weights);
    reserve();
  }

  const FlowShapes& shapes() const { return shapes_; }
  int max_horizon() const { return max_horizon_; }
  int blocks() const { return blocks_; }
  std::size_t device_bytes() const { return memory_.bytes(); }

  CudaFlowStatus run_persistent(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                                const CudaFlowSample& sample, cudaStream_t stream) const {
    const CudaFlowStatus status = check(context, schedule, sample);
    if (status != CudaFlowStatus::ok) return status;
    flow::Run run = run_of(context, schedule, sample);
    const std::size_t shared_bytes = divide_shared(run);
    if (forget(stream) != cudaSuccess) return CudaFlowStatus::cuda_failed;
    const cudaError_t launched = flow::with_row_tiles(sample.horizon, [&](auto row_tiles) {
      return launch(shape(shared_bytes, stream, /*cooperative=*/true, /*overlap_previous=*/false),
                    &flow::flow_kernel<row_tiles.value>, run);
    });
    return launched == cudaSuccess ? CudaFlowStatus::ok : CudaFlowStatus::cuda_failed;
  }

  CudaFlowStatus run_launches(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                              const CudaFlowSample& sample, cudaStream_t stream) const {
    const CudaFlowStatus status = check(context, schedule, sample);
    if (status != CudaFlowStatus::ok) return status;
    flow::Run run = run_of(context, schedule, sample);
    const std::size_t shared_bytes = divide_shared(run);
    cudaError_t launched = forget(stream);
    flow::with_row_tiles(sample.horizon, [&](auto row_tiles) {
      flow::Position at = {0, 0};
      flow::Phase phase = flow::Phase::embed;
      bool follows_phase = false;
      while (launched == cudaSuccess && at.step < schedule.steps) {
        launched = launch(shape(shared_bytes, stream, /*cooperative=*/false, follows_phase),
                          &flow::flow_phase_kernel<row_tiles.value>, run, phase, at);
        follows_phase = true;
        flow::advance_phase(phase, at, shapes_.layers);
      }
    });
    return launched == cudaSuccess ? CudaFlowStatus::ok : CudaFlowStatus::cuda_failed;
  }

 private:
  LaunchShape shape(std::size_t shared_bytes, cudaStream_t stream, bool cooperative,
                    bool overlap_previous) const {
    return {dim3(static_cast<unsigned>(blocks_)),
            dim3(flow::kThreads),
            shared_bytes,
            stream,
            cooperative,
            overlap_previous};
  }

  CudaFlowStatus check(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                       const CudaFlowSample& sample) const {
    const auto is_aligned = [](const void* pointer) {
      return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(uint4) == 0;
    };
    if (sample.horizon < 1 || sample.horizon > max_horizon_) return CudaFlowStatus::bad_horizon;
    if (context.keys == nullptr || context.values == nullptr || context.tokens == nullptr ||
        context.capacity < 1 || context.capacity > kMaxFlowTokens || !is_aligned(context.keys) ||
        !is_aligned(context.values)) {
      return CudaFlowStatus::bad_context;
    }
    if (schedule.blocks == nullptr || schedule.final == nullptr || schedule.steps < 1 ||
        schedule.steps > kMaxFlowSteps) {
      return CudaFlowStatus::bad_schedule;
    }
    if (sample.valid_columns < 0 || sample.valid_columns > shapes_.action_dim) {
      return CudaFlowStatus::bad_columns;
    }
    if (sample.noise == nullptr || sample.chunk == nullptr) return CudaFlowStatus::bad_sample;
    if ((sample.guide == nullptr) != (sample.guide_weight == nullptr)) return CudaFlowStatus::bad_guide;
    return CudaFlowStatus::ok;
  }

  flow::Run run_of(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                   const CudaFlowSample& sample) const {
    flow::Run run = run_;
    run.context = context;
    run.schedule = schedule;
    run.sample = sample;
    return run;
  }

  // Everything handed over counts as of no round.
  cudaError_t forget(cudaStream_t stream) const {
    return cudaMemsetAsync(handed_, 0, handed_words_ * sizeof(std::uint32_t), stream);
  }

  std::size_t scratch_bytes(int horizon, int together) const {
    const int row_tiles =
        flow::with_row_tiles(horizon, [](auto tiles) { return static_cast<int>(tiles.value); });
    const auto products =
        static_cast<std::size_t>(together * flow::kWarps * row_tiles * flow::kTilePairs) * sizeof(float2);
    const auto actions = static_cast<std::size_t>(horizon * shapes_.action_dim) * sizeof(float);
    return std::max({products, actions,
                     flow::AttentionMemory::bytes(row_tiles * flow::kRowTile, run_.geometry.padded_head)});
  }

  // Sets the ring and the number of tiles finished together to what fits; returns the bytes for it. Tiles
  // come first up to two, then the ring, then more tiles.
  std::size_t divide_shared(flow::Run& run) const {
    const auto total = [&](int ring_units, int together) {
      return flow::kBlockMemoryBytes + flow::ring_bytes(run.geometry, ring_units) +
             scratch_bytes(run.sample.horizon, together);
    };
    const int least = std::min(2, most_together_);
    run.ring_units = flow::kShortRing;
    for (const int ring_units : {flow::kMiddleRing, flow::kLongRing}) {
      if (total(ring_units, least) <= shared_bytes_) run.ring_units = ring_units;
    }
    run.together = 1;
    while (run.together < most_together_ && total(run.ring_units, run.together + 1) <= shared_bytes_)
      ++run.together;
    return total(run.ring_units, run.together);
  }

  void require_room() const {
    const std::size_t least = flow::kBlockMemoryBytes + flow::ring_bytes(run_.geometry, flow::kShortRing) +
                              scratch_bytes(max_horizon_, 1);
    if (least > shared_bytes_) {
      throw std::invalid_argument("the CUDA flow needs " + std::to_string(least) +
                                  " bytes of shared memory for these shapes, the device has " +
                                  std::to_string(shared_bytes_));
    }
    flow::with_row_tiles(max_horizon_, [&](auto row_tiles) {
      int resident = 0;
      require_success(allow_shared_bytes(&flow::flow_kernel<row_tiles.value>, least));
      require_success(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &resident, &flow::flow_kernel<row_tiles.value>, flow::kThreads, least));
      if (resident < 1 || flow::device_attribute(cudaDevAttrCooperativeLaunch) == 0) {
        throw std::invalid_argument("the CUDA flow needs a device that runs all of its blocks at once");
      }
    });
  }

  void pack(const CudaFlowWeights& weights) {
    flow::Geometry& g = run_.geometry;
    const std::vector<flow::BlockShares> shares = flow::deal_out(g, blocks_);
    std::int64_t units = 0;
    for (const flow::BlockShares& block : shares) {
      units += static_cast<std::int64_t>(g.layers) * block.layer_units + block.of[flow::final].count;
      for (const flow::Share& share : block.of) most_together_ = std::max(most_together_, share.count);
    }
    most_together_ = std::min(most_together_, flow::kMaxTogether);
    const int padded_width = g.width_tiles * flow::kColumnTile;
    shares_ = memory_.copy(shares);
    weights_ = memory_.allocate<uint4>(static_cast<std::size_t>(units * g.slots) * flow::kThreads);
    biases_ = memory_.allocate<float>(
        static_cast<std::size_t>(g.bias_offset[flow::final] + g.final_tiles * flow::kColumnTile));
    const auto embed = memory_.allocate<float>(static_cast<std::size_t>(g.action_dim * padded_width));
    const auto embed_bias = memory_.allocate<float>(static_cast<std::size_t>(padded_width));
    run_.rope = memory_.copy(flow::rope_table(g.head_dim));
    run_.weights = weights_;
    run_.shares = shares_;
    run_.biases = biases_;
    run_.embed = embed;
    run_.embed_bias = embed_bias;

    require_success(cudaDeviceSynchronize());  // whoever made the weights may have used another stream
    const auto width = flow::AxisMap::plain(g.width);
    const auto inner = flow::AxisMap::plain(g.inner);
    const auto heads = flow::AxisMap::heads(g.head_dim, g.padded_head, g.heads);
    const auto three_heads = flow::AxisMap::heads(g.head_dim, g.padded_head, 3 * g.heads);
    for (int layer = 0; layer < g.layers; ++layer) {
      const CudaFlowBlockWeights& block = weights.blocks[static_cast<std::size_t>(layer)];
      pack_product(block.qkv, flow::qkv, layer, g.width, three_heads, width);
      pack_product(block.self_out, flow::self_out, layer, g.width, width, heads);
      pack_product(block.query, flow::query, layer, g.width, heads, width);
      pack_product(block.cross_out, flow::cross_out, layer, g.width, width, heads);
      pack_product(block.up_gate, flow::up_gate, layer, g.width, flow::AxisMap::alternating(g.inner), width);
      pack_product(block.down, flow::down, layer, g.inner, width, inner);
    }
    pack_product(weights.final, flow::final, g.layers, g.width, flow::AxisMap::plain(g.action_dim), width);
    pack_bias(weights.action_embed.bias, width, padded_width, embed_bias);
    require_success(launch(packing_shape(), &flow::pack_embed_kernel,
                           static_cast<const std::uint16_t*>(weights.action_embed.weight), g.width,
                           g.action_dim, padded_width, embed));
    require_success(cudaDeviceSynchronize());
  }

  LaunchShape packing_shape() const { return shape(0, nullptr, false, false); }

  void pack_product(const CudaLinearView& linear, flow::Product product, int layer, int columns,
                    const flow::AxisMap& row_map, const flow::AxisMap& column_map) const {
    const flow::Geometry& g = run_.geometry;
    const int tiles = flow::column_tiles(g, product);
    const flow::MatrixSource source = {static_cast<const std::uint16_t*>(linear.weight), columns, row_map,
                                       column_map};
    require_success(launch(packing_shape(), &flow::pack_product_kernel, source, product, layer, tiles,
                           g.slots, shares_, weights_));
    const int first = product == flow::final ? 0 : layer * g.layer_biases;
    pack_bias(linear.bias, row_map, tiles * flow::kColumnTile, biases_ + first + g.bias_offset[product]);
  }

  void pack_bias(const void* bias, const flow::AxisMap& map, int count, float* packed) const {
    require_success(launch(packing_shape(), &flow::pack_bias_kernel, static_cast<const std::uint16_t*>(bias),
                           map, count, packed));
  }

  // The workspace, for max_horizon.
  void reserve() {
    const flow::Geometry& g = run_.geometry;
    const auto size = [](int count) { return static_cast<std::size_t>(count); };
    const int row_tiles =
        flow::with_row_tiles(max_horizon_, [](auto tiles) { return static_cast<int>(tiles.value); });
    const std::size_t rows = size(row_tiles * flow::kRowTile);
    const std::size_t width = size(g.width_tiles * flow::kColumnTile);
    const std::size_t heads = size(g.head_tiles * flow::kColumnTile);
    const std::size_t inner = size(g.inner_tiles * flow::kColumnTile);

    struct Area {
      std::uint32_t** words;
      std::size_t count;
    };
    flow::Handed& handed = run_.handed;
    std::vector<Area> areas = {
        {&handed.x, rows * size(g.action_dim)},
        {&handed.qkv, rows * 3 * heads / 2},
        {&handed.self_attended, rows * heads / 2},
        {&handed.query, rows * heads / 2},
        {&handed.partial, size(g.chunks) * rows * heads},
        {&handed.partial_stats, size(g.chunks * g.heads) * rows * 2},
        {&handed.cross_attended, rows * heads / 2},
        {&handed.inner, rows * inner / 2},
        {&handed.down, size(g.splits) * rows * width},
    };
    for (int norm = 0; norm < flow::norm_count; ++norm) {
      areas.push_back({&handed.normed[norm], rows * width / 2});
      areas.push_back({&handed.squares[norm], rows * size(g.width_tiles)});
    }
    constexpr std::size_t kLineWords = 32;  // areas start on lines of their own
    for (Area& area : areas) {
      area.count = (area.count + kLineWords - 1) / kLineWords * kLineWords;
      handed_words_ += area.count;
    }
    handed_ = memory_.allocate<std::uint32_t>(handed_words_);
    std::uint32_t* next = handed_;
    for (const Area& area : areas) {
      *area.words = next;
      next += area.count;
    }
    run_.residual = memory_.allocate<float2>(rows * width / 2);
    run_.x = memory_.allocate<float>(rows * size(g.action_dim));
  }

  const FlowShapes shapes_;
  const int max_horizon_;
  int blocks_ = 0;
  std::size_t shared_bytes_ = 0;  // that a block can have
  int most_together_ = 1;
  DeviceMemory memory_;
  flow::BlockShares* shares_ = nullptr;
  uint4* weights_ = nullptr;
  float* biases_ = nullptr;
  std::uint32_t* handed_ = nullptr;
  std::size_t handed_words_ = 0;
  flow::Run run_{};
};

CudaFlowPlan::CudaFlowPlan(const FlowShapes& shapes, const FlowOptions& options,
                           const CudaFlowWeights& weights, int max_horizon, int blocks) {
  flow::check(shapes, weights, max_horizon);
  state_ = std::make_unique<State>(shapes, options, weights, max_horizon, blocks);
}

CudaFlowPlan::~CudaFlowPlan() = default;

const FlowShapes& CudaFlowPlan::shapes() const { return state_->shapes(); }

int CudaFlowPlan::max_horizon() const { return state_->max_horizon(); }

int CudaFlowPlan::blocks() const { return state_->blocks(); }

std::size_t CudaFlowPlan::device_bytes() const { return state_->device_bytes(); }

CudaFlowStatus CudaFlowPlan::run_persistent(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                                            const CudaFlowSample& sample, CUstream_st* stream) {
  return state_->run_persistent(context, schedule, sample, stream);
}

CudaFlowStatus CudaFlowPlan::run_launches(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                                          const CudaFlowSample& sample, CUstream_st* stream) {
  return state_->run_launches(context, schedule, sample, stream);
}

}  // namespace molmoact2::kernels
