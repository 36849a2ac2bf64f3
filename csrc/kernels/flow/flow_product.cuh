// A phase that multiplies: from an operand that the phase before hands over to whatever `finish` makes of the
// result.
//
// A block computes a few column tiles. Its warps share the depth: each holds its part of the operand in
// registers, takes the weights from the stream, and leaves partial sums in shared memory, where all threads
// add them in one order. The operand crosses from the second-level cache to each block once per phase.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/ptx.cuh"
#include "kernels/device/warp.cuh"
#include "kernels/flow/flow_run.cuh"
#include "kernels/flow/handed_over.cuh"
#include "kernels/flow/weight_stream.cuh"

namespace molmoact2::kernels::flow {

// One block's thread at work on T + 1 <= 16 * kRowTiles rows.
template <int kRowTiles>
struct Worker {
  static constexpr int kRows = kRowTiles * kRowTile;
  static constexpr int kPairs = kRowTiles * kTilePairs;  // of a column tile

  const Run& run;
  WeightStream& weights;
  BlockMemory& memory;
  float* scratch;
};

struct Operand {
  const std::uint32_t* words;
  const std::uint32_t* squares;  // null where no norm stands before the product
  std::uint32_t mark;
  int depth_tiles;
  int column_tiles;  // of the product
};

// 1 / rms of every row into the block's memory, 0 for rows that hold no step of the chunk. Eight threads a
// row; their order of adding is fixed.
template <int kRowTiles>
__device__ __forceinline__ void sum_squares(const Worker<kRowTiles>& worker, const Operand& operand) {
  constexpr int kSharers = 8;
  constexpr int kMaxLoads = kMaxCudaFlowWidth / kColumnTile / 2 / kSharers;
  const Geometry& geometry = worker.run.geometry;
  const int loads = geometry.width_tiles / 2;
  const int sharer = static_cast<int>(threadIdx.x) % kSharers;
  for (int row = static_cast<int>(threadIdx.x) / kSharers; row < Worker<kRowTiles>::kRows;
       row += kThreads / kSharers) {
    const bool holds_step = row < worker.run.sample.horizon;
    const int count = holds_step ? loads : 0;
    const std::uint32_t* const words = operand.squares + row * geometry.width_tiles;
    uint2 found[kMaxLoads] = {};
#pragma unroll
    for (int i = 0; i < kMaxLoads; ++i) {
      const int load = sharer + i * kSharers;
      if (load < count) found[i] = load_relaxed_8(words + 2 * load);
    }
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kMaxLoads; ++i) {
      const int load = sharer + i * kSharers;
      if (load < count) {
        await_8(found[i], words + 2 * load, operand.mark);
        sum += __uint_as_float(found[i].x) + __uint_as_float(found[i].y);
      }
    }
    sum = warp_sum<kSharers>(sum);
    if (sharer == 0) {
      const float mean = sum / static_cast<float>(geometry.width);
      worker.memory.inverse_rms[row] = holds_step ? 1.0F / sqrtf(mean + kNormEps) : 0.0F;
    }
  }
}

// A warp's part of the operand, as fragments.
template <int kRowTiles>
struct Fragments {
  std::uint32_t at[2 * kMaxSlots][kRowTiles][4];

  // `count` of the depth tiles from `words` on are there; the others are zero.
  __device__ __forceinline__ void load(const std::uint32_t* words, int count) {
#pragma unroll
    for (int tile = 0; tile < 2 * kMaxSlots; ++tile) {
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        uint4 four = {0, 0, 0, 0};
        if (tile < count) {
          four = load_relaxed_16(words + (tile * kRowTiles + row_tile) * kWarpLanes * 4);
        }
        at[tile][row_tile][0] = four.x;
        at[tile][row_tile][1] = four.y;
        at[tile][row_tile][2] = four.z;
        at[tile][row_tile][3] = four.w;
      }
    }
  }

  __device__ __forceinline__ bool are_marked(int count, std::uint32_t mark) const {
    std::uint32_t wrong = 0;
#pragma unroll
    for (int tile = 0; tile < 2 * kMaxSlots; ++tile) {
      if (tile < count) {
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
          for (int i = 0; i < 4; ++i) wrong |= at[tile][row_tile][i] ^ mark;
        }
      }
    }
    return (wrong & 1U) == 0;
  }
};

// Loads the warp's part of a split and, where a norm stands before the product, the norm's factors.
template <int kRowTiles>
__device__ __forceinline__ void load_operand(const Worker<kRowTiles>& worker, const Operand& operand,
                                             int split, bool normed, Fragments<kRowTiles>& fragments) {
  const int tiles = 2 * worker.run.geometry.slots;
  const int first = (split * kWarps + warp_index()) * tiles;
  const int count = min(tiles, operand.depth_tiles - first);
  const std::uint32_t* const words =
      operand.words + (static_cast<std::ptrdiff_t>(first) * kRowTiles * kWarpLanes + lane_index()) * 4;
  // While there is nothing to load yet, look at one word in many only, and leave the cache to the others.
  if (count > 0) {
    const std::uint32_t* const last = words + (count * kRowTiles - 1) * kWarpLanes * 4;
    while (!is_marked(load_relaxed_16(last), operand.mark)) pause();
  }
  // Where registers allow, the squares are summed while the fragments are on their way.
  constexpr bool kTogether = kRowTiles <= 2;
  if (normed && !kTogether) sum_squares(worker, operand);
  fragments.load(words, count);
  if (normed && kTogether) sum_squares(worker, operand);
  while (!fragments.are_marked(count, operand.mark)) {
    pause();
    fragments.load(words, count);
  }
  __syncwarp();
}

