// The phases of a block of the network and of an Euler step, but for the attentions (flow_attention.cuh).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/bf16.cuh"
#include "kernels/flow/flow_product.cuh"

namespace molmoact2::kernels::flow {

// How often a thing that is written once per block of the network, or once per step, was written before.
__device__ __forceinline__ int layer_round(const Run& run, const Position& at) {
  return at.step * run.geometry.layers + at.layer;
}
__device__ __forceinline__ int norm_round(const Run& run, Norm norm, const Position& at) {
  return norm == final_norm ? at.step : layer_round(run, at);
}

__device__ __forceinline__ float read_modulation(const Run& run, const void* vectors, std::int64_t vector,
                                                 int column) {
  if (column >= run.geometry.width) return 0.0F;
  const std::int64_t at = vector * run.geometry.width + column;
  if (run.schedule.type == ModulationType::float32) return static_cast<const float*>(vectors)[at];
  return __uint_as_float(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(vectors)[at]) << 16);
}

// vector: 0 to 8 of the block.
__device__ __forceinline__ float block_modulation(const Run& run, const Position& at, int vector,
                                                  int column) {
  return read_modulation(run, run.schedule.blocks,
                         static_cast<std::int64_t>(layer_round(run, at)) * kFlowModulations + vector, column);
}

// A norm's shift (0) or 1 + scale (1).
__device__ __forceinline__ float norm_modulation(const Run& run, Norm norm, const Position& at, int vector,
                                                 int column) {
  if (norm == final_norm) return read_modulation(run, run.schedule.final, 2 * at.step + vector, column);
  return block_modulation(run, at, 3 * norm + vector, column);
}

__device__ __forceinline__ const float* layer_bias(const Run& run, Product product, int layer) {
  return run.biases + static_cast<std::int64_t>(layer) * run.geometry.layer_biases +
         run.geometry.bias_offset[product];
}

// Hands a pair of the residual stream to the norm that reads it next. Called by whole warps.
template <int kRowTiles>
__device__ __forceinline__ void hand_over_residual(const Worker<kRowTiles>& worker, Norm norm,
                                                   const Position& at, int tile, const Pair& pair, float2 h,
                                                   float2 shift, float2 scale) {
  const Run& run = worker.run;
  const std::uint32_t mark = mark_of(norm_round(run, norm, at));
  const bool holds_step = pair.row < run.sample.horizon;
  float2 operand = make_float2(0.0F, 0.0F);
  if (holds_step) operand = make_float2(h.x * scale.x, h.y * scale.y);
  if (pair.row == run.sample.horizon) operand = shift;
  store_relaxed_4(
      run.handed.normed[norm] + operand_word<kRowTiles>(pair.row, tile * kColumnTile + pair.column),
      marked_bf16(operand.x, operand.y, mark));
  float square = h.x * h.x + h.y * h.y;
  square += __shfl_xor_sync(kAllLanes, square, kNextColumn);
  square += __shfl_xor_sync(kAllLanes, square, 2 * kNextColumn);
  if (holds_step && pair.column == 0) {
    store_relaxed_4(run.handed.squares[norm] + pair.row * run.geometry.width_tiles + tile,
                    marked_float(square, mark));
  }
}

// h += gate * (sum + bias), where the constants are bias, gate, and the next norm's shift and scale.
template <int kRowTiles>
__device__ __forceinline__ void add_to_residual(const Worker<kRowTiles>& worker, Norm norm,
                                                const Position& at, int tile, int number, const Pair& pair,
                                                float2 sum, float2 bias, float2 gate, float2 shift,
                                                float2 scale) {
  float2& residual = worker.run.residual[tile * Worker<kRowTiles>::kPairs + number];
  float2 h = residual;
  h.x = fmaf(gate.x, sum.x + bias.x, h.x);
  h.y = fmaf(gate.y, sum.y + bias.y, h.y);
  residual = h;
  hand_over_residual(worker, norm, at, tile, pair, h, shift, scale);
}

