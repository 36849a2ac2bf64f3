#include <cuda_runtime.h>

#include "kernels/context/context.h"
#include "kernels/device/bf16.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/ptx.cuh"
#include "kernels/device/shared.cuh"
#include "kernels/device/warp.cuh"

// Three kernels: which tokens are valid; the depth gates' scores; projection and norms. The projection of
// release shapes is 55 GFLOP over 107 MB, so that it is bound by the tensor cores: one block has all E
// columns of its tokens in registers, and nothing but the finished context is written.

namespace molmoact2::kernels {
namespace {

constexpr float kLayerNormEps = 1e-6F;

// Workspace
// -------------------------------------------------------------------------------------------------------

constexpr std::uint32_t kDepthBit = 1U << 31;
constexpr int kPoolTokens = 64;  // rows that one block adds to a gate's score

struct TokenCounts {
  std::int32_t valid;
  std::int32_t depth;      // of the valid ones
  std::int32_t unused[2];  // to 16 bytes
};

// What the kernels leave for one another in device memory.
struct Workspace {
  TokenCounts* counts;
  std::uint32_t* chosen;  // (tokens,): the valid tokens in order, kDepthBit added to depth tokens
  float* scores;          // (gates, pool_blocks(tokens)): parts of weight . sum of values
};

__host__ __device__ int pool_blocks(int tokens) { return (tokens + kPoolTokens - 1) / kPoolTokens; }

std::size_t rounded_to_16(std::size_t bytes) { return (bytes + 15) / 16 * 16; }

Workspace workspace_at(void* memory, int tokens) {
  auto* const bytes = static_cast<unsigned char*>(memory);
  const std::size_t chosen_bytes = rounded_to_16(sizeof(std::uint32_t) * static_cast<std::size_t>(tokens));
  return {reinterpret_cast<TokenCounts*>(bytes),
          reinterpret_cast<std::uint32_t*>(bytes + sizeof(TokenCounts)),
          reinterpret_cast<float*>(bytes + sizeof(TokenCounts) + chosen_bytes)};
}

// Tokens
// ----------------------------------------------------------------------------------------------------------

constexpr int kChooseThreads = 1024;

// One block. Where each valid token goes is the number of valid ones before it.
__global__ void __launch_bounds__(kChooseThreads)
    choose_tokens_kernel(const std::uint8_t* __restrict__ valid, const std::uint8_t* __restrict__ depth,
                         int tokens, Workspace workspace, std::int32_t* __restrict__ count) {
  constexpr int kWarps = kChooseThreads / kWarpLanes;
  __shared__ int valid_in_warp[kWarps];
  __shared__ int scratch[kMaxWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_index();
  const int warp = warp_index();
  int valid_before = 0;  // in earlier rounds
  int depth_tokens = 0;  // seen by this thread
  for (int first = 0; first < tokens; first += kChooseThreads) {
    const int token = first + thread;
    const bool is_valid = token < tokens && valid[token] != 0;
    const bool is_depth = is_valid && depth != nullptr && depth[token] != 0;
    const unsigned lanes = __ballot_sync(kAllLanes, is_valid);
    if (lane == 0) valid_in_warp[warp] = __popc(lanes);
    __syncthreads();
    int here = valid_before;
    for (int earlier = 0; earlier < kWarps; ++earlier) {
      const int in_warp = valid_in_warp[earlier];
      here += earlier < warp ? in_warp : 0;
      valid_before += in_warp;
    }
    if (is_valid) {
      here += __popc(lanes & ((1U << lane) - 1U));
      workspace.chosen[here] = static_cast<std::uint32_t>(token) | (is_depth ? kDepthBit : 0U);
      depth_tokens += is_depth ? 1 : 0;
    }
    __syncthreads();
  }
  depth_tokens = block_sum(depth_tokens, scratch);
  if (thread == 0) {
    workspace.counts->valid = valid_before;
    workspace.counts->depth = depth_tokens;
    *count = valid_before;
  }
}

// Gates
// -----------------------------------------------------------------------------------------------------------

constexpr int kPoolThreads = 128;

// Eight numbers of a row of `width` from `first` on; zeros past its end.
template <bool kAligned>
__device__ __forceinline__ void read_eight(const std::uint16_t* row, int first, int width,
                                           float (&numbers)[kBf16PerLoad]) {
  if constexpr (kAligned) {
    unpack_bf16(load_streaming_16(row + first), numbers);
  } else {
    for (int i = 0; i < kBf16PerLoad; ++i) numbers[i] = first + i < width ? bf16_low(row[first + i]) : 0.0F;
  }
}

// The part of weight . sum of values that kPoolTokens of the chosen tokens give: grid (blocks of tokens,
// gates). A mean's product is the mean of products, so that no vector of sums is ever stored.
template <bool kAligned>
__global__ void __launch_bounds__(kPoolThreads)
    pool_kernel(CacheViewCuda values, int last_layer, int kv_width, const std::uint16_t* __restrict__ weights,
                Workspace workspace) {
  __shared__ const std::uint16_t* rows[kPoolTokens];  // null where a token does not count
  __shared__ float scratch[kMaxWarps];
  const TokenCounts counts = *workspace.counts;
  if (counts.depth == 0) return;  // then nothing is gated
  const bool pool_depth = counts.depth == counts.valid;
  const int gate = static_cast<int>(blockIdx.y);
  const int layer = gridDim.y == 1 ? last_layer : gate;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kPoolTokens) {
    const int at = static_cast<int>(blockIdx.x) * kPoolTokens + thread;
    const std::uint32_t token = at < counts.valid ? workspace.chosen[at] : 0U;
    const bool counted = at < counts.valid && ((token & kDepthBit) != 0) == pool_depth;
    rows[thread] =
        counted ? values.data + layer * values.layer_stride + (token & ~kDepthBit) * values.token_stride
                : nullptr;
  }
  __syncthreads();
  const std::uint16_t* const weight = weights + static_cast<std::ptrdiff_t>(gate) * kv_width;
  float sum = 0.0F;
  for (int first = thread * kBf16PerLoad; first < kv_width; first += kPoolThreads * kBf16PerLoad) {
    float columns[kBf16PerLoad] = {};
#pragma unroll 8
    for (int token = 0; token < kPoolTokens; ++token) {
      float numbers[kBf16PerLoad] = {};
      if (rows[token] != nullptr) read_eight<kAligned>(rows[token], first, kv_width, numbers);
#pragma unroll
      for (int i = 0; i < kBf16PerLoad; ++i) columns[i] += numbers[i];
    }
    float factors[kBf16PerLoad];
    read_eight<kAligned>(weight, first, kv_width, factors);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) sum += columns[i] * factors[i];
  }
  sum = block_sum(sum, scratch);
  if (thread == 0) workspace.scores[gate * gridDim.x + blockIdx.x] = sum;
}

static_assert(kPoolTokens <= kPoolThreads);

struct GateView {
  const std::uint16_t* bias;  // (gates,), null without gates
  int gates;
  int pool_blocks;
};

// Every thread of every block comes to the same bits.
__device__ float gate_gain(const GateView& gates, const Workspace& workspace, int layer) {
  const TokenCounts counts = *workspace.counts;
  if (gates.gates == 0 || counts.depth == 0) return 1.0F;
  const int gate = layer % gates.gates;
  const int pooled = counts.depth == counts.valid ? counts.valid : counts.valid - counts.depth;
  float sum = 0.0F;
  for (int block = 0; block * kPoolTokens < counts.valid; ++block) {
    sum += workspace.scores[gate * gates.pool_blocks + block];
  }
  const float score = sum / static_cast<float>(pooled) + bf16_low(gates.bias[gate]);
  return 1.0F / (1.0F + expf(-score));
}

// Projection
// ------------------------------------------------------------------------------------------------------

// A block takes kBlockTokens tokens of one layer's keys or values and all columns. Its 16 warps stand in two
// rows of eight; a warp has 32 tokens times kTiles tiles of 8 columns.
constexpr int kBlockTokens = 64;
constexpr int kWarpRows = 2;
constexpr int kWarpColumns = 8;
constexpr int kProjectThreads = kWarpRows * kWarpColumns * kWarpLanes;
constexpr int kRowTiles = kBlockTokens / kWarpRows / 16;
constexpr int kDepthStep = 32;  // of the reduction, per stage
constexpr int kStages = 3;
constexpr unsigned kVectorsPerRow = kDepthStep / kBf16PerLoad;
constexpr int kFinishRows = 16;  // rows that are normed together

static_assert(kMaxContextWidthCuda == kWarpColumns * 12 * 8);

template <int kTiles>
constexpr int kColumns = kWarpColumns * kTiles * 8;

template <int kTiles>
constexpr std::size_t kStageBytes = sizeof(std::uint16_t) * kDepthStep * (kBlockTokens + kColumns<kTiles>);

template <int kTiles>
constexpr std::size_t kFinishBytes = sizeof(float) * kFinishRows * (kColumns<kTiles> + 8);

// The stages give way to the rows being normed; the addresses of the tokens' rows stand behind both.
template <int kTiles>
constexpr std::size_t kRowsOffset =
    kStages * kStageBytes<kTiles> > kFinishBytes<kTiles> ? kStages * kStageBytes<kTiles>
                                                         : kFinishBytes<kTiles>;

template <int kTiles>
constexpr std::size_t kProjectBytes = kRowsOffset<kTiles> + sizeof(const std::uint16_t*) * kBlockTokens;

struct Projection {
  CacheViewCuda cache;
  const std::uint16_t* weight;  // (E, kv_width)
  std::uint16_t* to;            // (layers, heads, capacity, head_dim)
  bool head_norm;
};

struct ProjectArguments {
  Projection keys;
  Projection values;
  int kv_width;
  int heads;
  int head_dim;
  int capacity;
  bool layer_norm;
  float head_norm_eps;
  GateView gates;
  Workspace workspace;
};

// Stages hold rows of kDepthStep numbers, four vectors of 16 bytes. Vector v of row r lies in slot
// v ^ (r / 2 % 4): the eight rows that one ldmatrix reads then fall on all banks.
__device__ __forceinline__ unsigned slot_of(unsigned row, unsigned vector) {
  return row * kVectorsPerRow + (vector ^ (row / 2 % kVectorsPerRow));
}

// Starts the copy of one vector of a row of `width` numbers; zeros past its end or where there is no row:
// the address is then `somewhere`, in global memory and not read.
template <bool kAligned>
__device__ __forceinline__ void load_vector(std::uint16_t* shared, const std::uint16_t* row, int first,
                                            int width, const std::uint16_t* somewhere) {
  if constexpr (kAligned) {
    const bool there = row != nullptr && first < width;
    cp_async_16_or_zero(shared, there ? row + first : somewhere, there);
  } else {
    for (int i = 0; i < kBf16PerLoad; ++i) {
      shared[i] = row != nullptr && first + i < width ? row[first + i] : std::uint16_t{0};
    }
  }
}

template <int kTiles, bool kAligned>
class ProjectBlock {
 public:
  __device__ ProjectBlock(const ProjectArguments& arguments, const Projection& projection, int layer,
                          int first, int count)
      : arguments_(arguments),
        projection_(projection),
        layer_(layer),
        first_(first),
        count_(count),
        width_(arguments.heads * arguments.head_dim) {}

