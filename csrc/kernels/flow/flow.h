// The action expert's whole Euler loop: from noise to a normalized chunk of actions.
//
// Symbols: L blocks, H heads of size D, width E = H * D, inner width I of the MLP, A action columns, T steps
// of the chunk (horizon), S tokens of the context, N Euler steps. Everything is float32, row-major, in host
// memory. Every matrix is (out, in), every bias (out,).
//
// Per Euler step: h = action_embed(x); in each block h += gate * f(rmsnorm(h) * (1 + scale) + shift) for f =
// self-attention over T (q/k norm, RoPE), cross-attention over S (q norm), gated MLP; v = final(...); x += v
// / N.
//
// In-painting: where a guide g with weights w is given, row r of v becomes v + w_r * ((g - x) / (1 - t) - v)
// before x moves, t = i / N being the time of step i. A row with w = 1 goes straight from its noise to the
// guide and lands on it up to rounding; the others see it through self-attention, and are pulled by their
// weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cpu/isa.h"

namespace molmoact2::kernels {

enum class FlowStatus : std::uint8_t {
  ok,
  bad_horizon,   // T outside 1..kMaxFlowHorizon
  bad_context,   // a null pointer, or S outside 1..kMaxFlowTokens
  bad_schedule,  // a null pointer, or N outside 1..kMaxFlowSteps
  bad_columns,   // valid_columns outside 0..A
  bad_guide,     // a guide without weights, or weights without a guide
  no_memory,     // the workspace for this T and S could not be had; nothing was computed
};

// One sentence for an error message.
const char* describe(FlowStatus status);

// Bounds that keep every index inside what the loops use.
inline constexpr int kMaxFlowWidth = 1 << 16;  // also of I
inline constexpr int kMaxFlowLayers = 1 << 10;
inline constexpr int kMaxFlowHorizon = 1 << 12;
inline constexpr int kMaxFlowTokens = 1 << 20;
inline constexpr int kMaxFlowSteps = 1 << 16;
inline constexpr int kFlowModulations = 9;  // shift, 1 + scale, gate for self-attention, cross-attention, MLP

struct FlowShapes {
  int layers = 0;
  int heads = 0;
  int head_dim = 0;
  int inner = 0;
  int action_dim = 0;

  int width() const { return heads * head_dim; }
};

struct FlowOptions {
  bool qk_norm = true;  // RMSNorm without weight over each head of q and k
  float qk_norm_eps = 1e-6F;
  bool rope = true;  // rotates halves, base 10000, positions 0..T-1; needs an even D
  bool causal = false;
};

struct LinearView {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct FlowBlockWeights {
  LinearView qkv;        // (3E, E): q, k, v
  LinearView self_out;   // (E, E)
  LinearView query;      // (E, E)
  LinearView cross_out;  // (E, E)
  LinearView up_gate;    // (2I, E): up, then gate
  LinearView down;       // (E, I)
};

struct FlowWeights {
  LinearView action_embed;  // (E, A)
  LinearView final;         // (A, E)
  std::span<const FlowBlockWeights> blocks;
};

// (L, H, S, D) with any strides but for the last, in elements.
struct FlowContextView {
  const float* data = nullptr;
  std::ptrdiff_t layer_stride = 0;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t token_stride = 0;
};

// What cross-attention reads; keys are already normalized, and tokens that may not be read are left out.
struct FlowContext {
  int tokens = 0;
  FlowContextView keys;
  FlowContextView values;
};

// Time conditioning of every Euler step.
struct FlowSchedule {
  int steps = 0;
  const float* blocks = nullptr;  // (N, L, 9, E)
  const float* final = nullptr;   // (N, 2, E): shift, 1 + scale
};

struct FlowSample {
  int horizon = 0;
  // Columns of x from here on are padding: zero before the first and after every step. A leaves all alone.
  int valid_columns = 0;
  const float* noise = nullptr;  // (T, A)
  float* chunk = nullptr;        // (T, A), written; may be `noise`
  // (N, T, A), written: the network's, before the guide and before padding columns are zeroed; null if not
  // wanted.
  float* velocities = nullptr;
  const float* guide = nullptr;  // (T, A), only read where its row has a weight; null without in-painting
  const float* guide_weight = nullptr;  // (T,) 0..1; null without in-painting
};

// Weights packed for this processor, a workspace and threads. Memory: a copy of the weights that a step
// reads, a copy of the context, and a few activations.
//
// The result is the same bits for every number of threads, and differs between instruction sets by the order
// of no sum, only by fused or separate rounding. NaN in x, weights or context comes out as NaN where it is
// read.
class CpuFlowPlan {
 public:
  // Copies the weights; they may be freed afterwards. `threads`: at least 1, the caller's included.
  // Throws std::invalid_argument on impossible shapes, null pointers, or an `isa` that is not available here;
  // std::bad_alloc; std::system_error when a thread cannot be started.
  CpuFlowPlan(const FlowShapes& shapes, const FlowOptions& options, const FlowWeights& weights, int threads,
              CpuIsa isa = fastest_isa());
  CpuFlowPlan(const CpuFlowPlan&) = delete;
  CpuFlowPlan& operator=(const CpuFlowPlan&) = delete;
  ~CpuFlowPlan();

  const FlowShapes& shapes() const;
  int threads() const;
  CpuIsa isa() const;

  // Allocates only when T or S is larger than in all calls before. Concurrent callers take turns.
  FlowStatus run(const FlowContext& context, const FlowSchedule& schedule, const FlowSample& sample);

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

// How many of `available` threads pay: one where the loop's phases are so short that meeting after each of
// them costs more than the others save.
int useful_flow_threads(const FlowShapes& shapes, int available);

}  // namespace molmoact2::kernels
