#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/decoder_ops/decoder_ops.h"
#include "kernels/decoder_ops/shape_check.h"

namespace molmoact2::kernels {
namespace {

// Sums are double: float32 inputs then lose nothing, and one accumulator is as fast as the memory here.
double square_sum(const float* x, int width) {
  double sum = 0.0;
  for (int i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

float root_factor(double square, int width, float eps) {
  return static_cast<float>(1.0 / std::sqrt(square / width + static_cast<double>(eps)));
}

void norm_row(const float* x, const float* weight, int width, float eps, float* out) {
  const float factor = root_factor(square_sum(x, width), width, eps);
  for (int i = 0; i < width; ++i) out[i] = x[i] * factor * weight[i];
}

// weight: null for a head that is only scaled, by 1 where there is no norm at all.
void rotate_head(const float* x, float factor, const float* weight, const float* cosine, const float* sine,
                 int head_dim, float* out) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = weight == nullptr ? x[i] : x[i] * factor * weight[i];
    const float b = weight == nullptr ? x[half + i] : x[half + i] * factor * weight[half + i];
    out[i] = a * cosine[i] - b * sine[half + i];
    out[half + i] = b * cosine[i] + a * sine[half + i];
  }
}

struct HeadNorm {
  QkNorm norm = QkNorm::none;
  const float* weight = nullptr;
  float eps = 0.0F;
};

void rotate_heads(const float* x, int heads, int head_dim, const HeadNorm& norm, const float* cosine,
                  const float* sine, float* out) {
  float factor = 1.0F;
  if (norm.norm == QkNorm::whole) {
    factor = root_factor(square_sum(x, heads * head_dim), heads * head_dim, norm.eps);
  }
  for (int head = 0; head < heads; ++head) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(head) * head_dim;
    const float* weight = nullptr;
    switch (norm.norm) {
      case QkNorm::none:
        break;
      case QkNorm::per_head:
        factor = root_factor(square_sum(x + at, head_dim), head_dim, norm.eps);
        weight = norm.weight;
        break;
      case QkNorm::whole:
        weight = norm.weight + at;
        break;
    }
    rotate_head(x + at, factor, weight, cosine, sine, head_dim, out + at);
  }
}

}  // namespace

const char* describe(DecoderOpsStatus status) {
  switch (status) {
    case DecoderOpsStatus::ok:
      return "no error";
    case DecoderOpsStatus::bad_shape:
      return "sizes must be at least 1 and at most 2^24, heads a multiple of kv_heads, and head_dim even and "
             "at "
             "most 256";
    case DecoderOpsStatus::bad_pointer:
      return "an array is missing";
    case DecoderOpsStatus::bad_position:
      return "the rows leave the cache or the rotation table";
    case DecoderOpsStatus::bad_range:
      return "the range of columns must not be empty and must lie within the row";
    case DecoderOpsStatus::cuda_failed:
      return "a CUDA kernel could not be launched";
  }
  return "unknown";
}

DecoderOpsStatus rms_norm(RowsShape shape, const float* x, const float* weight, float eps, float* out) {
  const DecoderOpsStatus status = check_rows(shape, {x, weight, out});
  if (status != DecoderOpsStatus::ok) return status;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    norm_row(x + row * shape.width, weight, shape.width, eps, out + row * shape.width);
  }
  return DecoderOpsStatus::ok;
}

DecoderOpsStatus add_rms_norm(RowsShape shape, const float* x, float* residual, const float* weight,
                              float eps, float* out) {
  const DecoderOpsStatus status = check_rows(shape, {x, residual, weight, out});
  if (status != DecoderOpsStatus::ok) return status;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    const float* const addend = x + row * shape.width;
    float* const sum = residual + row * shape.width;
    for (int i = 0; i < shape.width; ++i) sum[i] += addend[i];
    norm_row(sum, weight, shape.width, eps, out + row * shape.width);
  }
  return DecoderOpsStatus::ok;
}

DecoderOpsStatus layer_norm(RowsShape shape, const float* x, const float* weight, const float* bias,
                            float eps, float* out) {
  const DecoderOpsStatus status = check_rows(shape, {x, weight, bias, out});
  if (status != DecoderOpsStatus::ok) return status;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    const float* const from = x + row * shape.width;
    float* const to = out + row * shape.width;
    double mean = 0.0;
    for (int i = 0; i < shape.width; ++i) mean += from[i];
    mean /= shape.width;
    double square = 0.0;
    for (int i = 0; i < shape.width; ++i) square += (from[i] - mean) * (from[i] - mean);
    const float factor = root_factor(square, shape.width, eps);
    for (int i = 0; i < shape.width; ++i) {
      to[i] = static_cast<float>(from[i] - mean) * factor * weight[i] + bias[i];
    }
  }
  return DecoderOpsStatus::ok;
}

DecoderOpsStatus qk_norm_rope_cache(const QkvShape& shape, QkNorm norm, const float* q_weight,
                                    const float* k_weight, float eps, const float* qkv, const float* cosines,
                                    const float* sines, std::int32_t position, float* q, float* keys,
                                    float* values) {
  const DecoderOpsStatus status =
      check_qkv(shape, norm, q_weight, k_weight, {qkv, cosines, sines, q, keys, values});
  if (status != DecoderOpsStatus::ok) return status;
  if (position < 0 || position > std::min(shape.capacity, shape.table_positions) - shape.rows) {
    return DecoderOpsStatus::bad_position;
  }
  const std::ptrdiff_t q_width = static_cast<std::ptrdiff_t>(shape.heads) * shape.head_dim;
  const std::ptrdiff_t kv_width = static_cast<std::ptrdiff_t>(shape.kv_heads) * shape.head_dim;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    const std::ptrdiff_t at = position + row;
    const float* const cosine = cosines + at * shape.head_dim;
    const float* const sine = sines + at * shape.head_dim;
    const float* const from = qkv + row * shape.width();
    rotate_heads(from, shape.heads, shape.head_dim, {norm, q_weight, eps}, cosine, sine, q + row * q_width);
    rotate_heads(from + q_width, shape.kv_heads, shape.head_dim, {norm, k_weight, eps}, cosine, sine,
                 keys + at * kv_width);
    std::copy_n(from + q_width + kv_width, kv_width, values + at * kv_width);
  }
  return DecoderOpsStatus::ok;
}

DecoderOpsStatus silu_gated(RowsShape shape, const float* up_gate, float* out) {
  const DecoderOpsStatus status = check_rows(shape, {up_gate, out});
  if (status != DecoderOpsStatus::ok) return status;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    const float* const up = up_gate + row * 2 * shape.width;
    const float* const gate = up + shape.width;
    float* const to = out + row * shape.width;
    for (int i = 0; i < shape.width; ++i) to[i] = up[i] * (gate[i] / (1.0F + std::exp(-gate[i])));
  }
  return DecoderOpsStatus::ok;
}

DecoderOpsStatus argmax_range(RowsShape shape, const float* logits, int first, int last, std::int64_t* ids) {
  const DecoderOpsStatus status = check_range(shape, first, last, {logits, ids});
  if (status != DecoderOpsStatus::ok) return status;
  for (std::ptrdiff_t row = 0; row < shape.rows; ++row) {
    const float* const scores = logits + row * shape.width;
    int best = first;
    bool valid = true;
    for (int i = first; i < last; ++i) {
      if (std::isnan(scores[i])) valid = false;
      if (scores[i] > scores[best]) best = i;
    }
    ids[row] = valid ? best : -1;
  }
  return DecoderOpsStatus::ok;
}

}  // namespace molmoact2::kernels
