// Rotation with cache write, gated activation, choice of a token.
#include <algorithm>

#include "kernels/decoder_ops/decoder_ops.h"
#include "kernels/decoder_ops/row_access.cuh"
#include "kernels/decoder_ops/shape_check.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/ptx.cuh"
#include "kernels/device/warp.cuh"

namespace molmoact2::kernels {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kHeadThreads = 128;  // a warp for each head
constexpr int kHeadWarps = kHeadThreads / kWarpLanes;
constexpr int kMaxPairs = kMaxDecoderHeadDim / 2 / kWarpLanes;  // of a lane
constexpr int kActivationThreads = 256;
constexpr int kArgmaxThreads = 1024;

struct QkvPointers {
  const Bf16* qkv;
  const Bf16* q_weight;
  const Bf16* k_weight;
  const float* cosines;
  const float* sines;
  const std::int32_t* position;
  Bf16* q;
  Bf16* keys;
  Bf16* values;
};

// The numbers lane, lane + 32, ... of the first half of a head, and those half a head further.
struct HeadPairs {
  float first[kMaxPairs];
  float second[kMaxPairs];
};

__device__ __forceinline__ HeadPairs load_pairs(const Bf16* head, int half) {
  HeadPairs pairs;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int at = lane_index() + i * kWarpLanes;
    pairs.first[i] = at < half ? __bfloat162float(head[at]) : 0.0F;
    pairs.second[i] = at < half ? __bfloat162float(head[half + at]) : 0.0F;
  }
  return pairs;
}

__device__ __forceinline__ void store_pairs(const HeadPairs& pairs, int half, Bf16* head) {
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int at = lane_index() + i * kWarpLanes;
    if (at < half) {
      head[at] = __float2bfloat16_rn(pairs.first[i]);
      head[half + at] = __float2bfloat16_rn(pairs.second[i]);
    }
  }
}

__device__ __forceinline__ void scale_pairs(HeadPairs& pairs, int half, float factor, const Bf16* weight) {
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int at = lane_index() + i * kWarpLanes;
    if (at < half) {
      pairs.first[i] *= factor * __bfloat162float(weight[at]);
      pairs.second[i] *= factor * __bfloat162float(weight[half + at]);
    }
  }
}

__device__ __forceinline__ float square_sum(const HeadPairs& pairs) {
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    sum = fmaf(pairs.first[i], pairs.first[i], sum);
    sum = fmaf(pairs.second[i], pairs.second[i], sum);
  }
  return sum;
}

__device__ __forceinline__ void rotate_pairs(HeadPairs& pairs, int half, const float* cosine,
                                             const float* sine) {
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int at = lane_index() + i * kWarpLanes;
    if (at < half) {
      const float a = pairs.first[i];
      const float b = pairs.second[i];
      pairs.first[i] = a * cosine[at] - b * sine[half + at];
      pairs.second[i] = b * cosine[at] + a * sine[half + at];
    }
  }
}

// Of `count` numbers of a row, for all threads of the block.
__device__ float row_square_sum(const Bf16* row, int count, float* scratch) {
  float sum = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kHeadThreads) {
    const float value = __bfloat162float(row[i]);
    sum = fmaf(value, value, sum);
  }
  return block_sum(sum, scratch);
}