  __device__ void run() {
    find_rows();
    multiply();
    finish();
  }

 private:
  static constexpr int kAllColumns = kColumns<kTiles>;
  static constexpr int kRowLength = kAllColumns + 8;  // of the finished rows: shifts the banks by 8

  __device__ static std::uint16_t* stage(int index) {
    return dynamic_shared<std::uint16_t>() + index % kStages * (kStageBytes<kTiles> / sizeof(std::uint16_t));
  }

  // Where each token's row of the cache begins; null past the last token.
  __device__ static const std::uint16_t** token_rows() {
    return reinterpret_cast<const std::uint16_t**>(dynamic_shared<unsigned char>() + kRowsOffset<kTiles>);
  }

  __device__ void find_rows() const {
    const unsigned row = threadIdx.x;
    if (row < kBlockTokens) {
      const int at = first_ + static_cast<int>(row);
      const CacheViewCuda& cache = projection_.cache;
      token_rows()[row] = at < count_
                              ? cache.data + layer_ * cache.layer_stride +
                                    (arguments_.workspace.chosen[at] & ~kDepthBit) * cache.token_stride
                              : nullptr;
    }
    __syncthreads();
  }

  __device__ void load_stage(int index) const {
    std::uint16_t* const to = stage(index);
    const unsigned vector = threadIdx.x % kVectorsPerRow;
    const int depth = index * kDepthStep + static_cast<int>(vector) * kBf16PerLoad;
    unsigned row = threadIdx.x / kVectorsPerRow;
    if (row < kBlockTokens) {
      load_vector<kAligned>(to + slot_of(row, vector) * kBf16PerLoad, token_rows()[row], depth,
                            arguments_.kv_width, arguments_.keys.weight);
    }
    constexpr unsigned kRowsPerRound = kProjectThreads / kVectorsPerRow;
    static_assert(kRowsPerRound >= kBlockTokens);
    std::uint16_t* const weights = to + kBlockTokens * kDepthStep;
    for (; row < kAllColumns; row += kRowsPerRound) {
      const std::uint16_t* const from =
          static_cast<int>(row) < width_
              ? projection_.weight + static_cast<std::ptrdiff_t>(row) * arguments_.kv_width
              : nullptr;
      load_vector<kAligned>(weights + slot_of(row, vector) * kBf16PerLoad, from, depth, arguments_.kv_width,
                            arguments_.keys.weight);
    }
  }

