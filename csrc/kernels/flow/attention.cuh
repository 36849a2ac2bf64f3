// What both attentions of the flow are made of: one head, all rows of the chunk, a range of tokens at a time.
//
// A block goes through its tokens in tiles of 32. Scores and their weights pass through shared memory between
// two products; what is attended to so far stays in registers and is rescaled whenever the maximum moves.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/device/bf16.cuh"
#include "kernels/device/ptx.cuh"
#include "kernels/device/warp.cuh"
#include "kernels/flow/flow_run.cuh"
#include "kernels/flow/handed_over.cuh"

namespace molmoact2::kernels::flow {

inline constexpr int kTokenTile = 32;
inline constexpr int kRowSharers = 8;  // threads that work on one row together
// Rows of these lengths start in different banks for ldmatrix, as does every head padded to whole depth tiles
// and then by kRowPadding.
inline constexpr int kRowPadding = 8;
inline constexpr int kWeightStride = kTokenTile + kRowPadding;
inline constexpr int kScoreStride = kTokenTile + 4;

// What of the block's scratch holds what. Heads are bf16.
struct AttentionMemory {
  int stride;             // of a head's row
  std::uint16_t* query;   // (rows, stride)
  std::uint16_t* key;     // (kTokenTile, stride)
  std::uint16_t* value;   // (kTokenTile, stride)
  std::uint16_t* weight;  // (rows, kWeightStride)
  float* score;           // (rows, kScoreStride)
  float* maximum;         // (rows,)
  float* sum;             // (rows,)
  float* rescale;         // (rows,)

  __device__ AttentionMemory(float* scratch, int rows, int padded_head) {
    stride = padded_head + kRowPadding;
    query = reinterpret_cast<std::uint16_t*>(scratch);
    key = query + rows * stride;
    value = key + kTokenTile * stride;
    weight = value + kTokenTile * stride;
    score = reinterpret_cast<float*>(weight + rows * kWeightStride);
    maximum = score + rows * kScoreStride;
    sum = maximum + rows;
    rescale = sum + rows;
  }

  static std::size_t bytes(int rows, int padded_head) {
    const int halves = (rows + 2 * kTokenTile) * (padded_head + kRowPadding) + rows * kWeightStride;
    return 2 * static_cast<std::size_t>(halves) + 4 * static_cast<std::size_t>(rows * (kScoreStride + 3));
  }
};

__device__ __forceinline__ float bf16_at(const std::uint16_t* numbers, int at) {
  return bf16_low(numbers[at]);
}
__device__ __forceinline__ void set_bf16(std::uint16_t* numbers, int at, float value) {
  numbers[at] = static_cast<std::uint16_t>(bf16_pair(value, 0.0F) & 0xFFFFU);
}

// Rows of a head, handed over as (rows, row_words) words, into shared memory.
__device__ __forceinline__ void fetch_rows(const std::uint32_t* words, int row_words, int rows,
                                           int padded_head, int stride, std::uint32_t mark,
                                           std::uint16_t* to) {
  constexpr int kAhead = 4;  // loads under way
  const int row_loads = padded_head / kBf16PerLoad;
  const int loads = rows * row_loads;
  const auto source = [&](int load) { return words + load / row_loads * row_words + load % row_loads * 4; };
  for (int first = static_cast<int>(threadIdx.x); first < loads; first += kAhead * kThreads) {
    uint4 found[kAhead] = {};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kThreads < loads) found[i] = load_relaxed_16(source(first + i * kThreads));
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int load = first + i * kThreads;
      if (load < loads) {
        await_16(found[i], source(load), mark);
        *reinterpret_cast<uint4*>(to + load / row_loads * stride + load % row_loads * kBf16PerLoad) =
            found[i];
      }
    }
  }
}

// RMSNorm without weight and rotation of each row, as the options say. `position`: of the first row; below 0
// for no rotation.
__device__ __forceinline__ void norm_and_rotate(const Run& run, std::uint16_t* rows, int count, int stride,
                                                int position) {
  const Geometry& geometry = run.geometry;
  const FlowOptions& options = geometry.options;
  const bool rotates = options.rope && position >= 0;
  if (!options.qk_norm && !rotates) return;
  const int size = geometry.head_dim;
  const int half = size / 2;
  const int sharer = static_cast<int>(threadIdx.x) % kRowSharers;
  for (int row = static_cast<int>(threadIdx.x) / kRowSharers; row < count; row += kThreads / kRowSharers) {
    std::uint16_t* const x = rows + row * stride;
    float factor = 1.0F;
    if (options.qk_norm) {
      float square = 0.0F;
      for (int i = sharer; i < size; i += kRowSharers) square = fmaf(bf16_at(x, i), bf16_at(x, i), square);
      square = warp_sum<kRowSharers>(square);
      factor = 1.0F / sqrtf(square / static_cast<float>(size) + options.qk_norm_eps);
    }
    for (int i = sharer; i < half; i += kRowSharers) {
      const float first = bf16_at(x, i) * factor;
      const float second = bf16_at(x, i + half) * factor;
      const float2 turn = rotates ? run.rope[(position + row) * half + i] : make_float2(1.0F, 0.0F);
      set_bf16(x, i, first * turn.x - second * turn.y);
      set_bf16(x, i + half, second * turn.x + first * turn.y);
    }
  }
}

// One head's attention in progress.
template <int kRowTiles>
struct Attention {
  static constexpr int kRows = kRowTiles * kRowTile;
  static constexpr int kMaxTiles = kRowTiles * kMaxCudaFlowHead / kColumnTile / kWarps;

