// The operations of the decoder as the public model defines them, in double and without any thought of
// speed; both versions are held against it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/decoder_ops/decoder_ops.h"

namespace molmoact2::check::reference {

using Numbers = std::vector<double>;

inline std::size_t index(std::ptrdiff_t value) { return static_cast<std::size_t>(value); }

inline Numbers random_numbers(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Numbers numbers(count);
  for (double& number : numbers) number = normal(generator);
  return numbers;
}

inline double square_sum(const double* x, int count) {
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

inline Numbers rms_norm(kernels::RowsShape shape, const Numbers& x, const Numbers& weight, double eps) {
  Numbers out(x.size());
  for (int row = 0; row < shape.rows; ++row) {
    const std::size_t start = index(row) * index(shape.width);
    const double root = std::sqrt(square_sum(x.data() + start, shape.width) / shape.width + eps);
    for (std::size_t i = 0; i < index(shape.width); ++i) out[start + i] = x[start + i] / root * weight[i];
  }
  return out;
}

inline Numbers layer_norm(kernels::RowsShape shape, const Numbers& x, const Numbers& weight,
                          const Numbers& bias, double eps) {
  Numbers centered(x.size());
  for (int row = 0; row < shape.rows; ++row) {
    const std::size_t start = index(row) * index(shape.width);
    double mean = 0.0;
    for (std::size_t i = 0; i < index(shape.width); ++i) mean += x[start + i] / shape.width;
    for (std::size_t i = 0; i < index(shape.width); ++i) centered[start + i] = x[start + i] - mean;
  }
  Numbers out = rms_norm(shape, centered, weight, eps);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] += bias[i % index(shape.width)];
  return out;
}

// Rotation tables as molmoact2_edge.model.rope keeps them.
struct Rotation {
  Rotation(int positions, int head_dim, double base)
      : cosines(index(positions) * index(head_dim)), sines(cosines.size()) {
    for (int position = 0; position < positions; ++position) {
      for (int i = 0; i < head_dim; ++i) {
        const int frequency = i % (head_dim / 2);
        const double angle = position * std::pow(base, -2.0 * frequency / head_dim);
        const std::size_t at = index(position) * index(head_dim) + index(i);
        cosines[at] = static_cast<float>(std::cos(angle));
        sines[at] = static_cast<float>(i < head_dim / 2 ? -std::sin(angle) : std::sin(angle));
      }
    }
  }
  std::vector<float> cosines;
  std::vector<float> sines;
};

struct QkvResult {
  Numbers q;       // (rows, heads, head_dim)
  Numbers keys;    // (rows, kv_heads, head_dim), by row and not yet at their positions
  Numbers values;  // (rows, kv_heads, head_dim)
};

inline void rotate(const double* head, int head_dim, const float* cosine, const float* sine, Numbers& out) {
  const int half = head_dim / 2;
  for (int i = 0; i < head_dim; ++i)
    out.push_back(head[i] * cosine[i] + head[(i + half) % head_dim] * sine[i]);
}

// Rows whose position has no table row are left at 0.
inline QkvResult qk_norm_rope(const kernels::QkvShape& shape, kernels::QkNorm norm, const Numbers& q_weight,
                              const Numbers& k_weight, double eps, const Numbers& qkv,
                              const Rotation& rotation, int position) {
  QkvResult result;
  const int head_dim = shape.head_dim;
  for (int row = 0; row < shape.rows; ++row) {
    Numbers normed(qkv.begin() + static_cast<std::ptrdiff_t>(row) * shape.width(),
                   qkv.begin() + static_cast<std::ptrdiff_t>(row + 1) * shape.width());
    const auto norm_part = [&](int first_head, int heads, const Numbers& weight) {
      if (norm == kernels::QkNorm::none) return;
      const int group = norm == kernels::QkNorm::whole ? heads * head_dim : head_dim;
      for (int start = 0; start < heads * head_dim; start += group) {
        double* const part = normed.data() + first_head * head_dim + start;
        const double root = std::sqrt(square_sum(part, group) / group + eps);
        for (int i = 0; i < group; ++i) part[i] = part[i] / root * weight[index(i)];
      }
    };
    norm_part(0, shape.heads, q_weight);
    norm_part(shape.heads, shape.kv_heads, k_weight);
    const int at = position + row;
    const bool inside = at >= 0 && at < shape.table_positions && at < shape.capacity;
    for (int head = 0; head < shape.heads + 2 * shape.kv_heads; ++head) {
      const double* const from = normed.data() + static_cast<std::ptrdiff_t>(head) * head_dim;
      const bool is_value = head >= shape.heads + shape.kv_heads;
      Numbers& cached = is_value ? result.values : result.keys;
      Numbers& to = head < shape.heads ? result.q : cached;
      if (!inside) {
        to.resize(to.size() + index(head_dim));
      } else if (is_value) {
        to.insert(to.end(), from, from + head_dim);
      } else {
        const std::size_t table = index(at) * index(head_dim);
        rotate(from, head_dim, rotation.cosines.data() + table, rotation.sines.data() + table, to);
      }
    }
  }
  return result;
}

inline Numbers silu_gated(kernels::RowsShape shape, const Numbers& up_gate) {
  Numbers out;
  for (int row = 0; row < shape.rows; ++row) {
    const double* const up = up_gate.data() + static_cast<std::ptrdiff_t>(row) * 2 * shape.width;
    for (int i = 0; i < shape.width; ++i) {
      const double gate = up[shape.width + i];
      out.push_back(up[i] * gate / (1.0 + std::exp(-gate)));
    }
  }
  return out;
}

inline std::int64_t argmax(const double* row, int first, int last) {
  int best = first;
  for (int i = first; i < last; ++i) {
    if (std::isnan(row[i])) return -1;
    if (row[i] > row[best]) best = i;
  }
  return best;
}

}  // namespace molmoact2::check::reference
