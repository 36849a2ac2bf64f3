// The operations of the flow loop, compiled once per instruction set.
//
// Activations are transposed: (features, columns), one column per step of the chunk, padded to whole vectors.
// A padding column holds finite numbers that nothing reads. Packed matrices: see cpu/small_gemm.h.
#pragma once

#include "kernels/cpu/isa.h"

namespace molmoact2::kernels {

struct PackedMatrix {
  const float* panels = nullptr;
  const float* bias = nullptr;  // (rows rounded up to whole panels,), zero past the rows
  int rows = 0;
  int depth = 0;
};

struct HeadOptions {
  int head_dim = 0;
  bool norm = false;
  float norm_eps = 0.0F;
  float score_scale = 0.0F;  // D^-0.5, folded into q
};

// Where one thread keeps what only it reads.
struct AttentionScratch {
  float* query = nullptr;    // (D, columns)
  float* key = nullptr;      // (D, columns)
  float* values = nullptr;   // (D rounded up, columns), packed
  float* scores = nullptr;   // (tokens rounded up, columns)
  float* inverse = nullptr;  // (columns,)
};

struct SelfAttention {
  HeadOptions head;
  int heads = 0;
  int horizon = 0;
  int columns = 0;
  const float* qkv = nullptr;  // (3E, columns)
  const float* cos = nullptr;  // (D / 2, columns), null without RoPE
  const float* sin = nullptr;
  const float* bias = nullptr;  // (T rounded up, columns), added to the scores, null when not causal
  float* attended = nullptr;    // (E, columns)
};

struct CrossAttention {
  HeadOptions head;
  int tokens = 0;
  int columns = 0;
  const float* query = nullptr;   // (E, columns)
  const float* keys = nullptr;    // of this layer and head: a packed (S, D) matrix
  const float* values = nullptr;  // a packed (D, S) matrix
  float* attended = nullptr;      // (E, columns)
};

struct FlowOps {
  CpuIsa isa = CpuIsa::portable;
  int lanes = 0;
  int panel_rows = 0;
  int row_step = 0;

  // out = h / sqrt(mean(h^2) + 1e-6) * one_plus_scale + shift, over features; both vectors are (features,).
  void (*norm_modulate)(const float* h, int features, int columns, const float* shift,
                        const float* one_plus_scale, float* out) = nullptr;
  // Rows of panel `panel` of y = W x + b.
  void (*linear)(const PackedMatrix& matrix, const float* x, int columns, int panel, float* y) = nullptr;
  // ... of h += gate * (W x + b).
  void (*linear_add_gated)(const PackedMatrix& matrix, const float* x, int columns, int panel,
                           const float* gate, float* h) = nullptr;
  // ... of y = silu(G x + b) * (U x + c), where the first half of a panel's rows is of U, the second of G.
  void (*linear_silu_gated)(const PackedMatrix& matrix, const float* x, int columns, int panel,
                            float* y) = nullptr;
  void (*self_attention)(const SelfAttention& attention, int head, const AttentionScratch& scratch) = nullptr;
  void (*cross_attention)(const CrossAttention& attention, int head,
                          const AttentionScratch& scratch) = nullptr;
  // e^x with a relative error below 2e-7 for -87 < x < 88; 0 below, e^88 above, NaN for NaN. count: of whole
  // vectors.
  void (*exponential)(const float* x, int count, float* y) = nullptr;
};

// Null when this build does not have the instruction set.
const FlowOps* flow_ops(CpuIsa isa);

const FlowOps& flow_ops_portable();
#if defined(__x86_64__)
const FlowOps& flow_ops_avx2();
const FlowOps& flow_ops_avx512();
#elif defined(__aarch64__)
const FlowOps& flow_ops_neon();
#endif

}  // namespace molmoact2::kernels
