// The operations of flow_ops.h over any instruction set. Internal linkage throughout, see cpu/small_gemm.h.
#pragma once

#include <cstddef>

#include "kernels/cpu/simd_exp.h"
#include "kernels/cpu/small_gemm.h"
#include "kernels/flow/flow_ops.h"

namespace molmoact2::kernels {
namespace {

constexpr float kNormEps = 1e-6F;

template <typename Simd>
struct SimdFlowOps {
  using Register = typename Simd::Register;

  static const float* row(const float* matrix, int index, int columns) {
    return matrix + static_cast<std::ptrdiff_t>(index) * columns;
  }
  static float* row(float* matrix, int index, int columns) {
    return matrix + static_cast<std::ptrdiff_t>(index) * columns;
  }

  // 1 / sqrt(mean of squares + eps) of one vector of columns. Four sums hide the latency of the additions.
  static Register inverse_rms(const float* x, int features, int columns, float eps) {
    Register sums[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
    int feature = 0;
    for (; feature + 4 <= features; feature += 4) {
      unroll<4>([&](auto part) __attribute__((always_inline)) {
        const Register value = Simd::load(row(x, feature + part.value, columns));
        sums[part.value] = Simd::multiply_add(value, value, sums[part.value]);
      });
    }
    for (; feature < features; ++feature) {
      const Register value = Simd::load(row(x, feature, columns));
      sums[0] = Simd::multiply_add(value, value, sums[0]);
    }
    const Register sum = Simd::add(Simd::add(sums[0], sums[1]), Simd::add(sums[2], sums[3]));
    const Register mean = Simd::divide(sum, Simd::set(static_cast<float>(features)));
    return Simd::divide(Simd::set(1.0F), Simd::sqrt(Simd::add(mean, Simd::set(eps))));
  }

  static void norm_modulate(const float* h, int features, int columns, const float* shift,
                            const float* one_plus_scale, float* out) {
    for (int column = 0; column < columns; column += Simd::kLanes) {
      const Register inverse = inverse_rms(h + column, features, columns, kNormEps);
      for (int feature = 0; feature < features; ++feature) {
        const Register normed = Simd::multiply(Simd::load(row(h, feature, columns) + column), inverse);
        Simd::store(
            row(out, feature, columns) + column,
            Simd::multiply_add(normed, Simd::set(one_plus_scale[feature]), Simd::set(shift[feature])));
      }
    }
  }

  // Calls finish(row within the panel, register, column) for every vector of a tile whose row exists.
  template <int Rows, int Vectors, typename Finish>
  MOLMOACT2_INLINE static void for_each_vector(const Tile<Simd, Rows, Vectors>& tile, int rows_here,
                                               int first_column, const Finish& finish) {
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      if (r.value < rows_here) {
        unroll<Vectors>([&](auto v) __attribute__((always_inline)) {
          finish(r, tile.at[r.value][v.value], first_column + v.value * Simd::kLanes);
        });
      }
    });
  }

  static void linear(const PackedMatrix& matrix, const float* x, int columns, int panel, float* y) {
    multiply_rows<Simd, true>(
        matrix.panels, matrix.rows, matrix.depth, x, columns, panel,
        [&](const auto& tile, int first_row, int rows_here, int first_column) __attribute__((always_inline)) {
          for_each_vector(tile, rows_here, first_column,
                          [&](auto r, Register sum, int column) __attribute__((always_inline)) {
                            const int feature = first_row + r.value;
                            Simd::store(row(y, feature, columns) + column,
                                        Simd::add(sum, Simd::set(matrix.bias[feature])));
                          });
        });
  }

  static void linear_add_gated(const PackedMatrix& matrix, const float* x, int columns, int panel,
                               const float* gate, float* h) {
    multiply_rows<Simd, true>(
        matrix.panels, matrix.rows, matrix.depth, x, columns, panel,
        [&](const auto& tile, int first_row, int rows_here, int first_column) __attribute__((always_inline)) {
          for_each_vector(tile, rows_here, first_column,
                          [&](auto r, Register sum, int column) __attribute__((always_inline)) {
                            const int feature = first_row + r.value;
                            float* const to = row(h, feature, columns) + column;
                            const Register y = Simd::add(sum, Simd::set(matrix.bias[feature]));
                            Simd::store(to, Simd::multiply_add(Simd::set(gate[feature]), y, Simd::load(to)));
                          });
        });
  }