  __device__ void multiply() {
    const int steps = (arguments_.kv_width + kDepthStep - 1) / kDepthStep;
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load_stage(step);
      cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      // Overwrites the stage that all warps have left behind before the barrier.
      if (step + kStages - 1 < steps) load_stage(step + kStages - 1);
      cp_async_commit();
      multiply_stage(stage(step));
    }
    cp_async_wait<0>();
    __syncthreads();
  }

  __device__ __forceinline__ void multiply_stage(const std::uint16_t* tokens) {
    const std::uint16_t* const weights = tokens + kBlockTokens * kDepthStep;
    const unsigned lane = threadIdx.x % kWarpLanes;
#pragma unroll
    for (int half = 0; half < kDepthStep / 16; ++half) {
      std::uint32_t a[kRowTiles][4];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        const unsigned row = first_row() + tile * 16U + lane % 16;
        ldmatrix_x4(a[tile], tokens + slot_of(row, half * 2U + lane / 16) * kBf16PerLoad);
      }
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        // Two tiles of columns: lanes 0-7 and 8-15 name the halves of the first, 16-31 those of the second.
        const unsigned column = first_column() + pair * 16U + lane / 16 * 8 + lane % 8;
        std::uint32_t b[4];
        ldmatrix_x4(b, weights + slot_of(column, half * 2U + lane / 8 % 2) * kBf16PerLoad);
        const std::uint32_t left[2] = {b[0], b[1]};
        const std::uint32_t right[2] = {b[2], b[3]};
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          mma_m16n8k16_bf16(sums_[tile][2 * pair], a[tile], left);
          mma_m16n8k16_bf16(sums_[tile][2 * pair + 1], a[tile], right);
        }
      }
    }
  }

  // Sixteen tokens at a time: their sums to shared memory, where each warp norms a whole token.
  __device__ void finish() {
    float* const rows = dynamic_shared<float>();
    const float gain = gate_gain(arguments_.gates, arguments_.workspace, layer_);
    const unsigned lane = threadIdx.x % kWarpLanes;
#pragma unroll
    for (int group = 0; group < kBlockTokens / kFinishRows; ++group) {
      if (first_ + group * kFinishRows >= count_) break;  // the same in all threads
      if (warp_index() / kWarpColumns == group / kRowTiles) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const float (&sums)[4] = sums_[group % kRowTiles][tile];
          float* const to = rows + lane / 4 * kRowLength + first_column() + tile * 8U + lane % 4 * 2;
          to[0] = sums[0];
          to[1] = sums[1];
          to[8 * kRowLength] = sums[2];
          to[8 * kRowLength + 1] = sums[3];
        }
      }
      __syncthreads();
      const int at = first_ + group * kFinishRows + warp_index();
      if (at < count_) {
        const bool depth = (arguments_.workspace.chosen[at] & kDepthBit) != 0;
        finish_token(rows + warp_index() * kRowLength, depth ? gain : 1.0F, at);
      }
      __syncthreads();
    }
  }

  __device__ static float squares(const float* row, int count) {
    float sum = 0.0F;
    for (int i = lane_index(); i < count; i += kWarpLanes) sum += row[i] * row[i];
    return warp_sum(sum);
  }

  // Both norms are one factor per head.
  __device__ void finish_token(const float* row, float gain, int at) const {
    const int head_dim = arguments_.head_dim;
    float factor = gain;
    if (arguments_.layer_norm) {
      const float mean = gain * gain * squares(row, width_) / static_cast<float>(width_);
      factor *= 1.0F / sqrtf(mean + kLayerNormEps);
    }
    for (int head = 0; head < arguments_.heads; ++head) {
      float scale = factor;
      if (projection_.head_norm) {
        const float mean = factor * factor * squares(row, head_dim) / static_cast<float>(head_dim);
        scale *= 1.0F / sqrtf(mean + arguments_.head_norm_eps);
      }
      const std::ptrdiff_t head_index = static_cast<std::ptrdiff_t>(layer_) * arguments_.heads + head;
      std::uint16_t* const to = projection_.to + (head_index * arguments_.capacity + at) * head_dim;
      if (head_dim % 2 == 0) {
        auto* const pairs = reinterpret_cast<std::uint32_t*>(to);
        for (int i = lane_index(); i < head_dim / 2; i += kWarpLanes) {
          pairs[i] = bf16_pair(row[2 * i] * scale, row[2 * i + 1] * scale);
        }
      } else {
        for (int i = lane_index(); i < head_dim; i += kWarpLanes) {
          to[i] = static_cast<std::uint16_t>(bf16_pair(row[i] * scale, 0.0F));
        }
      }
      row += head_dim;
    }
  }

  // Of the warp's tile.
  __device__ static unsigned first_row() {
    return threadIdx.x / (kWarpLanes * kWarpColumns) * (kRowTiles * 16);
  }
  __device__ static unsigned first_column() { return threadIdx.x / kWarpLanes % kWarpColumns * (kTiles * 8); }

  const ProjectArguments& arguments_;
  const Projection& projection_;
  int layer_;
  int first_;
  int count_;
  int width_;
  float sums_[kRowTiles][kTiles][4] = {};
};

