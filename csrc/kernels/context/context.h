// What the action expert's cross-attention reads: the decoder's keys and values of all layers, projected into
// the expert's heads, normed, and without the tokens that the expert may not see.
//
// For every layer, with one pair of projections for all layers and E = heads * head_dim:
//   keys = head_rmsnorm(rmsnorm(g * Wk k))    values = rmsnorm(g * Wv v)
// Norms have no weight; `layer_norm` switches those over E, `qk_norm` the one over each head of the keys.
//
// g is the depth gate of MolmoAct2-Think: 1 for every token but depth tokens, for those
// sigmoid(weight . mean + bias), where the mean runs over the values of the valid tokens that are no depth
// tokens, or over those of all valid tokens where there is no other. Scaling a projection's result equals
// scaling its input, which is what the model's definition has, but for rounding.
//
// Tokens come out in their order, those that are not valid left out: cross-attention over what is left equals
// masked cross-attention, and costs less.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cpu/isa.h"

#ifdef MOLMOACT2_HAVE_CUDA
struct CUstream_st;  // cudaStream_t is a pointer to it
#endif

namespace molmoact2::kernels {

inline constexpr int kMaxContextLayers = 1024;
inline constexpr int kMaxContextTokens = 1 << 20;
inline constexpr int kMaxContextWidth = 1 << 16;

struct ContextShapes {
  int layers = 0;
  int heads = 0;     // of the expert
  int head_dim = 0;  // of the expert
  int kv_width = 0;  // of a cached key or value: the decoder's kv heads times its head size
  int gates = 0;     // 0: no depth gate; 1: one for all layers, from the last layer's values; or `layers`

  int width() const { return heads * head_dim; }
};

struct ContextOptions {
  bool layer_norm = true;
  bool qk_norm = true;
  float qk_norm_eps = 1e-6F;
};

enum class ContextStatus : std::uint8_t {
  ok,
  bad_shape,     // a size outside its bounds, or too wide for the device's kernel
  bad_tokens,    // more tokens than kMaxContextTokens
  bad_capacity,  // the output has room for fewer tokens than may be valid
  missing,       // a null pointer where there is something to read or write
  no_memory,     // not enough memory for the workspace
  cuda_failed,   // a kernel could not be launched
};

// One sentence for people, without a final period.
const char* describe(ContextStatus status);

// CPU, float32
// -----------------------------------------------------------------------------------------------

struct ContextWeights {
  const float* key = nullptr;          // (E, kv_width)
  const float* value = nullptr;        // (E, kv_width)
  const float* gate_weight = nullptr;  // (gates, kv_width)
  const float* gate_bias = nullptr;    // (gates,)
};

// Keys or values of the cache, (layers, tokens, kv_width): rows are contiguous, strides count floats.
struct CacheView {
  const float* data = nullptr;
  std::ptrdiff_t layer_stride = 0;
  std::ptrdiff_t token_stride = 0;
};

struct ContextInput {
  int tokens = 0;
  CacheView keys;
  CacheView values;
  const std::uint8_t* valid = nullptr;  // (tokens,): not 0 where the expert may read
  const std::uint8_t* depth = nullptr;  // (tokens,): not 0 at depth tokens; may be null without gates
};

// (layers, heads, capacity, head_dim) each; rows from the count of valid tokens on are left as they are.
struct ContextOutput {
  int capacity = 0;
  float* keys = nullptr;
  float* values = nullptr;
};

// The tokens that are valid.
int valid_tokens(std::span<const std::uint8_t> valid);

// The projections packed for one instruction set. One caller at a time runs; others wait for their turn.
class CpuContextPlan {
 public:
  // Copies the weights. std::invalid_argument if a shape is out of range, a weight is missing, or the
  // processor lacks the instruction set; threads: at least 1, the caller's included.
  CpuContextPlan(const ContextShapes& shapes, const ContextOptions& options, const ContextWeights& weights,
                 int threads, CpuIsa isa);
  CpuContextPlan(const CpuContextPlan&) = delete;
  CpuContextPlan& operator=(const CpuContextPlan&) = delete;
  ~CpuContextPlan();

  const ContextShapes& shapes() const;
  int threads() const;
  CpuIsa isa() const;

  // The same numbers whatever the number of threads.
  ContextStatus run(const ContextInput& input, const ContextOutput& output);

 private:
  class Projection;
  std::unique_ptr<Projection> projection_;
};

// CUDA, bfloat16
// ---------------------------------------------------------------------------------------------

#ifdef MOLMOACT2_HAVE_CUDA

// Past this width of the expert a block's sums do not fit its registers; released experts have 768.
inline constexpr int kMaxContextWidthCuda = 768;

// Every pointer below is to device memory, and bfloat16 numbers are given by their bits.
struct ContextWeightsCuda {
  const std::uint16_t* key = nullptr;          // (E, kv_width)
  const std::uint16_t* value = nullptr;        // (E, kv_width)
  const std::uint16_t* gate_weight = nullptr;  // (gates, kv_width)
  const std::uint16_t* gate_bias = nullptr;    // (gates,)
};

// Keys or values of the cache, (layers, tokens, kv_width): rows are contiguous, strides count numbers. Rows
// that begin at multiples of 16 bytes are read faster.
struct CacheViewCuda {
  const std::uint16_t* data = nullptr;
  std::ptrdiff_t layer_stride = 0;
  std::ptrdiff_t token_stride = 0;
};

struct ContextInputCuda {
  int tokens = 0;  // rows of the cache that are looked at: what lies past the prompt is just not valid
  CacheViewCuda keys;
  CacheViewCuda values;
  const std::uint8_t* valid = nullptr;  // (tokens,)
  const std::uint8_t* depth = nullptr;  // (tokens,); may be null without gates
};

// (layers, heads, capacity, head_dim) each; rows from the count of valid tokens on are left as they are, so
// that who reads them must go by `count`.
struct ContextOutputCuda {
  int capacity = 0;  // at least `tokens`
  std::uint16_t* keys = nullptr;
  std::uint16_t* values = nullptr;
  std::int32_t* count = nullptr;  // (1,): the number of valid tokens
};

// Bytes that context_cuda() needs between its kernels, a multiple of 16.
std::size_t context_workspace_bytes(const ContextShapes& shapes, int tokens);

// Queues three kernels on `stream`; nothing is allocated or synchronized, and no size depends on the flags,
// so that one captured graph serves every prompt of up to `tokens`. Sums are in float32 and in a fixed order:
// the same input gives the same bits. workspace: context_workspace_bytes(), aligned to 16 bytes.
ContextStatus context_cuda(const ContextShapes& shapes, const ContextOptions& options,
                           const ContextWeightsCuda& weights, const ContextInputCuda& input,
                           const ContextOutputCuda& output, void* workspace, CUstream_st* stream);

#endif

}  // namespace molmoact2::kernels
