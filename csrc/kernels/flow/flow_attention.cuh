// The phases that attend: self-attention over the chunk, cross-attention over the context in chunks of its
// own and their merging.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/device/bf16.cuh"
#include "kernels/flow/attention.cuh"
#include "kernels/flow/flow_phases.cuh"

namespace molmoact2::kernels::flow {

template <int kRowTiles>
__device__ __forceinline__ void attend_to_chunk(const Worker<kRowTiles>& worker, const Position& at) {
  constexpr int kRows = Worker<kRowTiles>::kRows;
  const Run& run = worker.run;
  const Geometry& geometry = run.geometry;
  const AttentionMemory memory(worker.scratch, kRows, geometry.padded_head);
  const std::uint32_t mark = mark_of(layer_round(run, at));
  const int head_words = geometry.padded_head / 2;
  const int row_words = 3 * geometry.heads * head_words;
  for (int head = static_cast<int>(blockIdx.x); head < geometry.heads; head += static_cast<int>(gridDim.x)) {
    const auto fetch = [&](int which, int first_row, int rows, std::uint16_t* to) {
      fetch_rows(run.handed.qkv + first_row * row_words + (which * geometry.heads + head) * head_words,
                 row_words, rows, geometry.padded_head, memory.stride, mark, to);
    };
    fetch(0, 0, kRows, memory.query);
    Attention<kRowTiles> attention(run, memory);
    for (int first = 0; first < run.sample.horizon; first += kTokenTile) {
      const int rows = min(kTokenTile, kRows - first);
      fetch(1, first, rows, memory.key);
      fetch(2, first, rows, memory.value);
      for (int i = rows * memory.stride + static_cast<int>(threadIdx.x); i < kTokenTile * memory.stride;
           i += kThreads) {
        memory.key[i] = 0;
        memory.value[i] = 0;
      }
      __syncthreads();
      if (first == 0) norm_and_rotate(run, memory.query, kRows, memory.stride, 0);
      norm_and_rotate(run, memory.key, rows, memory.stride, first);
      __syncthreads();
      attention.attend(first, run.sample.horizon - first, geometry.options.causal);
      __syncthreads();
    }
    attention.for_each_pair([&](int row, int column, float first, float second) {
      const float sum = memory.sum[row];
      store_relaxed_4(
          run.handed.self_attended + operand_word<kRowTiles>(row, head * geometry.padded_head + column),
          marked_bf16(first / sum, second / sum, mark));
    });
    __syncthreads();
  }
}

// The tokens of the context, 0 where the count makes no sense, and how they are divided.
struct ContextChunks {
  int tokens = 0;
  int length = 0;  // of every chunk but the last
  // One even without a token: merging it waits for the query, as the order of all writings relies on.
  int used = 1;

  __device__ explicit ContextChunks(const Run& run) {
    const int found = *run.context.tokens;
    if (found < 1 || found > run.context.capacity) return;
    tokens = found;
    const int share = (tokens + run.geometry.chunks - 1) / run.geometry.chunks;
    length = (share + kColumnTile - 1) / kColumnTile * kColumnTile;
    used = (tokens + length - 1) / length;
  }
};

// A tile of keys and values on its way through registers.
class ContextTile {
 public:
  __device__ __forceinline__ void fetch(const Run& run, std::int64_t head, int first_token, int end_token) {
    const int loads = run.geometry.padded_head / kBf16PerLoad;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int load = static_cast<int>(threadIdx.x) + i * kThreads;
      const int token = first_token + load / loads % kTokenTile;
      pieces_[i] = {0, 0, 0, 0};
      if (load < 2 * kTokenTile * loads && token < end_token) {
        const void* const tokens = load < kTokenTile * loads ? run.context.keys : run.context.values;
        pieces_[i] = piece(static_cast<const std::uint16_t*>(tokens) +
                               (head * run.context.capacity + token) * run.geometry.head_dim,
                           load % loads * kBf16PerLoad, run.geometry.head_dim);
      }
    }
  }

