// Matrices in the panel layout of cpu/small_gemm.h.
#pragma once

#include <cstddef>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/flow/flow.h"
#include "kernels/flow/flow_ops.h"

namespace molmoact2::kernels {

struct PanelFormat {
  int panel_rows = 0;
  int row_step = 0;

  int panels(int rows) const { return (rows + panel_rows - 1) / panel_rows; }
  // Rows with the padding of the last panel: what a packed matrix of depth 1 takes.
  int padded(int rows) const { return (rows + row_step - 1) / row_step * row_step; }
  std::size_t size(int rows, int depth) const {
    return static_cast<std::size_t>(padded(rows)) * static_cast<std::size_t>(depth);
  }
};

// Element (r, k) of the source is from[r * row_stride + k * depth_stride].
void pack_panels(const PanelFormat& format, const float* from, std::ptrdiff_t row_stride,
                 std::ptrdiff_t depth_stride, int rows, int depth, float* panels);

// A packed matrix with the memory it is in.
class OwnedMatrix {
 public:
  // (rows, depth) and (rows,).
  static OwnedMatrix linear(const PanelFormat& format, const LinearView& view, int rows, int depth);
  // (2 * inner, depth): every panel takes the first half of its rows from `up`, the second from `gate`.
  static OwnedMatrix up_gate(const PanelFormat& format, const LinearView& view, int inner, int depth);

  PackedMatrix view() const;

 private:
  OwnedMatrix(const PanelFormat& format, int rows, int depth);

  AlignedBuffer panels_;
  AlignedBuffer bias_;
  int rows_;
  int depth_;
};

}  // namespace molmoact2::kernels
