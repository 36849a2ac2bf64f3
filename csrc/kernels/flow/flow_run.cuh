// What every kernel of the CUDA flow loop knows: sizes, where things lie, who computes what.
//
// The loop is a chain of phases. A phase is a matrix product, an attention, or a sum; its blocks read what
// blocks of the phase before wrote (handed_over.cuh says how they know that it is there). All activations of
// a phase are (rows, columns) with one row per step of the chunk, cut into tiles of 16 rows and of 8 columns.
//
// Row T, the first that the chunk leaves free, carries the shift of a modulated norm: with s = 1 + scale,
//   W (h / rms(h) * s + shift) = (W (h * s)) / rms(h) + W shift,
// so that products read h * s as it is, take the norm's factor afterwards, and find W shift in one of their
// own rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device/warp.cuh"
#include "kernels/flow/flow_cuda.h"

namespace molmoact2::kernels::flow {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarpLanes;
inline constexpr int kRowTile = 16;     // rows of an mma
inline constexpr int kColumnTile = 8;   // columns of an mma
inline constexpr int kDepthTile = 16;   // depth of an mma
inline constexpr int kMaxRows = 80;     // T + 1 in whole row tiles
inline constexpr int kMaxSlots = 3;     // see Geometry::slots
inline constexpr int kMaxTogether = 6;  // column tiles whose products are finished together
inline constexpr int kMaxChunks = 16;   // parts of the context that are attended to side by side
inline constexpr float kNormEps = 1e-6F;

// The matrix products, in the order of a block of the network; `final` comes once per Euler step.
enum Product : std::uint8_t { qkv, self_out, query, cross_out, up_gate, down, final, product_count };

// The norms whose operands are handed over: before self-attention, cross-attention, MLP and the final layer.
enum Norm : std::uint8_t { self_norm, cross_norm, mlp_norm, final_norm, norm_count };

enum class Phase : std::uint8_t {
  embed,            // h = action_embed(x), once per Euler step
  qkv,              //
  self_attention,   //
  self_out,         // h += ...
  query,            //
  cross_attention,  // of every chunk of the context by itself
  cross_merge,      //
  cross_out,        // h += ...
  up_gate,          // silu(gate) * up
  down,             // of every split of the depth by itself
  down_sum,         // h += ...
  final,            // v and x += v / N, once per Euler step
};

// Sizes after padding: heads to whole depth tiles, the other widths to pairs of column tiles; the padding's
// weights are zero.
struct Geometry {
  int layers = 0;
  int heads = 0;
  int head_dim = 0;
  int padded_head = 0;
  int width = 0;  // E
  int inner = 0;
  int action_dim = 0;
  // A unit of work is one column tile of a product over a depth of kWarps * slots * 32; each warp multiplies
  // `slots` pieces of 32, one after the other. A depth of more than one unit is split.
  int slots = 0;
  int splits = 0;       // of down's depth
  int width_tiles = 0;  // column tiles of E
  int head_tiles = 0;   // of all heads
  int inner_tiles = 0;  // of the MLP's inner width
  int final_tiles = 0;  // of A
  int chunks = 0;       // of the context
  int bias_offset[product_count] = {};
  int layer_biases = 0;
  FlowOptions options;
};

// What one block computes of one product: units [first, first + count), a split's column tiles side by side.
struct Share {
  int first = 0;
  int count = 0;
  int offset = 0;  // units of the layer that the block has before these
};

struct BlockShares {
  std::int64_t stream = 0;  // the block's first unit in the packed weights
  int layer_units = 0;
  Share of[product_count];
};

// 32-bit words that one phase hands to the next.
struct Handed {
  std::uint32_t* x;                    // (rows, A) float
  std::uint32_t* normed[norm_count];   // operand: h * (1 + scale), shift in row T
  std::uint32_t* squares[norm_count];  // (rows, width_tiles) float: sums of h^2 over a column tile
  std::uint32_t* qkv;                  // (rows, 3, H, padded_head) bf16
  std::uint32_t* self_attended;        // operand
  std::uint32_t* query;                // (rows, H, padded_head) bf16
  std::uint32_t* partial;              // (chunks, H, rows, padded_head) float: not yet divided by the sum
  std::uint32_t* partial_stats;        // (chunks, H, rows, 2) float: maximum of the scores, sum
  std::uint32_t* cross_attended;       // operand
  std::uint32_t* inner;                // operand
  std::uint32_t* down;                 // (splits, width_tiles, pairs, 2) float
};

struct Run {
  Geometry geometry;
  // Constant for a plan.
  const uint4* weights;
  const BlockShares* shares;
  const float* biases;
  const float* embed;       // (A, width_tiles * 8)
  const float* embed_bias;  // (width_tiles * 8,)
  const float2* rope;       // (kMaxRows, D / 2): cosine, sine
  // Workspace.
  Handed handed;
  float2* residual;  // h: (width_tiles, pairs), each number touched by one block only
  float* x;          // (rows, A), likewise
  // Of this run.
  int ring_units;  // units of weights that a block keeps under way
  int together;    // column tiles whose products are finished together
  CudaFlowContext context;
  CudaFlowSchedule schedule;
  CudaFlowSample sample;
};

// Two neighbouring columns of a row, as an mma's result has them: thread 4 g + t of a warp holds columns 2 t
// and 2 t + 1 of rows g and g + 8. Pairs of a column tile are numbered so that a warp's results lie together.
struct Pair {
  int row;
  int column;  // 0, 2, 4 or 6 within its tile

  __device__ static Pair of(int number) {
    const int lane = number / 2 % kWarpLanes;
    return {number / 64 * kRowTile + lane / 4 + number % 2 * 8, lane % 4 * 2};
  }
  __device__ static int number(int row, int column) {
    return row / kRowTile * 64 + (row % 8 * 4 + column / 2) * 2 + row / 8 % 2;
  }
};

inline constexpr int kTilePairs = kRowTile * kColumnTile / 2;  // per row tile
// In the numbers of pairs the two bits above the lowest say which column it is; these distances of lanes
// reach the other columns of the row.
inline constexpr int kNextColumn = 2;

// Where an operand of a product has the word with columns k and k + 1 of a row: in the order in which lanes
// hold an mma's fragments, so that a lane loads four words at once.
template <int kRowTiles>
__device__ int operand_word(int row, int k) {
  const int lane = row % 8 * 4 + k % 8 / 2;
  const int fragment = k / kDepthTile * kRowTiles + row / kRowTile;
  return (fragment * kWarpLanes + lane) * 4 + k / 8 % 2 * 2 + row / 8 % 2;
}

// Shared memory of a block beside the weights. `run` stands here rather than among the kernel's parameters
// for the compiler's sake: what it knows to be constant it computes addresses from ahead of the whole loop,
// more than there are registers for.
struct BlockMemory {
  Run run;
  BlockShares shares;
  float inverse_rms[kMaxRows];
  float constants[4][kMaxTogether * kColumnTile];
};

// Where the loop is.
struct Position {
  int step = 0;
  int layer = 0;
};

// The phase after this one: the loop's whole order.
__host__ __device__ inline void advance_phase(Phase& phase, Position& at, int layers) {
  if (phase == Phase::final) {
    phase = Phase::embed;
    at = {at.step + 1, 0};
  } else if (phase == Phase::down_sum && at.layer + 1 < layers) {
    phase = Phase::qkv;
    ++at.layer;
  } else {
    phase = static_cast<Phase>(static_cast<int>(phase) + 1);
  }
}

}  // namespace molmoact2::kernels::flow