// Calls work(tile, number) for every pair of the block's own column tiles of the residual stream, by whole
// warps.
template <int kRowTiles, class Work>
__device__ __forceinline__ void for_own_pairs(const Worker<kRowTiles>& worker, const Work& work) {
  constexpr int kPairs = Worker<kRowTiles>::kPairs;
  const Share own = worker.memory.shares.of[self_out];
  for (int i = static_cast<int>(threadIdx.x); i < own.count * kPairs; i += kThreads) {
    work(own.first + i / kPairs, i % kPairs);
  }
}

template <int kRowTiles>
__device__ __forceinline__ void embed(const Worker<kRowTiles>& worker, const Position& at) {
  const Run& run = worker.run;
  if (worker.memory.shares.of[self_out].count == 0) return;
  const int columns = run.geometry.action_dim;
  const int count = run.sample.horizon * columns;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    if (at.step == 0) {
      worker.scratch[i] = i % columns < run.sample.valid_columns ? run.sample.noise[i] : 0.0F;
    } else {
      worker.scratch[i] = __uint_as_float(await_4(run.handed.x + i, mark_of(at.step - 1)));
    }
  }
  __syncthreads();
  const int stride = run.geometry.width_tiles * kColumnTile;
  for_own_pairs(worker, [&](int tile, int number) {
    const Pair pair = Pair::of(number);
    const int column = tile * kColumnTile + pair.column;
    float2 h = make_float2(0.0F, 0.0F);
    if (pair.row < run.sample.horizon) {
      h = make_float2(run.embed_bias[column], run.embed_bias[column + 1]);
      const float* const x = worker.scratch + pair.row * columns;
      for (int k = 0; k < columns; ++k) {
        const float* const weight = run.embed + k * stride + column;
        h.x = fmaf(x[k], weight[0], h.x);
        h.y = fmaf(x[k], weight[1], h.y);
      }
    }
    run.residual[tile * Worker<kRowTiles>::kPairs + number] = h;
    const auto modulation = [&](int vector) {
      return make_float2(norm_modulation(run, self_norm, at, vector, column),
                         norm_modulation(run, self_norm, at, vector, column + 1));
    };
    hand_over_residual(worker, self_norm, at, tile, pair, h, modulation(0), modulation(1));
  });
  __syncthreads();
}

template <int kRowTiles>
__device__ __forceinline__ Operand normed_operand(const Worker<kRowTiles>& worker, Norm norm,
                                                  const Position& at, int column_tiles) {
  const Run& run = worker.run;
  return {run.handed.normed[norm], run.handed.squares[norm], mark_of(norm_round(run, norm, at)),
          run.geometry.width_tiles / 2, column_tiles};
}

// q, k and v, or the query of cross-attention alone: (rows, 8 * column_tiles) bf16, zero past the chunk.
template <int kRowTiles>
__device__ __forceinline__ void project(const Worker<kRowTiles>& worker, const Position& at, Product product,
                                        Norm norm, int column_tiles, std::uint32_t* words) {
  const Run& run = worker.run;
  const float* const bias = layer_bias(run, product, at.layer);
  const std::uint32_t mark = mark_of(layer_round(run, at));
  multiply<1, true>(
      worker, product, normed_operand(worker, norm, at, column_tiles),
      [&](int, int column) { return bias[column]; },
      [&](int tile, int, int, const Pair& pair, float2 y, const float* constants) {
        const float2 b = constant_pair(constants, 0);
        y = pair.row < run.sample.horizon ? make_float2(y.x + b.x, y.y + b.y) : make_float2(0.0F, 0.0F);
        const int word = (pair.row * column_tiles + tile) * (kColumnTile / 2) + pair.column / 2;
        store_relaxed_4(words + word, marked_bf16(y.x, y.y, mark));
      });
}

template <int kRowTiles>
__device__ __forceinline__ void project_qkv(const Worker<kRowTiles>& worker, const Position& at) {
  project(worker, at, qkv, self_norm, 3 * worker.run.geometry.head_tiles, worker.run.handed.qkv);
}