  static void linear_silu_gated(const PackedMatrix& matrix, const float* x, int columns, int panel,
                                float* y) {
    multiply_rows<Simd, true>(
        matrix.panels, matrix.rows, matrix.depth, x, columns, panel,
        [&]<int Rows, int Vectors>(const Tile<Simd, Rows, Vectors>& tile, int first_row, int rows_here,
                                   int first_column) __attribute__((always_inline)) {
          constexpr int kHalf = Rows / 2;
          unroll<kHalf>([&](auto r) __attribute__((always_inline)) {
            if (2 * r.value < rows_here) {
              const Register up_bias = Simd::set(matrix.bias[first_row + r.value]);
              const Register gate_bias = Simd::set(matrix.bias[first_row + kHalf + r.value]);
              unroll<Vectors>([&](auto v) __attribute__((always_inline)) {
                const Register up = Simd::add(tile.at[r.value][v.value], up_bias);
                const Register gate = Simd::add(tile.at[kHalf + r.value][v.value], gate_bias);
                const Register decay = exp_of<Simd>(Simd::subtract(Simd::zero(), gate));
                const Register silu = Simd::divide(gate, Simd::add(Simd::set(1.0F), decay));
                Simd::store(row(y, first_row / 2 + r.value, columns) + first_column + v.value * Simd::kLanes,
                            Simd::multiply(silu, up));
              });
            }
          });
        });
  }

  // out = x / rms(x) * factor over the features of one head; without the norm only times factor.
  static void head_norm(const float* x, const HeadOptions& head, int columns, float factor, float* out) {
    for (int column = 0; column < columns; column += Simd::kLanes) {
      Register scale = Simd::set(factor);
      if (head.norm) {
        scale = Simd::multiply(inverse_rms(x + column, head.head_dim, columns, head.norm_eps), scale);
      }
      for (int feature = 0; feature < head.head_dim; ++feature) {
        Simd::store(row(out, feature, columns) + column,
                    Simd::multiply(Simd::load(row(x, feature, columns) + column), scale));
      }
    }
  }

  // Rotates the halves of one head in place: cos and sin are (head_dim / 2, columns).
  static void rotate(float* x, int head_dim, int columns, const float* cos, const float* sin) {
    const std::ptrdiff_t half = static_cast<std::ptrdiff_t>(head_dim / 2) * columns;
    for (std::ptrdiff_t i = 0; i < half; i += Simd::kLanes) {
      const Register first = Simd::load(x + i);
      const Register second = Simd::load(x + half + i);
      const Register c = Simd::load(cos + i);
      const Register s = Simd::load(sin + i);
      Simd::store(x + i, Simd::subtract(Simd::multiply(first, c), Simd::multiply(second, s)));
      Simd::store(x + half + i, Simd::multiply_add(second, c, Simd::multiply(first, s)));
    }
  }

  // Turns (tokens, columns) scores into e^(score - maximum) and stores the inverse of every column's sum.
  static void softmax(float* scores, int tokens, int columns, float* inverse) {
    for (int column = 0; column < columns; column += Simd::kLanes) {
      Register maximum = Simd::load(scores + column);
      for (int token = 1; token < tokens; ++token) {
        maximum = Simd::max(maximum, Simd::load(row(scores, token, columns) + column));
      }
      Register sum = Simd::zero();
      for (int token = 0; token < tokens; ++token) {
        float* const at = row(scores, token, columns) + column;
        const Register weight = exp_of<Simd>(Simd::subtract(Simd::load(at), maximum));
        Simd::store(at, weight);
        sum = Simd::add(sum, weight);
      }
      Simd::store(inverse + column, Simd::divide(Simd::set(1.0F), sum));
    }
  }

  // attended = values^T softmax(scores); `values`: a packed (head_dim, tokens) matrix.
  static void weigh_values(const float* values, int head_dim, float* scores, int tokens, int columns,
                           float* inverse, float* attended) {
    softmax(scores, tokens, columns, inverse);
    const int panels = (head_dim + Simd::kPanelRows - 1) / Simd::kPanelRows;
    for (int panel = 0; panel < panels; ++panel) {
      multiply_rows<Simd, false>(
          values, head_dim, tokens, scores, columns, panel,
          [&](const auto& tile, int first_row, int rows_here, int first_column)
              __attribute__((always_inline)) {
                for_each_vector(tile, rows_here, first_column,
                                [&](auto r, Register sum, int column) __attribute__((always_inline)) {
                                  Simd::store(row(attended, first_row + r.value, columns) + column,
                                              Simd::multiply(sum, Simd::load(inverse + column)));
                                });
              });
    }
  }

