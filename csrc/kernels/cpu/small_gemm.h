// y = W x for activations of a few dozen columns, in registers: the shape of every product in the flow.
//
// Activations are stored transposed, (features, columns) with the columns padded to whole vectors, so that a
// product reads each weight exactly once, as a broadcast, in the order in which it lies in memory, and norms,
// rotations and softmax work on whole vectors without shuffles. Weights are packed in panels of kPanelRows
// rows: (panels, depth, kPanelRows); the last panel is narrower, a multiple of kRowStep, and padded with zero
// rows.
//
// Included by the file of each instruction set. All of it has internal linkage: a function that the linker
// merged across those files could carry instructions that the processor does not have.
#pragma once

#include <cstddef>

#include "kernels/cpu/unroll.h"

namespace molmoact2::kernels {
namespace {

template <typename Simd, int Rows, int Vectors>
struct Tile {
  typename Simd::Register at[Rows][Vectors];
};

// How far ahead of its use a weight is asked for, in floats: hardware prefetching stops at page ends.
constexpr std::ptrdiff_t kPrefetchDistance = 1024;

// tile[r][v] = sum over k < depth of panel[k * panel_stride + r] * columns[k * column_stride + v * kLanes +
// ...].
template <typename Simd, int Rows, int Vectors, bool kPrefetch>
MOLMOACT2_INLINE Tile<Simd, Rows, Vectors> multiply_panel(const float* panel, std::ptrdiff_t panel_stride,
                                                          const float* columns, std::ptrdiff_t column_stride,
                                                          int depth) {
  Tile<Simd, Rows, Vectors> tile;
  unroll<Rows>([&](auto row) __attribute__((always_inline)) {
    unroll<Vectors>([&](auto vector)
                        __attribute__((always_inline)) { tile.at[row.value][vector.value] = Simd::zero(); });
  });
  for (int k = 0; k < depth; ++k) {
    typename Simd::Register column[Vectors];
    unroll<Vectors>([&](auto vector) __attribute__((always_inline)) {
      column[vector.value] = Simd::load(columns + vector.value * Simd::kLanes);
    });
    unroll<Rows>([&](auto row) __attribute__((always_inline)) {
      const typename Simd::Register weight = Simd::set(panel[row.value]);
      unroll<Vectors>([&](auto vector) __attribute__((always_inline)) {
        tile.at[row.value][vector.value] =
            Simd::multiply_add(weight, column[vector.value], tile.at[row.value][vector.value]);
      });
    });
    if constexpr (kPrefetch) __builtin_prefetch(panel + kPrefetchDistance);
    panel += panel_stride;
    columns += column_stride;
  }
  return tile;
}

// Calls body(Index<Vectors>{}, first_column) over all columns, a multiple of kLanes.
template <typename Simd, int Vectors = Simd::kMaxVectors, typename Body>
MOLMOACT2_INLINE void for_column_tiles(int columns, const Body& body, int first = 0) {
  for (; columns - first >= Vectors * Simd::kLanes; first += Vectors * Simd::kLanes) {
    body(Index<Vectors>{}, first);
  }
  if constexpr (Vectors > 1) for_column_tiles<Simd, Vectors - 1>(columns, body, first);
}

// Calls body(Index<Rows>{}) with the width of a panel that holds `rows` rows.
template <typename Simd, int Rows = Simd::kPanelRows, typename Body>
MOLMOACT2_INLINE void with_panel_width(int rows, const Body& body) {
  if constexpr (Rows > Simd::kRowStep) {
    if (rows <= Rows - Simd::kRowStep) {
      with_panel_width<Simd, Rows - Simd::kRowStep>(rows, body);
      return;
    }
  }
  body(Index<Rows>{});
}

// The part of a product that panel `panel` of a matrix of `rows` rows gives: calls
// finish(tile, first_row, rows_here, first_column) for every tile of columns. `columns`: (depth,
// column_count).
template <typename Simd, bool kPrefetch, typename Finish>
MOLMOACT2_INLINE void multiply_rows(const float* panels, int rows, int depth, const float* columns,
                                    int column_count, int panel, const Finish& finish) {
  const int first_row = panel * Simd::kPanelRows;
  const int rows_here = rows - first_row < Simd::kPanelRows ? rows - first_row : Simd::kPanelRows;
  const float* const weights = panels + static_cast<std::ptrdiff_t>(first_row) * depth;
  with_panel_width<Simd>(rows_here, [&](auto width) {
    for_column_tiles<Simd>(column_count, [&](auto vectors, int first_column) {
      finish(multiply_panel<Simd, width.value, vectors.value, kPrefetch>(
                 weights, width.value, columns + first_column, column_count, depth),
             first_row, rows_here, first_column);
    });
  });
}

}  // namespace
}  // namespace molmoact2::kernels