  __device__ __forceinline__ void place(const Run& run, const AttentionMemory& memory) const {
    const int loads = run.geometry.padded_head / kBf16PerLoad;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int load = static_cast<int>(threadIdx.x) + i * kThreads;
      if (load < 2 * kTokenTile * loads) {
        std::uint16_t* const to = load < kTokenTile * loads ? memory.key : memory.value;
        *reinterpret_cast<uint4*>(to + load / loads % kTokenTile * memory.stride +
                                  load % loads * kBf16PerLoad) = pieces_[i];
      }
    }
  }

 private:
  static constexpr int kLoads = 2 * kTokenTile * kMaxCudaFlowHead / kBf16PerLoad / kThreads;

  // Eight numbers of a head from `first` on, zero past its end.
  __device__ __forceinline__ static uint4 piece(const std::uint16_t* numbers, int first, int size) {
    if (size % kBf16PerLoad == 0) {
      return first < size ? load_streaming_16(numbers + first) : uint4{0, 0, 0, 0};
    }
    const auto pair = [&](int at) {
      return at < size ? *reinterpret_cast<const std::uint32_t*>(numbers + at) : 0U;
    };
    return {pair(first), pair(first + 2), pair(first + 4), pair(first + 6)};
  }

  uint4 pieces_[kLoads];
};

template <int kRowTiles>
__device__ __forceinline__ void attend_to_context(const Worker<kRowTiles>& worker, const Position& at) {
  constexpr int kRows = Worker<kRowTiles>::kRows;
  const Run& run = worker.run;
  const Geometry& geometry = run.geometry;
  const AttentionMemory memory(worker.scratch, kRows, geometry.padded_head);
  const std::uint32_t mark = mark_of(layer_round(run, at));
  const ContextChunks chunks(run);
  const int head_words = geometry.padded_head / 2;
  const int units = geometry.heads * geometry.chunks;
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int head = unit / geometry.chunks;
    const int chunk = unit % geometry.chunks;
    if (chunk >= chunks.used) continue;
    const int begin = chunk * chunks.length;
    const int end = min(begin + chunks.length, chunks.tokens);
    const std::int64_t context_head = static_cast<std::int64_t>(at.layer) * geometry.heads + head;
    ContextTile tile;
    tile.fetch(run, context_head, begin, end);
    fetch_rows(run.handed.query + head * head_words, geometry.heads * head_words, kRows, geometry.padded_head,
               memory.stride, mark, memory.query);
    Attention<kRowTiles> attention(run, memory);
    __syncthreads();
    norm_and_rotate(run, memory.query, kRows, memory.stride, -1);
    for (int first = begin; first < end; first += kTokenTile) {
      tile.place(run, memory);
      if (first + kTokenTile < end) tile.fetch(run, context_head, first + kTokenTile, end);
      __syncthreads();
      attention.attend(first, end - first, false);
      __syncthreads();
    }
    const int first_row = (chunk * geometry.heads + head) * kRows;
    attention.for_each_pair([&](int row, int column, float first, float second) {
      if (row >= run.sample.horizon) return;
      store_relaxed_8(run.handed.partial + (first_row + row) * geometry.padded_head + column,
                      make_uint2(marked_float(first, mark), marked_float(second, mark)));
    });
    for (int row = static_cast<int>(threadIdx.x); row < run.sample.horizon; row += kThreads) {
      store_relaxed_8(
          run.handed.partial_stats + (first_row + row) * 2,
          make_uint2(marked_float(memory.maximum[row], mark), marked_float(memory.sum[row], mark)));
    }
    __syncthreads();
  }
}

