#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/vision_input/linear_filter.h"
#include "kernels/vision_input/vision_input.h"
#include "kernels/vision_input/vision_input_rows.h"
#include "kernels/vision_input/window_check.h"

namespace molmoact2::kernels {
namespace {

const VisionInputRows& rows_for([[maybe_unused]] CpuIsa isa) {
#if defined(__x86_64__)
  if (isa != CpuIsa::portable) return vision_input_rows_fma();
#endif
  return vision_input_rows_baseline();
}

// The columns of the input that a window needs, and how it blends them.
struct Columns {
  Columns(int input_size, int output_size, int first_output, int count) {
    const float scale = axis_scale(input_size, output_size);
    first = linear_tap(first_output, scale, input_size).first;
    taps.reserve(static_cast<std::size_t>(count));
    for (int column = first_output; column < first_output + count; ++column) {
      const LinearTap tap = linear_tap(column, scale, input_size);
      taps.push_back({(tap.first - first) * kImageChannels, (tap.second - first) * kImageChannels,
                      tap.first_weight, tap.second_weight});
    }
    values = taps.back().second + kImageChannels;
  }

  int first = 0;   // pixel of the input
  int values = 0;  // from there on
  std::vector<ColumnTap> taps;
};

// The two rows that an output row lies between, already at the output's width. Successive output rows move
// down the input, so each input row is resized once however many output rows it reaches.
class BlendedRows {
 public:
  BlendedRows(const ImageView& image, const Columns& columns, const VisionInputRows& loops)
      : image_(image),
        columns_(columns),
        loops_(loops),
        row_(static_cast<std::size_t>(columns.values) + 1),
        upper_(columns.taps.size() * kImageChannels + 1),
        lower_(upper_.size()) {}

  // Of row first and row second, which is first + 1 or, at the last row, first.
  std::pair<const float*, const float*> at(int first, int second) {
    if (lower_row_ == first) {
      std::swap(upper_, lower_);
      std::swap(upper_row_, lower_row_);
    }
    fill(upper_, upper_row_, first);
    if (second == first) return {upper_.data(), upper_.data()};
    fill(lower_, lower_row_, second);
    return {upper_.data(), lower_.data()};
  }

 private:
  void fill(std::vector<float>& blended, int& holds, int row) {
    if (holds == row) return;
    const std::uint8_t* const bytes = image_.pixels + row * image_.row_stride +
                                      static_cast<std::ptrdiff_t>(columns_.first) * kImageChannels;
    loops_.widen(bytes, columns_.values, row_.data());
    loops_.blend_columns(row_.data(), columns_.taps.data(), static_cast<int>(columns_.taps.size()),
                         blended.data());
    holds = row;
  }

  ImageView image_;
  const Columns& columns_;
  const VisionInputRows& loops_;
  std::vector<float> row_;
  std::vector<float> upper_;
  std::vector<float> lower_;
  int upper_row_ = -1;
  int lower_row_ = -1;
};

}  // namespace

VisionInputStatus resize_to_patches(const ImageView& image, ImageSize size, const PatchWindow& window,
                                    CpuIsa isa, float* patches) {
  const VisionInputStatus status = check_window(image, size, window, patches);
  if (status != VisionInputStatus::ok) return status;

  const VisionInputRows& loops = rows_for(isa);
  const int pixel_columns = window.columns * window.patch;
  const Columns columns(image.width, size.width, window.left, pixel_columns);
  BlendedRows blended(image, columns, loops);
  std::vector<float> line(static_cast<std::size_t>(pixel_columns) * kImageChannels);
  const int segment = window.patch * kImageChannels;  // of one patch in one line
  const std::ptrdiff_t patch_size = static_cast<std::ptrdiff_t>(window.patch) * segment;
  const float scale = axis_scale(image.height, size.height);
  for (int y = 0; y < window.rows * window.patch; ++y) {
    const LinearTap tap = linear_tap(window.top + y, scale, image.height);
    const auto [upper, lower] = blended.at(tap.first, tap.second);
    loops.blend_rows(upper, lower, tap.first_weight, tap.second_weight, static_cast<int>(line.size()),
                     line.data());
    const std::ptrdiff_t first_patch = static_cast<std::ptrdiff_t>(y / window.patch) * window.columns;
    float* target =
        patches + first_patch * patch_size + static_cast<std::ptrdiff_t>(y % window.patch) * segment;
    for (const float* part = line.data(); part != line.data() + line.size(); part += segment) {
      std::copy_n(part, segment, target);
      target += patch_size;
    }
  }
  return VisionInputStatus::ok;
}

}  // namespace molmoact2::kernels