template <int kRowTiles>
__device__ __forceinline__ void project_query(const Worker<kRowTiles>& worker, const Position& at) {
  project(worker, at, query, cross_norm, worker.run.geometry.head_tiles, worker.run.handed.query);
}

// h += gate * (W attended + b) for one of the attentions; the next norm reads the result.
template <int kRowTiles>
__device__ __forceinline__ void add_attended(const Worker<kRowTiles>& worker, const Position& at,
                                             Product product, const std::uint32_t* attended, int gate_vector,
                                             Norm next) {
  const Run& run = worker.run;
  const float* const bias = layer_bias(run, product, at.layer);
  const Operand operand = {attended, nullptr, mark_of(layer_round(run, at)), run.geometry.head_tiles / 2,
                           run.geometry.width_tiles};
  multiply<4, false>(
      worker, product, operand,
      [&](int which, int column) {
        if (which == 0) return bias[column];
        if (which == 1) return block_modulation(run, at, gate_vector, column);
        return norm_modulation(run, next, at, which - 2, column);
      },
      [&](int tile, int, int number, const Pair& pair, float2 sum, const float* constants) {
        add_to_residual(worker, next, at, tile, number, pair, sum, constant_pair(constants, 0),
                        constant_pair(constants, 1), constant_pair(constants, 2),
                        constant_pair(constants, 3));
      });
}

template <int kRowTiles>
__device__ __forceinline__ void add_self_attended(const Worker<kRowTiles>& worker, const Position& at) {
  add_attended(worker, at, self_out, worker.run.handed.self_attended, 2, cross_norm);
}

template <int kRowTiles>
__device__ __forceinline__ void add_cross_attended(const Worker<kRowTiles>& worker, const Position& at) {
  add_attended(worker, at, cross_out, worker.run.handed.cross_attended, 5, mlp_norm);
}

// Columns alternate between up and gate, so that a pair makes one number of the MLP's inside.
template <int kRowTiles>
__device__ __forceinline__ void up_and_gate(const Worker<kRowTiles>& worker, const Position& at) {
  const Run& run = worker.run;
  const float* const bias = layer_bias(run, up_gate, at.layer);
  const std::uint32_t mark = mark_of(layer_round(run, at));
  multiply<1, true>(
      worker, up_gate, normed_operand(worker, mlp_norm, at, 2 * run.geometry.inner_tiles),
      [&](int, int column) { return bias[column]; },
      [&](int tile, int, int, const Pair& pair, float2 sum, const float* constants) {
        const float2 b = constant_pair(constants, 0);
        const float up = sum.x + b.x;
        const float gate = sum.y + b.y;
        const float inside = pair.row < run.sample.horizon ? gate / (1.0F + __expf(-gate)) * up : 0.0F;
        const float neighbour = __shfl_xor_sync(kAllLanes, inside, kNextColumn);
        if (pair.column % 4 == 0) {
          const int column = tile * (kColumnTile / 2) + pair.column / 2;
          store_relaxed_4(run.handed.inner + operand_word<kRowTiles>(pair.row, column),
                          marked_bf16(inside, neighbour, mark));
        }
      });
}

template <int kRowTiles>
__device__ __forceinline__ void project_down(const Worker<kRowTiles>& worker, const Position& at) {
  const Run& run = worker.run;
  const std::uint32_t mark = mark_of(layer_round(run, at));
  const Operand operand = {run.handed.inner, nullptr, mark, run.geometry.inner_tiles / 2,
                           run.geometry.width_tiles};
  multiply<0, false>(
      worker, down, operand, [](int, int) { return 0.0F; },
      [&](int tile, int split, int number, const Pair&, float2 sum, const float*) {
        const int at_pair = (split * run.geometry.width_tiles + tile) * Worker<kRowTiles>::kPairs + number;
        store_relaxed_8(run.handed.down + 2 * at_pair,
                        make_uint2(marked_float(sum.x, mark), marked_float(sum.y, mark)));
      });
}