static_assert(kProjectThreads / kWarpLanes == kFinishRows);

// grid: (blocks of tokens, layers, keys and values).
template <int kTiles, bool kAligned>
__global__ void __launch_bounds__(kProjectThreads)
    project_kernel(const __grid_constant__ ProjectArguments arguments) {
  const int count = arguments.workspace.counts->valid;
  const int first = static_cast<int>(blockIdx.x) * kBlockTokens;
  if (first >= count) return;
  ProjectBlock<kTiles, kAligned> block(arguments, blockIdx.z == 0 ? arguments.keys : arguments.values,
                                       static_cast<int>(blockIdx.y), first, count);
  block.run();
}

template <int kTiles>
cudaError_t launch_project(const ProjectArguments& arguments, int tokens, int layers, bool aligned,
                           CUstream_st* stream) {
  const dim3 grid(static_cast<unsigned>((tokens + kBlockTokens - 1) / kBlockTokens),
                  static_cast<unsigned>(layers), 2);
  const LaunchShape shape{grid, dim3(kProjectThreads), kProjectBytes<kTiles>, stream};
  return aligned ? launch(shape, project_kernel<kTiles, true>, arguments)
                 : launch(shape, project_kernel<kTiles, false>, arguments);
}

bool rows_aligned(const CacheViewCuda& cache) {
  return reinterpret_cast<std::uintptr_t>(cache.data) % 16 == 0 && cache.layer_stride % kBf16PerLoad == 0 &&
         cache.token_stride % kBf16PerLoad == 0;
}