// blockIdx.x is the row; its heads (q, then k, then v) are shared out to all warps of the blocks along y,
// of which there is one where the norm spans them.
template <QkNorm kNorm>
__global__ void __launch_bounds__(kHeadThreads)
    qk_norm_rope_cache_kernel(QkvShape shape, QkvPointers pointers, float eps) {
  wait_for_previous_grid();
  let_next_grid_start();
  const std::ptrdiff_t row = blockIdx.x;
  const int head_dim = shape.head_dim;
  const int half = head_dim / 2;
  const std::ptrdiff_t kv_width = static_cast<std::ptrdiff_t>(shape.kv_heads) * head_dim;
  const int all_heads = shape.heads + 2 * shape.kv_heads;
  const Bf16* const from = pointers.qkv + row * all_heads * head_dim;
  const std::int64_t position = static_cast<std::int64_t>(*pointers.position) + row;
  const bool inside = position >= 0 && position < shape.capacity && position < shape.table_positions;

  float q_factor = 1.0F;
  float k_factor = 1.0F;
  if constexpr (kNorm == QkNorm::whole) {
    __shared__ float scratch[kMaxWarps];
    const int q_width = shape.heads * head_dim;
    const int k_width = shape.kv_heads * head_dim;
    q_factor = rsqrtf(row_square_sum(from, q_width, scratch) / static_cast<float>(q_width) + eps);
    k_factor = rsqrtf(row_square_sum(from + q_width, k_width, scratch) / static_cast<float>(k_width) + eps);
  }
  const int step = static_cast<int>(gridDim.y) * kHeadWarps;
  for (int head = static_cast<int>(blockIdx.y) * kHeadWarps + warp_index(); head < all_heads; head += step) {
    const bool is_q = head < shape.heads;
    const bool is_v = head >= shape.heads + shape.kv_heads;
    if (!inside && !is_q) return;  // this and every later head of the warp would go to the cache
    HeadPairs pairs = load_pairs(from + static_cast<std::ptrdiff_t>(head) * head_dim, half);
    if (is_v) {
      const int v_head = head - shape.heads - shape.kv_heads;
      store_pairs(pairs, half, pointers.values + position * kv_width + v_head * head_dim);
      continue;
    }
    const int index = is_q ? head : head - shape.heads;
    if constexpr (kNorm == QkNorm::per_head) {
      const float factor = rsqrtf(warp_sum(square_sum(pairs)) / static_cast<float>(head_dim) + eps);
      scale_pairs(pairs, half, factor, is_q ? pointers.q_weight : pointers.k_weight);
    } else if constexpr (kNorm == QkNorm::whole) {
      const Bf16* const weight = (is_q ? pointers.q_weight : pointers.k_weight) + index * head_dim;
      scale_pairs(pairs, half, is_q ? q_factor : k_factor, weight);
    }
    if (inside) {
      rotate_pairs(pairs, half, pointers.cosines + position * head_dim, pointers.sines + position * head_dim);
    } else {
#pragma unroll
      for (int i = 0; i < kMaxPairs; ++i) pairs.first[i] = pairs.second[i] = __uint_as_float(0x7FFFFFFFU);
    }
    Bf16* const to = is_q ? pointers.q + (row * shape.heads + index) * head_dim
                          : pointers.keys + position * kv_width + index * head_dim;
    store_pairs(pairs, half, to);
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kActivationThreads)
    silu_gated_kernel(const Bf16* up_gate, int width, Bf16* __restrict__ out) {
  wait_for_previous_grid();
  let_next_grid_start();
  const std::ptrdiff_t row = blockIdx.x;
  const Bf16* const up = up_gate + row * 2 * width;
  const int step = static_cast<int>(gridDim.y) * kActivationThreads * kBf16PerLoad;
  const int first = static_cast<int>(blockIdx.y * kActivationThreads + threadIdx.x) * kBf16PerLoad;
  for (int at = first; at < width; at += step) {
    float ups[kBf16PerLoad];
    float gates[kBf16PerLoad];
    load_chunk<kAligned>(up, at, width, ups);
    load_chunk<kAligned>(up + width, at, width, gates);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) ups[i] *= __fdividef(gates[i], 1.0F + __expf(-gates[i]));
    store_chunk<kAligned>(out + row * width, at, width, ups);
  }
}

// Larger for a larger number, and among equal numbers for a lower column. Not for NaN.
__device__ __forceinline__ unsigned long long rank(float score, int column) {
  const unsigned bits = __float_as_uint(score + 0.0F);  // -0 and 0 are equal
  const unsigned ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<unsigned long long>(ordered) << 32 | (0xFFFFFFFFU - static_cast<unsigned>(column));
}

// The columns are read in whole chunks of the row, of which those outside the range do not count.
template <bool kAligned>
__global__ void __launch_bounds__(kArgmaxThreads)
    argmax_range_kernel(const Bf16* logits, int width, int first, int last, std::int64_t* __restrict__ ids) {
  __shared__ unsigned long long scratch[kMaxWarps];
  wait_for_previous_grid();
  let_next_grid_start();
  const Bf16* const row = logits + static_cast<std::ptrdiff_t>(blockIdx.x) * width;
  unsigned long long best = 0;  // below every number
  bool valid = true;
  const int start = first / kBf16PerLoad * kBf16PerLoad + static_cast<int>(threadIdx.x) * kBf16PerLoad;
  for (int at = start; at < last; at += kArgmaxThreads * kBf16PerLoad) {
    float scores[kBf16PerLoad];
    load_chunk<kAligned>(row, at, width, scores);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) {
      const int column = at + i;
      if (column < first || column >= last) continue;
      if (scores[i] != scores[i]) valid = false;
      const unsigned long long candidate = rank(scores[i], column);
      best = candidate > best ? candidate : best;
    }
  }
  best = block_max(best, scratch);
  const bool row_valid = __syncthreads_and(valid ? 1 : 0) != 0;
  if (threadIdx.x == 0) {
    ids[blockIdx.x] = row_valid ? static_cast<std::int64_t>(0xFFFFFFFFU - static_cast<unsigned>(best)) : -1;
  }
}

