// The two kernels that run the phases: all of them in one launch, or one in each.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/device/ptx.cuh"
#include "kernels/device/shared.cuh"
#include "kernels/flow/flow_attention.cuh"
#include "kernels/flow/flow_phases.cuh"
#include "kernels/flow/flow_run.cuh"
#include "kernels/flow/weight_stream.cuh"

namespace molmoact2::kernels::flow {

// The ring starts behind it.
inline constexpr std::size_t kBlockMemoryBytes = (sizeof(BlockMemory) + 127) / 128 * 128;

inline std::size_t ring_bytes(const Geometry& geometry, int ring_units) {
  return static_cast<std::size_t>(ring_units * geometry.slots * kThreads) * sizeof(uint4);
}

template <class T>
__device__ __forceinline__ void copy_words(T& to, const T& from) {
  static_assert(sizeof(T) % sizeof(std::uint32_t) == 0);
  for (unsigned i = threadIdx.x; i < sizeof(T) / sizeof(std::uint32_t); i += kThreads) {
    reinterpret_cast<std::uint32_t*>(&to)[i] = reinterpret_cast<const std::uint32_t*>(&from)[i];
  }
}

__device__ __forceinline__ BlockMemory& block_memory(const Run& run) {
  auto& memory = *dynamic_shared<BlockMemory>();
  copy_words(memory.run, run);
  copy_words(memory.shares, run.shares[blockIdx.x]);
  __syncthreads();
  return memory;
}

__device__ __forceinline__ uint4* ring_memory() {
  return reinterpret_cast<uint4*>(dynamic_shared<unsigned char>() + kBlockMemoryBytes);
}

__device__ __forceinline__ float* scratch_memory(const Run& run) {
  return reinterpret_cast<float*>(ring_memory() + run.ring_units * run.geometry.slots * kThreads);
}

// The product of a phase, product_count for a phase without weights.
__device__ __forceinline__ int product_of(Phase phase) {
  switch (phase) {
    case Phase::qkv:
      return qkv;
    case Phase::self_out:
      return self_out;
    case Phase::query:
      return query;
    case Phase::cross_out:
      return cross_out;
    case Phase::up_gate:
      return up_gate;
    case Phase::down:
      return down;
    case Phase::final:
      return final;
    default:
      return product_count;
  }
}

template <int kRowTiles>
__device__ __forceinline__ void run_phase(const Worker<kRowTiles>& worker, Phase phase, const Position& at) {
  switch (phase) {
    case Phase::embed:
      return embed(worker, at);
    case Phase::qkv:
      return project_qkv(worker, at);
    case Phase::self_attention:
      attend_to_chunk(worker, at);
      return prefetch_ahead(worker, at);
    case Phase::self_out:
      return add_self_attended(worker, at);
    case Phase::query:
      return project_query(worker, at);
    case Phase::cross_attention:
      return attend_to_context(worker, at);
    case Phase::cross_merge:
      return merge_chunks(worker, at);
    case Phase::cross_out:
      return add_cross_attended(worker, at);
    case Phase::up_gate:
      return up_and_gate(worker, at);
    case Phase::down:
      return project_down(worker, at);
    case Phase::down_sum:
      return sum_down(worker, at);
    case Phase::final:
      return advance(worker, at.step);
  }
}

// All Euler steps. Blocks wait for one another only through what they hand over, so all must run at once.
template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1) flow_kernel(const __grid_constant__ Run parameters) {
  BlockMemory& memory = block_memory(parameters);
  const Run& run = memory.run;
  const Geometry& geometry = run.geometry;
  const int step_units = geometry.layers * memory.shares.layer_units + memory.shares.of[final].count;
  WeightStream weights(run.weights + memory.shares.stream * geometry.slots * kThreads, step_units,
                       static_cast<std::int64_t>(run.schedule.steps) * step_units, geometry.slots,
                       run.ring_units, ring_memory());
  Position at = {0, 0};
  Phase phase = Phase::embed;
  while (at.step < run.schedule.steps) {
    const Worker<kRowTiles> worker = {run, weights, memory, scratch_memory(run)};
    run_phase(worker, phase, at);
    advance_phase(phase, at, run.geometry.layers);
  }
}

// One phase. A block starts as soon as the one ahead of it on its multiprocessor has ended, and has its
// weights on their way while the last blocks of the grid ahead still work.
template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1)
    flow_phase_kernel(const __grid_constant__ Run parameters, Phase phase, Position at) {
  let_next_grid_start();
  BlockMemory& memory = block_memory(parameters);
  const Run& run = memory.run;
  const Geometry& geometry = run.geometry;
  const int product = product_of(phase);
  const Share share = product == product_count ? Share{} : memory.shares.of[product];
  const int first_layer = product == final ? geometry.layers : at.layer;
  const std::int64_t first_unit = memory.shares.stream +
                                  static_cast<std::int64_t>(first_layer) * memory.shares.layer_units +
                                  share.offset;
  WeightStream weights(run.weights + first_unit * geometry.slots * kThreads, share.count, share.count,
                       geometry.slots, run.ring_units, ring_memory());
  const Worker<kRowTiles> worker = {run, weights, memory, scratch_memory(run)};
  wait_for_previous_grid();
  run_phase(worker, phase, at);
}

}  // namespace molmoact2::kernels::flow
