#include "kernels/flow/flow_pack.h"

#include <algorithm>

namespace molmoact2::kernels {

void pack_panels(const PanelFormat& format, const float* from, std::ptrdiff_t row_stride,
                 std::ptrdiff_t depth_stride, int rows, int depth, float* panels) {
  for (int first = 0; first < rows; first += format.panel_rows) {
    const int here = std::min(format.panel_rows, rows - first);
    const int width = format.padded(here);
    const float* const source = from + first * row_stride;
    for (int k = 0; k < depth; ++k) {
      float* const to = panels + static_cast<std::ptrdiff_t>(k) * width;
      for (int r = 0; r < here; ++r) to[r] = source[r * row_stride + k * depth_stride];
      std::fill(to + here, to + width, 0.0F);
    }
    panels += static_cast<std::ptrdiff_t>(width) * depth;
  }
}

OwnedMatrix::OwnedMatrix(const PanelFormat& format, int rows, int depth)
    : panels_(format.size(rows, depth)),
      bias_(static_cast<std::size_t>(format.padded(rows))),
      rows_(rows),
      depth_(depth) {}

OwnedMatrix OwnedMatrix::linear(const PanelFormat& format, const LinearView& view, int rows, int depth) {
  OwnedMatrix matrix(format, rows, depth);
  pack_panels(format, view.weight, depth, 1, rows, depth, matrix.panels_.data());
  std::copy_n(view.bias, rows, matrix.bias_.data());
  return matrix;
}

OwnedMatrix OwnedMatrix::up_gate(const PanelFormat& format, const LinearView& view, int inner, int depth) {
  OwnedMatrix matrix(format, 2 * inner, depth);
  const int half_panel = format.panel_rows / 2;
  const LinearView gate = {view.weight + static_cast<std::ptrdiff_t>(inner) * depth, view.bias + inner};
  float* panels = matrix.panels_.data();
  float* bias = matrix.bias_.data();
  for (int first = 0; first < inner; first += half_panel) {
    const int here = std::min(half_panel, inner - first);
    const int width = format.padded(2 * here);
    const std::ptrdiff_t offset = static_cast<std::ptrdiff_t>(first) * depth;
    for (int r = 0; r < here; ++r) {
      for (int k = 0; k < depth; ++k) {
        float* const to = panels + static_cast<std::ptrdiff_t>(k) * width + r;
        to[0] = view.weight[offset + static_cast<std::ptrdiff_t>(r) * depth + k];
        to[width / 2] = gate.weight[offset + static_cast<std::ptrdiff_t>(r) * depth + k];
      }
      bias[r] = view.bias[first + r];
      bias[width / 2 + r] = gate.bias[first + r];
    }
    panels += static_cast<std::ptrdiff_t>(width) * depth;
    bias += width;
  }
  return matrix;
}

PackedMatrix OwnedMatrix::view() const { return {panels_.data(), bias_.data(), rows_, depth_}; }

}  // namespace molmoact2::kernels
