// Norms over the rows of a matrix: a block of threads takes a row.
#include <algorithm>

#include "kernels/decoder_ops/decoder_ops.h"
#include "kernels/decoder_ops/row_access.cuh"
#include "kernels/decoder_ops/shape_check.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/ptx.cuh"
#include "kernels/device/warp.cuh"

namespace molmoact2::kernels {
namespace {

constexpr int kMaxThreads = 512;
using Bf16 = __nv_bfloat16;

// kAdd: `x` is first added to `residual`, and the sum, as it is stored, is what is normed.
template <bool kAligned, bool kAdd>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const Bf16* x, Bf16* residual, const Bf16* __restrict__ weight, int width, float eps,
                    Bf16* __restrict__ out) {
  __shared__ float scratch[kMaxWarps];
  wait_for_previous_grid();
  let_next_grid_start();
  const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(blockIdx.x) * width;
  const Bf16* const row = kAdd ? residual + start : x + start;
  const int first = static_cast<int>(threadIdx.x) * kBf16PerLoad;
  const int step = static_cast<int>(blockDim.x) * kBf16PerLoad;
  float values[kBf16PerLoad] = {};
  float square = 0.0F;
  for (int at = first; at < width; at += step) {
    load_chunk<kAligned>(row, at, width, values);
    if constexpr (kAdd) {
      float addend[kBf16PerLoad];
      load_chunk<kAligned>(x + start, at, width, addend);
#pragma unroll
      for (int i = 0; i < kBf16PerLoad; ++i) {
        values[i] = __bfloat162float(__float2bfloat16_rn(values[i] + addend[i]));
      }
      store_chunk<kAligned>(residual + start, at, width, values);
    }
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) square = fmaf(values[i], values[i], square);
  }
  const float factor = rsqrtf(block_sum(square, scratch) / static_cast<float>(width) + eps);
  for (int at = first; at < width; at += step) {
    // Mostly a row has one chunk for each thread, which then still holds it.
    if (width > step) load_chunk<kAligned>(row, at, width, values);
    float weights[kBf16PerLoad];
    load_chunk<kAligned>(weight, at, width, weights);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) values[i] *= factor * weights[i];
    store_chunk<kAligned>(out + start, at, width, values);
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    layer_norm_kernel(const Bf16* x, const Bf16* __restrict__ weight, const Bf16* __restrict__ bias,
                      int width, float eps, Bf16* __restrict__ out) {
  __shared__ float scratch[kMaxWarps];
  wait_for_previous_grid();
  let_next_grid_start();
  const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(blockIdx.x) * width;
  const int first = static_cast<int>(threadIdx.x) * kBf16PerLoad;
  const int step = static_cast<int>(blockDim.x) * kBf16PerLoad;
  float values[kBf16PerLoad] = {};
  float sum = 0.0F;
  for (int at = first; at < width; at += step) {
    load_chunk<kAligned>(x + start, at, width, values);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) sum += values[i];
  }
  const float mean = block_sum(sum, scratch) / static_cast<float>(width);
  float square = 0.0F;
  for (int at = first; at < width; at += step) {
    if (width > step) load_chunk<kAligned>(x + start, at, width, values);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) {
      const float distance = at + i < width ? values[i] - mean : 0.0F;
      square = fmaf(distance, distance, square);
    }
  }
  const float factor = rsqrtf(block_sum(square, scratch) / static_cast<float>(width) + eps);
  for (int at = first; at < width; at += step) {
    if (width > step) load_chunk<kAligned>(x + start, at, width, values);
    float weights[kBf16PerLoad];
    float biases[kBf16PerLoad];
    load_chunk<kAligned>(weight, at, width, weights);
    load_chunk<kAligned>(bias, at, width, biases);
#pragma unroll
    for (int i = 0; i < kBf16PerLoad; ++i) {
      values[i] = fmaf((values[i] - mean) * factor, weights[i], biases[i]);
    }
    store_chunk<kAligned>(out + start, at, width, values);
  }
}

LaunchShape row_shape(RowsShape shape, CUstream_st* stream) {
  const int chunks = (shape.width + kBf16PerLoad - 1) / kBf16PerLoad;
  const int warps = std::min((chunks + kWarpLanes - 1) / kWarpLanes, kMaxThreads / kWarpLanes);
  return {.grid = static_cast<unsigned>(shape.rows),
          .block = static_cast<unsigned>(warps * kWarpLanes),
          .stream = stream,
          .overlap_previous = true};
}

DecoderOpsStatus status_of(cudaError_t error) {
  return error == cudaSuccess ? DecoderOpsStatus::ok : DecoderOpsStatus::cuda_failed;
}

template <bool kAdd>
DecoderOpsStatus queue_rms_norm(RowsShape shape, const void* x, void* residual, const void* weight, float eps,
                                void* out, CUstream_st* stream) {
  if (shape.rows == 0) return DecoderOpsStatus::ok;
  auto* const kernel = in_whole_chunks(shape.width, {x, residual, weight, out})
                           ? &rms_norm_kernel<true, kAdd>
                           : &rms_norm_kernel<false, kAdd>;
  return status_of(launch(row_shape(shape, stream), kernel, static_cast<const Bf16*>(x),
                          static_cast<Bf16*>(residual), static_cast<const Bf16*>(weight), shape.width, eps,
                          static_cast<Bf16*>(out)));
}

}  // namespace

DecoderOpsStatus rms_norm_cuda(RowsShape shape, const void* x, const void* weight, float eps, void* out,
                               CUstream_st* stream) {
  const DecoderOpsStatus status = check_rows(shape, {x, weight, out});
  if (status != DecoderOpsStatus::ok) return status;
  return queue_rms_norm<false>(shape, x, nullptr, weight, eps, out, stream);
}

DecoderOpsStatus add_rms_norm_cuda(RowsShape shape, const void* x, void* residual, const void* weight,
                                   float eps, void* out, CUstream_st* stream) {
  const DecoderOpsStatus status = check_rows(shape, {x, residual, weight, out});
  if (status != DecoderOpsStatus::ok) return status;
  return queue_rms_norm<true>(shape, x, residual, weight, eps, out, stream);
}

DecoderOpsStatus layer_norm_cuda(RowsShape shape, const void* x, const void* weight, const void* bias,
                                 float eps, void* out, CUstream_st* stream) {
  const DecoderOpsStatus status = check_rows(shape, {x, weight, bias, out});
  if (status != DecoderOpsStatus::ok || shape.rows == 0) return status;
  auto* const kernel = in_whole_chunks(shape.width, {x, weight, bias, out}) ? &layer_norm_kernel<true>
                                                                            : &layer_norm_kernel<false>;
  return status_of(launch(row_shape(shape, stream), kernel, static_cast<const Bf16*>(x),
                          static_cast<const Bf16*>(weight), static_cast<const Bf16*>(bias), shape.width, eps,
                          static_cast<Bf16*>(out)));
}

}  // namespace molmoact2::kernels