ContextStatus check(const ContextShapes& shapes, const ContextWeightsCuda& weights,
                    const ContextInputCuda& input, const ContextOutputCuda& output, const void* workspace) {
  if (shapes.layers < 1 || shapes.layers > kMaxContextLayers || shapes.heads < 1 || shapes.head_dim < 1 ||
      shapes.heads > kMaxContextWidthCuda / shapes.head_dim || shapes.kv_width < 1 ||
      shapes.kv_width > kMaxContextWidth ||
      (shapes.gates != 0 && shapes.gates != 1 && shapes.gates != shapes.layers)) {
    return ContextStatus::bad_shape;
  }
  if (input.tokens < 0 || input.tokens > kMaxContextTokens) return ContextStatus::bad_tokens;
  if (output.capacity < input.tokens) return ContextStatus::bad_capacity;
  if (output.count == nullptr || workspace == nullptr) return ContextStatus::missing;
  if (input.tokens == 0) return ContextStatus::ok;
  const bool gates_given = shapes.gates == 0 || (weights.gate_weight != nullptr &&
                                                 weights.gate_bias != nullptr && input.depth != nullptr);
  if (weights.key == nullptr || weights.value == nullptr || input.keys.data == nullptr ||
      input.values.data == nullptr || input.valid == nullptr || output.keys == nullptr ||
      output.values == nullptr || !gates_given) {
    return ContextStatus::missing;
  }
  return ContextStatus::ok;
}

