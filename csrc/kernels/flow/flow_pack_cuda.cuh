// Weights from (out, in) to the order in which the blocks of the flow loop want them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/flow/flow_run.cuh"

namespace molmoact2::kernels::flow {

// Which row or column of a matrix stands at a place of the padded one: groups (heads) that grow from `group`
// to `padded` each, or the two halves of `group` each that take turns.
struct AxisMap {
  int group = 0;
  int padded = 0;
  int groups = 1;
  bool halves_alternate = false;

  static AxisMap plain(int size) { return {size, kMaxFlowWidth, 1, false}; }
  static AxisMap heads(int size, int padded, int count) { return {size, padded, count, false}; }
  static AxisMap alternating(int size) { return {size, kMaxFlowWidth, 2, true}; }

  // -1 where there is only padding.
  __device__ int source(int place) const {
    if (halves_alternate) return place / 2 < group ? place % 2 * group + place / 2 : -1;
    const int index = place % padded;
    return place / padded < groups && index < group ? place / padded * group + index : -1;
  }
};

struct MatrixSource {
  const std::uint16_t* weight = nullptr;  // (out, columns) bf16
  int columns = 0;
  AxisMap row_map;
  AxisMap column_map;

  __device__ std::uint32_t at(int row, int column) const {
    const int from_row = row_map.source(row);
    const int from_column = column_map.source(column);
    if (from_row < 0 || from_column < 0) return 0;
    return weight[static_cast<std::int64_t>(from_row) * columns + from_column];
  }
};

// One block packs what the block of its number will use of one product of one layer. A thread's piece is what
// it will hand to two mma as the fragments of B.
__global__ void __launch_bounds__(kThreads)
    pack_product_kernel(MatrixSource source, Product product, int layer, int column_tiles, int slots,
                        const BlockShares* shares, uint4* packed) {
  const BlockShares& block = shares[blockIdx.x];
  const Share& share = block.of[product];
  const std::int64_t first_unit =
      block.stream + static_cast<std::int64_t>(layer) * block.layer_units + share.offset;
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  for (int i = 0; i < share.count * slots; ++i) {
    const int unit = share.first + i / slots;
    const int row = unit % column_tiles * kColumnTile + g;
    const int depth = ((unit / column_tiles * kWarps + warp_index()) * slots + i % slots) * 2 * kDepthTile;
    const auto pair = [&](int column) {
      return source.at(row, depth + column) | source.at(row, depth + column + 1) << 16;
    };
    packed[(first_unit * slots + i) * kThreads + threadIdx.x] = {
        pair(2 * t), pair(2 * t + 8), pair(kDepthTile + 2 * t), pair(kDepthTile + 2 * t + 8)};
  }
}

__global__ void __launch_bounds__(kThreads)
    pack_bias_kernel(const std::uint16_t* bias, AxisMap map, int count, float* packed) {
  for (int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < count;
       i += static_cast<int>(gridDim.x) * kThreads) {
    const int from = map.source(i);
    packed[i] = from < 0 ? 0.0F : __uint_as_float(static_cast<std::uint32_t>(bias[from]) << 16);
  }
}

// (E, A) bf16 to (A, columns) float.
__global__ void __launch_bounds__(kThreads)
    pack_embed_kernel(const std::uint16_t* weight, int width, int action_dim, int columns, float* packed) {
  for (int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < action_dim * columns;
       i += static_cast<int>(gridDim.x) * kThreads) {
    const int column = i % columns;
    const std::uint32_t bits = column < width ? weight[column * action_dim + i / columns] : 0U;
    packed[i] = __uint_as_float(bits << 16);
  }
}

}  // namespace molmoact2::kernels::flow