template <int kRowTiles>
__device__ __forceinline__ void sum_down(const Worker<kRowTiles>& worker, const Position& at) {
  constexpr int kPairs = Worker<kRowTiles>::kPairs;
  constexpr int kAhead = 4;  // loads under way
  const Run& run = worker.run;
  const float* const biases = layer_bias(run, down, at.layer);
  const std::uint32_t mark = mark_of(layer_round(run, at));
  const bool is_last = at.layer + 1 == run.geometry.layers;
  const Norm norm = is_last ? final_norm : self_norm;
  const Position next = {at.step, at.layer + 1};
  for_own_pairs(worker, [&](int tile, int number) {
    const Pair pair = Pair::of(number);
    const int column = tile * kColumnTile + pair.column;
    const float2 bias = make_float2(biases[column], biases[column + 1]);
    const float2 gate =
        make_float2(block_modulation(run, at, 8, column), block_modulation(run, at, 8, column + 1));
    const auto modulation = [&](int vector) {
      return make_float2(norm_modulation(run, norm, next, vector, column),
                         norm_modulation(run, norm, next, vector, column + 1));
    };
    const float2 shift = modulation(0);
    const float2 scale = modulation(1);
    const std::uint32_t* const words = run.handed.down + 2 * (tile * kPairs + number);
    const int stride = 2 * run.geometry.width_tiles * kPairs;
    float2 sum = make_float2(0.0F, 0.0F);
    for (int first = 0; first < run.geometry.splits; first += kAhead) {
      uint2 parts[kAhead] = {};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < run.geometry.splits) parts[i] = load_relaxed_8(words + (first + i) * stride);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < run.geometry.splits) {
          await_8(parts[i], words + (first + i) * stride, mark);
          sum.x += __uint_as_float(parts[i].x);
          sum.y += __uint_as_float(parts[i].y);
        }
      }
    }
    __syncwarp();
    add_to_residual(worker, norm, next, tile, number, pair, sum, bias, gate, shift, scale);
  });
}

// x of one column after this step, and v for whoever wants it. The order of operations is flow_cpu.cpp's.
__device__ __forceinline__ float advanced(const Run& run, int step, int row, int column, float v) {
  const CudaFlowSample& sample = run.sample;
  const int columns = run.geometry.action_dim;
  const int at = row * columns + column;
  if (sample.velocities != nullptr) {
    sample.velocities[static_cast<std::int64_t>(step) * sample.horizon * columns + at] = v;
  }
  if (column >= sample.valid_columns) return 0.0F;
  const float x = step == 0 ? sample.noise[at] : run.x[at];
  const auto steps = static_cast<float>(run.schedule.steps);
  if (sample.guide != nullptr && sample.guide_weight[row] != 0.0F) {
    const float inverse_of_rest = steps / static_cast<float>(run.schedule.steps - step);  // 1 / (1 - t)
    v += sample.guide_weight[row] * ((sample.guide[at] - x) * inverse_of_rest - v);
  }
  return x + v * (1.0F / steps);
}

template <int kRowTiles>
__device__ __forceinline__ void advance(const Worker<kRowTiles>& worker, int step) {
  const Run& run = worker.run;
  const int columns = run.geometry.action_dim;
  const float* const bias = run.biases + run.geometry.bias_offset[final];
  multiply<1, true>(
      worker, final, normed_operand(worker, final_norm, {step, 0}, run.geometry.final_tiles),
      [&](int, int column) { return bias[column]; },
      [&](int tile, int, int, const Pair& pair, float2 sum, const float* constants) {
        if (pair.row >= run.sample.horizon) return;
        const float2 b = constant_pair(constants, 0);
        const float v[2] = {sum.x + b.x, sum.y + b.y};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = tile * kColumnTile + pair.column + i;
          if (column >= columns) continue;
          const float x = advanced(run, step, pair.row, column, v[i]);
          run.x[pair.row * columns + column] = x;
          store_relaxed_4(run.handed.x + pair.row * columns + column, marked_float(x, mark_of(step)));
          if (step + 1 == run.schedule.steps) run.sample.chunk[pair.row * columns + column] = x;
        }
      });
}

}  // namespace molmoact2::kernels::flow