ContextStatus status_of(cudaError_t error) {
  return error == cudaSuccess ? ContextStatus::ok : ContextStatus::cuda_failed;
}

}  // namespace

std::size_t context_workspace_bytes(const ContextShapes& shapes, int tokens) {
  const auto rows = static_cast<std::size_t>(tokens);
  const std::size_t scores =
      static_cast<std::size_t>(shapes.gates) * static_cast<std::size_t>(pool_blocks(tokens));
  return sizeof(TokenCounts) + rounded_to_16(sizeof(std::uint32_t) * rows) +
         rounded_to_16(sizeof(float) * scores);
}

ContextStatus context_cuda(const ContextShapes& shapes, const ContextOptions& options,
                           const ContextWeightsCuda& weights, const ContextInputCuda& input,
                           const ContextOutputCuda& output, void* workspace, CUstream_st* stream) {
  if (const ContextStatus status = check(shapes, weights, input, output, workspace);
      status != ContextStatus::ok) {
    return status;
  }
  if (input.tokens == 0) return status_of(cudaMemsetAsync(output.count, 0, sizeof(std::int32_t), stream));
  const Workspace between = workspace_at(workspace, input.tokens);
  cudaError_t error = launch({dim3(1), dim3(kChooseThreads), 0, stream}, choose_tokens_kernel, input.valid,
                             shapes.gates > 0 ? input.depth : nullptr, input.tokens, between, output.count);
  if (error != cudaSuccess) return ContextStatus::cuda_failed;
  const bool aligned = rows_aligned(input.keys) && rows_aligned(input.values) &&
                       rows_aligned({weights.key, 0, shapes.kv_width}) &&
                       rows_aligned({weights.value, 0, shapes.kv_width});
  if (shapes.gates > 0) {
    const dim3 grid(static_cast<unsigned>(pool_blocks(input.tokens)), static_cast<unsigned>(shapes.gates));
    const LaunchShape shape{grid, dim3(kPoolThreads), 0, stream};
    error = aligned && rows_aligned({weights.gate_weight, 0, shapes.kv_width})
                ? launch(shape, pool_kernel<true>, input.values, shapes.layers - 1, shapes.kv_width,
                         weights.gate_weight, between)
                : launch(shape, pool_kernel<false>, input.values, shapes.layers - 1, shapes.kv_width,
                         weights.gate_weight, between);
    if (error != cudaSuccess) return ContextStatus::cuda_failed;
  }
  const ProjectArguments arguments{
      {input.keys, weights.key, output.keys, options.qk_norm},
      {input.values, weights.value, output.values, false},
      shapes.kv_width,
      shapes.heads,
      shapes.head_dim,
      output.capacity,
      options.layer_norm,
      options.qk_norm_eps,
      {weights.gate_bias, shapes.gates, pool_blocks(input.tokens)},
      between,
  };
  if (shapes.width() <= kColumns<2>) {
    error = launch_project<2>(arguments, input.tokens, shapes.layers, aligned, stream);
  } else if (shapes.width() <= kColumns<6>) {
    error = launch_project<6>(arguments, input.tokens, shapes.layers, aligned, stream);
  } else {
    error = launch_project<12>(arguments, input.tokens, shapes.layers, aligned, stream);
  }
  return status_of(error);
}

}  // namespace molmoact2::kernels