// Puts together what was attended to in the chunks of the context.
template <int kRowTiles>
__device__ __forceinline__ void merge_chunks(const Worker<kRowTiles>& worker, const Position& at) {
  constexpr int kRows = Worker<kRowTiles>::kRows;
  constexpr int kPairs = Worker<kRowTiles>::kPairs;
  constexpr int kAhead = 8;  // chunks under way
  const Run& run = worker.run;
  const Geometry& geometry = run.geometry;
  const std::uint32_t mark = mark_of(layer_round(run, at));
  const ContextChunks chunks(run);
  const int units = geometry.head_tiles * kPairs;
  const int stride = static_cast<int>(gridDim.x) * kThreads;
  for (int unit = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); unit < units;
       unit += stride) {
    const Pair pair = Pair::of(unit % kPairs);
    const int column = unit / kPairs * kColumnTile + pair.column;
    float2 attended = make_float2(0.0F, 0.0F);
    float sum = 0.0F;
    float maximum = -INFINITY;
    const int used = pair.row < run.sample.horizon ? chunks.used : 0;
    const int row = column / geometry.padded_head * kRows + pair.row;
    const int chunk_rows = geometry.heads * kRows;
    for (int first = 0; first < used; first += kAhead) {
      uint2 parts[kAhead] = {};
      uint2 stats[kAhead] = {};
      const std::uint32_t* const part = run.handed.partial +
                                        (first * chunk_rows + row) * geometry.padded_head +
                                        column % geometry.padded_head;
      const std::uint32_t* const stat = run.handed.partial_stats + (first * chunk_rows + row) * 2;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < used) {
          stats[i] = load_relaxed_8(stat + i * chunk_rows * 2);
          parts[i] = load_relaxed_8(part + i * chunk_rows * geometry.padded_head);
        }
      }
      float most = maximum;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < used) {
          await_8(stats[i], stat + i * chunk_rows * 2, mark);
          most = fmaxf(most, __uint_as_float(stats[i].x));
        }
      }
      const float rescale = __expf(maximum - most);
      attended = make_float2(attended.x * rescale, attended.y * rescale);
      sum *= rescale;
      maximum = most;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < used) {
          await_8(parts[i], part + i * chunk_rows * geometry.padded_head, mark);
          const float factor = __expf(__uint_as_float(stats[i].x) - most);
          attended.x = fmaf(__uint_as_float(parts[i].x), factor, attended.x);
          attended.y = fmaf(__uint_as_float(parts[i].y), factor, attended.y);
          sum = fmaf(__uint_as_float(stats[i].y), factor, sum);
        }
      }
    }
    // Without a single token this is NaN, as promised. Rows without a step wait for nothing here, and are yet
    // never too early: every block with a share of the merging also has one of qkv or self_out, where it
    // waits for all.
    const bool holds_step = pair.row < run.sample.horizon;
    store_relaxed_4(run.handed.cross_attended + operand_word<kRowTiles>(pair.row, column),
                    holds_step ? marked_bf16(attended.x / sum, attended.y / sum, mark) : mark);
  }
}

// Brings what the next phases read of memory that is no weight into the second-level cache: this layer's
// context, the next one's biases and modulation.
template <int kRowTiles>
__device__ __forceinline__ void prefetch_ahead(const Worker<kRowTiles>& worker, const Position& at) {
  constexpr int kLine = 128;
  const Run& run = worker.run;
  const Geometry& geometry = run.geometry;
  const int thread = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(gridDim.x) * kThreads;
  const auto prefetch = [&](const void* from, std::int64_t bytes) {
    for (std::int64_t i = static_cast<std::int64_t>(thread) * kLine; i < bytes;
         i += static_cast<std::int64_t>(threads) * kLine) {
      prefetch_l2(static_cast<const char*>(from) + i);
    }
  };
  const std::int64_t head_bytes = 2 * static_cast<std::int64_t>(geometry.head_dim);
  const int used_lines = static_cast<int>((ContextChunks(run).tokens * head_bytes + kLine - 1) / kLine);
  for (int line = thread; line < 2 * geometry.heads * used_lines; line += threads) {
    const auto* const tokens =
        static_cast<const char*>(line % 2 == 0 ? run.context.keys : run.context.values);
    const std::int64_t head = static_cast<std::int64_t>(at.layer) * geometry.heads + line / 2 / used_lines;
    const std::int64_t offset =
        min(static_cast<std::int64_t>(line / 2 % used_lines) * kLine, run.context.capacity * head_bytes - 1);
    prefetch_l2(tokens + head * run.context.capacity * head_bytes + offset);
  }
  if (at.layer + 1 == geometry.layers) return;
  prefetch(layer_bias(run, qkv, at.layer + 1), static_cast<std::int64_t>(geometry.layer_biases) * 4);
  const std::int64_t number_bytes = run.schedule.type == ModulationType::float32 ? 4 : 2;
  const std::int64_t vector_bytes = geometry.width * number_bytes * kFlowModulations;
  prefetch(static_cast<const char*>(run.schedule.blocks) + (layer_round(run, at) + 1) * vector_bytes,
           vector_bytes);
}

}  // namespace molmoact2::kernels::flow
