// The operations of context_ops.h over any instruction set. Internal linkage throughout, see
// cpu/small_gemm.h.
#pragma once

#include <cstddef>

#include "kernels/context/context_ops.h"
#include "kernels/cpu/small_gemm.h"

namespace molmoact2::kernels {
namespace {

template <typename Simd>
struct SimdContextOps {
  using Register = typename Simd::Register;
  static constexpr int kStrip = Simd::kMaxVectors * Simd::kLanes;

  // Rows of memory as a panel of small_gemm.h: (depth, Rows). A token past the last repeats it, so that every
  // panel has a width that is compiled; what comes out for it is not read.
  template <int Rows>
  static void pack_tokens(const float* const* rows, int tokens, int depth, float* panel) {
    const float* from[Rows];
    for (int r = 0; r < Rows; ++r) from[r] = rows[r < tokens ? r : tokens - 1];
    for (int k = 0; k < depth; ++k) {
      for (int r = 0; r < Rows; ++r) *panel++ = from[r][k];
    }
  }

  // Calls body(Index<width>{}, first token, tokens here) for every panel.
  template <typename Body>
  MOLMOACT2_INLINE static void for_each_panel(int tokens, const Body& body) {
    for (int first = 0; first < tokens; first += Simd::kPanelRows) {
      const int here = tokens - first < Simd::kPanelRows ? tokens - first : Simd::kPanelRows;
      with_panel_width<Simd>(here, [&](auto width) { body(width, first, here); });
    }
  }

  static void project(const TokenBlock& block) {
    for_each_panel(block.tokens, [&](auto width, int first, int here) {
      pack_tokens<width.value>(block.rows + first, here, block.depth,
                               block.panels + static_cast<std::ptrdiff_t>(first) * block.depth);
    });
    const std::ptrdiff_t row_length = static_cast<std::ptrdiff_t>(block.strip_count) * kStrip;
    const float* strip = block.strips;
    for (int s = 0; s < block.strip_count; ++s) {
      for_each_panel(block.tokens, [&](auto width, int first, int) {
        const auto tile = multiply_panel<Simd, width.value, Simd::kMaxVectors, false>(
            block.panels + static_cast<std::ptrdiff_t>(first) * block.depth, width.value, strip, kStrip,
            block.depth);
        float* const to = block.projected + first * row_length + static_cast<std::ptrdiff_t>(s) * kStrip;
        unroll<width.value>([&](auto row) __attribute__((always_inline)) {
          unroll<Simd::kMaxVectors>([&](auto vector) __attribute__((always_inline)) {
            Simd::store(to + row.value * row_length + vector.value * Simd::kLanes,
                        tile.at[row.value][vector.value]);
          });
        });
      });
      strip += static_cast<std::ptrdiff_t>(kStrip) * block.depth;
    }
  }

  static float sum_of_squares(const float* x, int count) {
    Register sums[2] = {Simd::zero(), Simd::zero()};
    int i = 0;
    for (; i + 2 * Simd::kLanes <= count; i += 2 * Simd::kLanes) {
      unroll<2>([&](auto part) __attribute__((always_inline)) {
        const Register value = Simd::load(x + i + part.value * Simd::kLanes);
        sums[part.value] = Simd::multiply_add(value, value, sums[part.value]);
      });
    }
    float lanes[Simd::kLanes];
    Simd::store(lanes, Simd::add(sums[0], sums[1]));
    float sum = 0.0F;
    for (const float lane : lanes) sum += lane;
    for (; i < count; ++i) sum += x[i] * x[i];
    return sum;
  }

  static void scaled_copy(const float* x, int count, float factor, float* out) {
    const Register factors = Simd::set(factor);
    int i = 0;
    for (; i + Simd::kLanes <= count; i += Simd::kLanes) {
      Simd::store(out + i, Simd::multiply(Simd::load(x + i), factors));
    }
    for (; i < count; ++i) out[i] = x[i] * factor;
  }

  static constexpr ContextOps table(CpuIsa isa) {
    return {isa, Simd::kPanelRows, kStrip, &project, &sum_of_squares, &scaled_copy};
  }
};

}  // namespace
}  // namespace molmoact2::kernels
