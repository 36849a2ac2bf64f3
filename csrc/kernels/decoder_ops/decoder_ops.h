// What lies between the matrix products of the decoder (and, for layer_norm, of the vision tower), one pass
// over memory each: norms with their residual, q/k norm with rotation and cache write, the gated activation,
// and the choice of a token.
//
// Every matrix is row-major and contiguous; inputs and outputs must not overlap. On the CPU numbers are
// float32; on CUDA they are bf16, computed with in float32 and rounded once at the end. Zero rows are fine.
#pragma once

#include <cstdint>

#ifdef MOLMOACT2_HAVE_CUDA
struct CUstream_st;  // cudaStream_t is a pointer to it
#endif

namespace molmoact2::kernels {

enum class DecoderOpsStatus : std::uint8_t {
  ok,
  bad_shape,     // a negative count of rows, or another size outside 1..kMaxDecoderSize (heads: see below)
  bad_pointer,   // a null pointer
  bad_position,  // CPU: rows that leave the cache or the rotation table
  bad_range,     // not 0 <= first < last <= columns
  cuda_failed,   // a kernel could not be launched
};

// One sentence for an error message.
const char* describe(DecoderOpsStatus status);

inline constexpr int kMaxDecoderSize = 1 << 24;  // of rows and of columns
inline constexpr int kMaxDecoderHeads = 1 << 12;
inline constexpr int kMaxDecoderHeadDim = 256;  // even

struct RowsShape {
  int rows = 0;
  int width = 0;
};

// How q and k are normed before they are rotated.
enum class QkNorm : std::uint8_t {
  none,
  per_head,  // "qwen3": over each head; weights (head_dim,)
  whole,     // "olmo": over all heads of the projection; weights (heads * head_dim,), (kv_heads * head_dim,)
};

struct QkvShape {
  int rows = 0;      // new positions
  int heads = 0;     // of q; a multiple of kv_heads
  int kv_heads = 0;  // of k and of v
  int head_dim = 0;
  int capacity = 0;         // positions of the cache
  int table_positions = 0;  // of the rotation tables

  int width() const { return (heads + 2 * kv_heads) * head_dim; }  // of a row of qkv
};

// out = x / sqrt(mean(x^2) + eps) * weight over each row. x, out: (rows, width); weight: (width,).
DecoderOpsStatus rms_norm(RowsShape shape, const float* x, const float* weight, float eps, float* out);

// residual += x; out = rms_norm(residual).
DecoderOpsStatus add_rms_norm(RowsShape shape, const float* x, float* residual, const float* weight,
                              float eps, float* out);

// out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias over each row. weight, bias: (width,).
DecoderOpsStatus layer_norm(RowsShape shape, const float* x, const float* weight, const float* bias,
                            float eps, float* out);

// qkv: (rows, (heads + 2 * kv_heads) * head_dim), [q | k | v]. q and k are normed, then their halves are
// rotated: (a, b) becomes (a cos - b sin, b cos + a sin). Row r stands at position + r.
// q_weight, k_weight: read unless `norm` is none. cosines, sines: float32 (table_positions, head_dim) as
// molmoact2_edge.model.rope keeps them: both halves of a cosine row and the second of a sine row hold the
// values of head_dim / 2 frequencies. q: (rows, heads, head_dim). keys, values: (capacity, kv_heads,
// head_dim), of which the rows' positions are written.
DecoderOpsStatus qk_norm_rope_cache(const QkvShape& shape, QkNorm norm, const float* q_weight,
                                    const float* k_weight, float eps, const float* qkv, const float* cosines,
                                    const float* sines, std::int32_t position, float* q, float* keys,
                                    float* values);

// out = silu(gate) * up for rows [up | gate]: up_gate (rows, 2 * width), out (rows, width).
DecoderOpsStatus silu_gated(RowsShape shape, const float* up_gate, float* out);

// ids: (rows,), the column in first..last-1 of each row's largest number, the lowest of equals, or -1 where
// one of them is NaN. logits: (rows, width).
DecoderOpsStatus argmax_range(RowsShape shape, const float* logits, int first, int last, std::int64_t* ids);

#ifdef MOLMOACT2_HAVE_CUDA

// The same on a GPU: numbers are bf16 except for the rotation tables, every pointer is to device memory, the
// work is queued on `stream`, and nothing is allocated or synchronized.

DecoderOpsStatus rms_norm_cuda(RowsShape shape, const void* x, const void* weight, float eps, void* out,
                               CUstream_st* stream);

DecoderOpsStatus add_rms_norm_cuda(RowsShape shape, const void* x, void* residual, const void* weight,
                                   float eps, void* out, CUstream_st* stream);

DecoderOpsStatus layer_norm_cuda(RowsShape shape, const void* x, const void* weight, const void* bias,
                                 float eps, void* out, CUstream_st* stream);

// The position is read on the device, so that one captured graph serves every length. Rows that leave the
// cache or the tables are not stored, and their q is NaN.
DecoderOpsStatus qk_norm_rope_cache_cuda(const QkvShape& shape, QkNorm norm, const void* q_weight,
                                         const void* k_weight, float eps, const void* qkv,
                                         const float* cosines, const float* sines,
                                         const std::int32_t* position, void* q, void* keys, void* values,
                                         CUstream_st* stream);

DecoderOpsStatus silu_gated_cuda(RowsShape shape, const void* up_gate, void* out, CUstream_st* stream);

DecoderOpsStatus argmax_range_cuda(RowsShape shape, const void* logits, int first, int last,
                                   std::int64_t* ids, CUstream_st* stream);

#endif

}  // namespace molmoact2::kernels