// One column tile: the warp's sums into `partial`.
template <int kRowTiles>
__device__ __forceinline__ void multiply_tile(const Worker<kRowTiles>& worker,
                                              const Fragments<kRowTiles>& fragments, int slots,
                                              float2* partial) {
  // Two chains of additions hide more of an mma's latency where registers allow.
  constexpr int kChains = kRowTiles <= 2 ? 2 : 1;
  float sums[kChains][kRowTiles][4] = {};
  worker.weights.wait();
#pragma unroll
  for (int slot = 0; slot < kMaxSlots; ++slot) {
    if (slot < slots) {
      const uint4 piece = worker.weights.piece(slot);
      const std::uint32_t first[2] = {piece.x, piece.y};
      const std::uint32_t second[2] = {piece.z, piece.w};
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        mma_m16n8k16_bf16(sums[0][row_tile], fragments.at[2 * slot][row_tile], first);
        mma_m16n8k16_bf16(sums[kChains - 1][row_tile], fragments.at[2 * slot + 1][row_tile], second);
      }
    }
  }
  worker.weights.advance();
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
    float (&sum)[4] = sums[0][row_tile];
    if (kChains == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += sums[kChains - 1][row_tile][i];
    }
    float2* const to = partial + row_tile * kTilePairs + lane_index() * 2;
    to[0] = make_float2(sum[0], sum[1]);
    to[1] = make_float2(sum[2], sum[3]);
  }
}

template <int kPairs>
__device__ __forceinline__ float2 sum_of_warps(const float2* partial) {
  float2 sum = partial[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) {
    sum.x += partial[warp * kPairs].x;
    sum.y += partial[warp * kPairs].y;
  }
  return sum;
}

// The block's share of a product. constant(i, column), i < kConstants: what `finish` will want to know of a
// column, fetched while the operand is on its way. finish(tile, split, number, pair, sum, constants): called
// for every pair, by whole warps; constants[i] is the i-th of the pair's first column.
template <int kConstants, bool kNormed, int kRowTiles, class Constant, class Finish>
__device__ __forceinline__ void multiply(const Worker<kRowTiles>& worker, Product product,
                                         const Operand& operand, const Constant& constant,
                                         const Finish& finish) {
  constexpr int kPairs = Worker<kRowTiles>::kPairs;
  BlockMemory& memory = worker.memory;
  float2* const partial = reinterpret_cast<float2*>(worker.scratch);
  const Share share = memory.shares.of[product];
  const int slots = worker.run.geometry.slots;
  const int end = share.first + share.count;
  const auto fetch_constants = [&](int tile, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < kConstants * count * kColumnTile; i += kThreads) {
      const int which = i / (count * kColumnTile);
      const int column = i % (count * kColumnTile);
      memory.constants[which][column] = constant(which, tile * kColumnTile + column);
    }
  };
  int unit = share.first;
  while (unit < end) {
    const int split = unit / operand.column_tiles;
    const int first_of_split = split * operand.column_tiles;
    const int end_of_split = min(end, first_of_split + operand.column_tiles);
    int count = min(worker.run.together, end_of_split - unit);
    fetch_constants(unit - first_of_split, count);
    Fragments<kRowTiles> fragments;
    load_operand(worker, operand, split, kNormed, fragments);
    while (true) {
      for (int i = 0; i < count; ++i) {
        multiply_tile(worker, fragments, slots, partial + (i * kWarps + warp_index()) * kPairs);
      }
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < count * kPairs; i += kThreads) {
        const int number = i % kPairs;
        const Pair pair = Pair::of(number);
        const float2* const from = partial + i / kPairs * kWarps * kPairs;
        float2 sum = sum_of_warps<kPairs>(from + number);
        if (kNormed) {
          const float2 shift =
              sum_of_warps<kPairs>(from + Pair::number(worker.run.sample.horizon, pair.column));
          const float factor = memory.inverse_rms[pair.row];
          sum = make_float2(fmaf(sum.x, factor, shift.x), fmaf(sum.y, factor, shift.y));
        }
        finish(unit - first_of_split + i / kPairs, split, number, pair, sum,
               &memory.constants[0][i / kPairs * kColumnTile + pair.column]);
      }
      __syncthreads();
      unit += count;
      if (unit == end_of_split) break;
      count = min(worker.run.together, end_of_split - unit);
      fetch_constants(unit - first_of_split, count);
    }
  }
}

// The i-th constants of a pair's two columns.
__device__ __forceinline__ float2 constant_pair(const float* constants, int i) {
  const float* const at = constants + i * kMaxTogether * kColumnTile;
  return make_float2(at[0], at[1]);
}

}  // namespace molmoact2::kernels::flow