  // Rows of (width, horizon) as a packed matrix (width, horizon), so that values are read like context
  // values.
  static void pack_values(const float* rows, int head_dim, int horizon, int columns, float* packed) {
    for (int first = 0; first < head_dim; first += Simd::kPanelRows) {
      const int here = head_dim - first < Simd::kPanelRows ? head_dim - first : Simd::kPanelRows;
      const int width = (here + Simd::kRowStep - 1) / Simd::kRowStep * Simd::kRowStep;
      for (int r = 0; r < width; ++r) {
        const float* const from = row(rows, first + r, columns);
        for (int t = 0; t < horizon; ++t) packed[t * width + r] = r < here ? from[t] : 0.0F;
      }
      packed += static_cast<std::ptrdiff_t>(width) * horizon;
    }
  }

  static void self_attention(const SelfAttention& attention, int head, const AttentionScratch& scratch) {
    const int head_dim = attention.head.head_dim;
    const int columns = attention.columns;
    const int horizon = attention.horizon;
    const int first = head * head_dim;
    const int width = attention.heads * head_dim;
    head_norm(row(attention.qkv, first, columns), attention.head, columns, attention.head.score_scale,
              scratch.query);
    head_norm(row(attention.qkv, width + first, columns), attention.head, columns, 1.0F, scratch.key);
    if (attention.cos != nullptr) {
      rotate(scratch.query, head_dim, columns, attention.cos, attention.sin);
      rotate(scratch.key, head_dim, columns, attention.cos, attention.sin);
    }
    pack_values(row(attention.qkv, 2 * width + first, columns), head_dim, horizon, columns, scratch.values);

    // Transposed keys are a matrix of one panel as wide as the columns, read in strips of a panel's rows.
    for (int token = 0; token < horizon; token += Simd::kPanelRows) {
      const int here = horizon - token < Simd::kPanelRows ? horizon - token : Simd::kPanelRows;
      with_panel_width<Simd>(here, [&](auto panel_width) {
        for_column_tiles<Simd>(columns, [&](auto vectors, int first_column) {
          const auto tile = multiply_panel<Simd, panel_width.value, vectors.value, false>(
              scratch.key + token, columns, scratch.query + first_column, columns, head_dim);
          for_each_vector(tile, here, first_column,
                          [&](auto r, Register score, int column) __attribute__((always_inline)) {
                            if (attention.bias != nullptr) {
                              const float* const bias = row(attention.bias, token + r.value, columns);
                              score = Simd::add(score, Simd::load(bias + column));
                            }
                            Simd::store(row(scratch.scores, token + r.value, columns) + column, score);
                          });
        });
      });
    }
    weigh_values(scratch.values, head_dim, scratch.scores, horizon, columns, scratch.inverse,
                 row(attention.attended, first, columns));
  }

  static void cross_attention(const CrossAttention& attention, int head, const AttentionScratch& scratch) {
    const int head_dim = attention.head.head_dim;
    const int columns = attention.columns;
    const int first = head * head_dim;
    head_norm(row(attention.query, first, columns), attention.head, columns, attention.head.score_scale,
              scratch.query);
    const int panels = (attention.tokens + Simd::kPanelRows - 1) / Simd::kPanelRows;
    for (int panel = 0; panel < panels; ++panel) {
      multiply_rows<Simd, true>(
          attention.keys, attention.tokens, head_dim, scratch.query, columns, panel,
          [&](const auto& tile, int first_row, int rows_here,
              int first_column) __attribute__((always_inline)) {
            for_each_vector(tile, rows_here, first_column,
                            [&](auto r, Register score, int column) __attribute__((always_inline)) {
                              Simd::store(row(scratch.scores, first_row + r.value, columns) + column, score);
                            });
          });
    }
    weigh_values(attention.values, head_dim, scratch.scores, attention.tokens, columns, scratch.inverse,
                 row(attention.attended, first, columns));
  }

  static void exponential(const float* x, int count, float* y) {
    for (int i = 0; i < count; i += Simd::kLanes) Simd::store(y + i, exp_of<Simd>(Simd::load(x + i)));
  }

  static constexpr FlowOps table(CpuIsa isa) {
    return {isa,         Simd::kLanes,      Simd::kPanelRows,   Simd::kRowStep,  &norm_modulate,
            &linear,     &linear_add_gated, &linear_silu_gated, &self_attention, &cross_attention,
            &exponential};
  }
};

}  // namespace
}  // namespace molmoact2::kernels
