// A context to compute, and what it must be by the definition, in double: what the CPU's and CUDA's tests
// share.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/context/context.h"

namespace molmoact2::check {

enum class Mask : std::uint8_t { all, some, none, only_depth };

struct ContextCase {
  kernels::ContextShapes shapes;
  int tokens = 0;
  Mask mask = Mask::all;
  kernels::ContextOptions options = {};
};

// Shapes with odd, single and empty sizes and with sizes next to multiples of what kernels work in.
inline std::vector<ContextCase> context_cases() {
  return {
      {{1, 1, 1, 1, 0}, 1},
      {{1, 1, 1, 1, 1}, 3, Mask::some},
      {{2, 2, 8, 16, 0}, 0},
      {{2, 2, 8, 16, 2}, 9, Mask::none},
      {{2, 3, 5, 7, 0}, 13, Mask::some},
      {{3, 2, 12, 24, 3}, 33, Mask::some},
      {{2, 4, 10, 48, 1}, 65, Mask::some},
      {{2, 4, 10, 48, 2}, 64, Mask::only_depth},
      {{1, 2, 31, 17, 1}, 49},
      {{2, 1, 33, 40, 0}, 130, Mask::some, {true, false, 1e-6F}},
      {{2, 5, 26, 72, 2}, 129, Mask::some, {false, true, 1e-5F}},
      {{1, 7, 19, 33, 1}, 70, Mask::some, {false, false, 1e-6F}},
  };
}

// Everything that a case's input consists of. The caches have gaps between their rows, filled with NaN.
struct ContextData {
  std::vector<float> key_weight, value_weight;  // (E, kv_width)
  std::vector<float> gate_weight, gate_bias;    // (gates, kv_width), (gates,)
  std::vector<float> keys, values;              // (layers, tokens, token_stride)
  std::vector<std::uint8_t> valid, depth;       // (tokens,)
  std::ptrdiff_t token_stride = 0;
  std::ptrdiff_t layer_stride = 0;
};

inline std::size_t size_of(int a, int b = 1, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

// `round` maps every number to what the kernel under test can hold; `gap`: numbers between two rows.
template <typename Round>
ContextData context_data(const ContextCase& test, int gap, const Round& round) {
  std::mt19937 generator(static_cast<unsigned>(test.tokens * 100 + test.shapes.kv_width));
  std::normal_distribution<double> normal;
  const kernels::ContextShapes& shapes = test.shapes;
  const auto numbers = [&](std::size_t count, double scale) {
    std::vector<float> result(count);
    for (float& number : result) number = round(static_cast<float>(scale * normal(generator)));
    return result;
  };
  ContextData data;
  const double scale = 1.0 / std::sqrt(shapes.kv_width);
  data.key_weight = numbers(size_of(shapes.width(), shapes.kv_width), scale);
  data.value_weight = numbers(size_of(shapes.width(), shapes.kv_width), scale);
  data.gate_weight = numbers(size_of(shapes.gates, shapes.kv_width), scale);
  // So far below zero that the gate shows behind the norms, through their epsilons.
  data.gate_bias.assign(size_of(shapes.gates), round(-7.0F));
  data.token_stride = shapes.kv_width + gap;
  data.layer_stride = data.token_stride * test.tokens + gap;
  const auto cache = [&] {
    std::vector<float> result(static_cast<std::size_t>(data.layer_stride) * size_of(shapes.layers),
                              std::nanf(""));
    for (int layer = 0; layer < shapes.layers; ++layer) {
      for (int token = 0; token < test.tokens; ++token) {
        for (int i = 0; i < shapes.kv_width; ++i) {
          result[static_cast<std::size_t>(layer * data.layer_stride + token * data.token_stride + i)] =
              round(static_cast<float>(normal(generator)));
        }
      }
    }
    return result;
  };
  data.keys = cache();
  data.values = cache();
  for (int token = 0; token < test.tokens; ++token) {
    const bool some = token % 5 != 2 && token % 7 != 0;
    data.valid.push_back(test.mask == Mask::all || test.mask == Mask::only_depth ||
                         (test.mask == Mask::some && some));
    data.depth.push_back(test.mask == Mask::only_depth || token % 3 == 1);
  }
  return data;
}

struct ContextReference {
  int count = 0;
  std::vector<double> keys, values;  // (layers, heads, count, head_dim)
};

// The definition, term by term: gate, projection, norm over E, norm per head of the keys.
inline ContextReference context_reference(const ContextCase& test, const ContextData& data) {
  const kernels::ContextShapes& shapes = test.shapes;
  const auto at = [&](const std::vector<float>& cache, int layer, int token, int i) {
    return static_cast<double>(
        cache[static_cast<std::size_t>(layer * data.layer_stride + token * data.token_stride + i)]);
  };
  const auto flag = [](const std::vector<std::uint8_t>& flags, int token) {
    return flags[static_cast<std::size_t>(token)] != 0;
  };
  std::vector<int> chosen;
  std::vector<int> pooled;
  for (int token = 0; token < test.tokens; ++token) {
    if (!flag(data.valid, token)) continue;
    chosen.push_back(token);
    if (!flag(data.depth, token)) pooled.push_back(token);
  }
  if (pooled.empty()) pooled = chosen;
  ContextReference reference;
  reference.count = static_cast<int>(chosen.size());
  const std::size_t size = size_of(shapes.layers, shapes.width(), reference.count);
  reference.keys.resize(size);
  reference.values.resize(size);

  const auto normed = [](std::vector<double>& numbers, std::size_t first, std::size_t count, double eps) {
    double squares = 0.0;
    for (std::size_t i = first; i < first + count; ++i) squares += numbers[i] * numbers[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(count) + eps);
    for (std::size_t i = first; i < first + count; ++i) numbers[i] *= scale;
  };
  for (int layer = 0; layer < shapes.layers; ++layer) {
    double gain = 1.0;
    if (shapes.gates > 0) {
      const int gate = shapes.gates == 1 ? 0 : layer;
      const int source = shapes.gates == 1 ? shapes.layers - 1 : layer;
      auto score = static_cast<double>(data.gate_bias[size_of(gate)]);
      for (int i = 0; i < shapes.kv_width; ++i) {
        double mean = 0.0;
        for (const int token : pooled) mean += at(data.values, source, token, i);
        mean /= static_cast<double>(pooled.size());
        score += mean * static_cast<double>(data.gate_weight[size_of(gate, shapes.kv_width) + size_of(i)]);
      }
      gain = 1.0 / (1.0 + std::exp(-score));
    }
    for (int index = 0; index < reference.count; ++index) {
      const int token = chosen[size_of(index)];
      const double g = shapes.gates > 0 && flag(data.depth, token) ? gain : 1.0;
      for (const bool is_key : {true, false}) {
        const std::vector<float>& weight = is_key ? data.key_weight : data.value_weight;
        std::vector<double> row(size_of(shapes.width()));
        for (int e = 0; e < shapes.width(); ++e) {
          for (int i = 0; i < shapes.kv_width; ++i) {
            row[size_of(e)] += static_cast<double>(weight[size_of(e, shapes.kv_width) + size_of(i)]) * g *
                               at(is_key ? data.keys : data.values, layer, token, i);
          }
        }
        if (test.options.layer_norm) normed(row, 0, row.size(), 1e-6);
        for (int head = 0; head < shapes.heads; ++head) {
          const std::size_t first = size_of(head, shapes.head_dim);
          if (is_key && test.options.qk_norm) {
            normed(row, first, size_of(shapes.head_dim), static_cast<double>(test.options.qk_norm_eps));
          }
          for (int d = 0; d < shapes.head_dim; ++d) {
            const std::size_t to = size_of(layer * shapes.heads + head, reference.count, shapes.head_dim) +
                                   size_of(index, shapes.head_dim) + size_of(d);
            (is_key ? reference.keys : reference.values)[to] = row[first + size_of(d)];
          }
        }
      }
    }
  }
  return reference;
}

}  // namespace molmoact2::check