  const Run& run;
  const AttentionMemory& memory;
  float attended[kMaxTiles][4] = {};  // tiles warp, warp + kWarps, ... of (row tiles, column tiles of a head)

  __device__ Attention(const Run& run_of, const AttentionMemory& memory_of) : run(run_of), memory(memory_of) {
    for (int row = static_cast<int>(threadIdx.x); row < kRows; row += kThreads) {
      memory.maximum[row] = -INFINITY;
      memory.sum[row] = 0.0F;
    }
  }

  __device__ __forceinline__ int column_tiles() const { return run.geometry.padded_head / kColumnTile; }

  // Attends to the tile of keys and values in shared memory, of which `count` are there. Before it all
  // threads have met; after it they must meet before anything is overwritten.
  __device__ __forceinline__ void attend(int first_token, int count, bool causal) {
    score_tile(first_token, count, causal);
    __syncthreads();
    weigh_tile();
    __syncthreads();
    add_tile();
  }

  // Calls finish(row, column, first, second) for every pair of columns of the result, undivided.
  template <class Finish>
  __device__ __forceinline__ void for_each_pair(const Finish& finish) const {
#pragma unroll
    for (int i = 0; i < kMaxTiles; ++i) {
      const int tile = warp_index() + i * kWarps;
      if (tile < kRowTiles * column_tiles()) {
        const int row = tile / column_tiles() * kRowTile + lane_index() / 4;
        const int column = tile % column_tiles() * kColumnTile + lane_index() % 4 * 2;
        finish(row, column, attended[i][0], attended[i][1]);
        finish(row + 8, column, attended[i][2], attended[i][3]);
      }
    }
  }

 private:
  __device__ __forceinline__ void score_tile(int first_token, int count, bool causal) const {
    constexpr int kTiles = kTokenTile / kColumnTile;
    const float factor = 1.0F / sqrtf(static_cast<float>(run.geometry.head_dim));
    const int lane = lane_index();
    for (int tile = warp_index(); tile < kRowTiles * kTiles; tile += kWarps) {
      const int first_row = tile / kTiles * kRowTile;
      const int token = tile % kTiles * kColumnTile;
      const std::uint16_t* const query =
          memory.query + (first_row + lane % 16) * memory.stride + lane / 16 * 8;
      const std::uint16_t* const key = memory.key + (token + lane % 8) * memory.stride + lane / 8 % 2 * 8;
      float sums[4] = {};
      for (int depth = 0; depth < run.geometry.padded_head; depth += kDepthTile) {
        std::uint32_t a[4];
        std::uint32_t b[2];
        ldmatrix_x4(a, query + depth);
        ldmatrix_x2(b, key + depth);
        mma_m16n8k16_bf16(sums, a, b);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + lane / 4 + i / 2 * 8;
        const int column = token + lane % 4 * 2 + i % 2;
        const bool visible = column < count && (!causal || first_token + column <= row);
        memory.score[row * kScoreStride + column] = visible ? sums[i] * factor : -INFINITY;
      }
    }
  }

  __device__ __forceinline__ void weigh_tile() const {
    constexpr int kMine = kTokenTile / kRowSharers;
    const int sharer = static_cast<int>(threadIdx.x) % kRowSharers;
    for (int row = static_cast<int>(threadIdx.x) / kRowSharers; row < kRows; row += kThreads / kRowSharers) {
      const float* const score = memory.score + row * kScoreStride + sharer * kMine;
      const float before = memory.maximum[row];
      float most = before;
#pragma unroll
      for (int i = 0; i < kMine; ++i) most = fmaxf(most, score[i]);
      most = warp_max<kRowSharers>(most);
      // A row that sees no token yet has no maximum, and no weight.
      const float base = most == -INFINITY ? 0.0F : most;
      float weight[kMine];
      float sum = 0.0F;
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        weight[i] = __expf(score[i] - base);
        sum += weight[i];
      }
      std::uint32_t* const to =
          reinterpret_cast<std::uint32_t*>(memory.weight + row * kWeightStride + sharer * kMine);
#pragma unroll
      for (int i = 0; i < kMine; i += 2) to[i / 2] = bf16_pair(weight[i], weight[i + 1]);
      sum = warp_sum<kRowSharers>(sum);
      if (sharer == 0) {
        const float rescale = __expf(before - base);
        memory.maximum[row] = most;
        memory.sum[row] = memory.sum[row] * rescale + sum;
        memory.rescale[row] = rescale;
      }
    }
  }

  __device__ __forceinline__ void add_tile() {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < kMaxTiles; ++i) {
      const int tile = warp_index() + i * kWarps;
      if (tile < kRowTiles * column_tiles()) {
        const int first_row = tile / column_tiles() * kRowTile;
        const int column = tile % column_tiles() * kColumnTile;
        const float upper = memory.rescale[first_row + lane / 4];
        const float lower = memory.rescale[first_row + lane / 4 + 8];
        attended[i][0] *= upper;
        attended[i][1] *= upper;
        attended[i][2] *= lower;
        attended[i][3] *= lower;
#pragma unroll
        for (int token = 0; token < kTokenTile; token += kDepthTile) {
          std::uint32_t a[4];
          std::uint32_t b[2];
          ldmatrix_x4(a, memory.weight + (first_row + lane % 16) * kWeightStride + token + lane / 16 * 8);
          ldmatrix_x2_trans(b, memory.value + (token + lane % 16) * memory.stride + column);
          mma_m16n8k16_bf16(attended[i], a, b);
        }
      }
    }
  }
};

}  // namespace molmoact2::kernels::flow