DecoderOpsStatus status_of(cudaError_t error) {
  return error == cudaSuccess ? DecoderOpsStatus::ok : DecoderOpsStatus::cuda_failed;
}

auto qk_kernel(QkNorm norm) {
  switch (norm) {
    case QkNorm::per_head:
      return &qk_norm_rope_cache_kernel<QkNorm::per_head>;
    case QkNorm::whole:
      return &qk_norm_rope_cache_kernel<QkNorm::whole>;
    case QkNorm::none:
      break;
  }
  return &qk_norm_rope_cache_kernel<QkNorm::none>;
}

}  // namespace

DecoderOpsStatus qk_norm_rope_cache_cuda(const QkvShape& shape, QkNorm norm, const void* q_weight,
                                         const void* k_weight, float eps, const void* qkv,
                                         const float* cosines, const float* sines,
                                         const std::int32_t* position, void* q, void* keys, void* values,
                                         CUstream_st* stream) {
  const DecoderOpsStatus status =
      check_qkv(shape, norm, q_weight, k_weight, {qkv, cosines, sines, position, q, keys, values});
  if (status != DecoderOpsStatus::ok || shape.rows == 0) return status;
  const QkvPointers pointers{static_cast<const Bf16*>(qkv),
                             static_cast<const Bf16*>(q_weight),
                             static_cast<const Bf16*>(k_weight),
                             cosines,
                             sines,
                             position,
                             static_cast<Bf16*>(q),
                             static_cast<Bf16*>(keys),
                             static_cast<Bf16*>(values)};
  const int all_heads = shape.heads + 2 * shape.kv_heads;
  const int parts = norm == QkNorm::whole ? 1 : (all_heads + kHeadWarps - 1) / kHeadWarps;
  return status_of(launch({.grid = {static_cast<unsigned>(shape.rows), static_cast<unsigned>(parts)},
                           .block = kHeadThreads,
                           .stream = stream,
                           .overlap_previous = true},
                          qk_kernel(norm), shape, pointers, eps));
}

DecoderOpsStatus silu_gated_cuda(RowsShape shape, const void* up_gate, void* out, CUstream_st* stream) {
  const DecoderOpsStatus status = check_rows(shape, {up_gate, out});
  if (status != DecoderOpsStatus::ok || shape.rows == 0) return status;
  constexpr int kNumbersPerBlock = kActivationThreads * kBf16PerLoad;
  const int parts = (shape.width + kNumbersPerBlock - 1) / kNumbersPerBlock;
  auto* const kernel =
      in_whole_chunks(shape.width, {up_gate, out}) ? &silu_gated_kernel<true> : &silu_gated_kernel<false>;
  return status_of(launch({.grid = {static_cast<unsigned>(shape.rows), static_cast<unsigned>(parts)},
                           .block = kActivationThreads,
                           .stream = stream,
                           .overlap_previous = true},
                          kernel, static_cast<const Bf16*>(up_gate), shape.width, static_cast<Bf16*>(out)));
}

DecoderOpsStatus argmax_range_cuda(RowsShape shape, const void* logits, int first, int last,
                                   std::int64_t* ids, CUstream_st* stream) {
  const DecoderOpsStatus status = check_range(shape, first, last, {logits, ids});
  if (status != DecoderOpsStatus::ok || shape.rows == 0) return status;
  auto* const kernel =
      in_whole_chunks(shape.width, {logits}) ? &argmax_range_kernel<true> : &argmax_range_kernel<false>;
  return status_of(launch({.grid = static_cast<unsigned>(shape.rows),
                           .block = kArgmaxThreads,
                           .stream = stream,
                           .overlap_previous = true},
                          kernel, static_cast<const Bf16*>(logits), shape.width, first, last, ids));
}

}  // namespace molmoact2::kernels
