// The loops of depth_diff_ops.h with AVX2.
//
// A weight has 22 bits and a pixel 8; multiply-add instructions take 16. So every weight is split in two,
// high * 2^11 + low, pairs of taps are multiplied and added in one instruction for each part, and the parts
// are put together at the end: all of it exact.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/depth_diff/depth_diff_ops.h"
#include "kernels/depth_diff/fixed_point.h"

namespace molmoact2::kernels {
namespace {

constexpr int kLowBits = 11;
constexpr std::size_t kRegisterBytes = sizeof(__m256i);

// The two parts of two neighbouring weights, as a multiply-add takes them.
struct WeightPair {
  std::int32_t high = 0;
  std::int32_t low = 0;
};

WeightPair weight_pair(std::int32_t first, std::int32_t second) {
  const auto joined = [](std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b) << 16);
  };
  constexpr std::int32_t kLowMask = (1 << kLowBits) - 1;
  return {joined(first >> kLowBits, second >> kLowBits), joined(first & kLowMask, second & kLowMask)};
}

// Of eight sums: the parts together, rounded.
__m256i joined_parts(__m256i high, __m256i low) {
  const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(kFixedPointHalf)), kFixedPointBits);
}

// Columns
// -----------------------------------------------------------------------------------------------------

constexpr int kTapsPerLoad = 4;  // pixels of 3 bytes in 16
constexpr std::ptrdiff_t kLoadBytes = std::ptrdiff_t{kTapsPerLoad} * kColorChannels;
constexpr int kPixelsPerStore = 4;  // outputs that are packed together

// Weights of all outputs in groups of four taps, zero past an output's own.
struct TapGroups {
  explicit TapGroups(const ResizeAxis& axis)
      : per_output((axis.taps + kTapsPerLoad - 1) / kTapsPerLoad),
        pairs(axis.firsts.size() * static_cast<std::size_t>(2 * per_output)) {
    const auto taps = static_cast<std::size_t>(axis.taps);
    for (std::size_t x = 0; x < axis.firsts.size(); ++x) {
      const std::int32_t* const weights = axis.weights.data() + x * taps;
      for (std::size_t tap = 0; tap < taps; tap += 2) {
        pairs[x * static_cast<std::size_t>(2 * per_output) + tap / 2] =
            weight_pair(weights[tap], tap + 1 < taps ? weights[tap + 1] : 0);
      }
    }
  }

  int per_output;
  std::vector<WeightPair> pairs;  // (outputs, 2 * per_output)
};

// One output pixel of two rows, one in each half: red, green, blue and nothing as 32-bit integers.
__m256i filtered_pixel(const std::uint8_t* first_row, const std::uint8_t* second_row, const WeightPair* pairs,
                       int groups) {
  // In each half, of pixels a and b: a.r 0 b.r 0 a.g 0 b.g 0 a.b 0 b.b 0 0 0 0 0.
  const __m256i first_two = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 0, -1,
                                             3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  const __m256i last_two = _mm256_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1, 6, -1,
                                            9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  __m256i high = _mm256_setzero_si256();
  __m256i low = _mm256_setzero_si256();
  for (int group = 0; group < groups; ++group) {
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first_row));
    const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second_row));
    const __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    const __m256i a = _mm256_shuffle_epi8(pixels, first_two);
    const __m256i b = _mm256_shuffle_epi8(pixels, last_two);
    high = _mm256_add_epi32(high, _mm256_madd_epi16(a, _mm256_set1_epi32(pairs[0].high)));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(a, _mm256_set1_epi32(pairs[0].low)));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(b, _mm256_set1_epi32(pairs[1].high)));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(b, _mm256_set1_epi32(pairs[1].low)));
    first_row += kLoadBytes;
    second_row += kLoadBytes;
    pairs += 2;
  }
  return joined_parts(high, low);
}

void store_pixels(__m128i pixels, int count, std::uint8_t* output) {
  alignas(16) std::array<std::uint8_t, sizeof(__m128i)> bytes;
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes.data()), pixels);
  std::memcpy(output, bytes.data(), static_cast<std::size_t>(count) * kColorChannels);
}

void resize_columns(const std::uint8_t* input, int height, const ResizeAxis& axis, std::uint8_t* output) {
  const TapGroups groups(axis);
  const auto input_stride = static_cast<std::size_t>(axis.input_size) * kColorChannels;
  const auto output_stride = static_cast<std::size_t>(axis.output_size) * kColorChannels;
  // Two rows with room behind them: whole groups are read also where the taps end.
  const std::size_t padded =
      input_stride + static_cast<std::size_t>(groups.per_output + 1) * kTapsPerLoad * kColorChannels + 16;
  std::vector<std::uint8_t> rows(2 * padded);
  // Drops the fourth byte of every pixel.
  const __m256i dense = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1, 0, 1, 2, 4,
                                         5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  for (int y = 0; y < height; y += 2) {
    const bool paired = y + 1 < height;
    const std::uint8_t* const from = input + static_cast<std::size_t>(y) * input_stride;
    std::uint8_t* const to = output + static_cast<std::size_t>(y) * output_stride;
    std::memcpy(rows.data(), from, input_stride);
    std::memcpy(rows.data() + padded, paired ? from + input_stride : from, input_stride);
    for (int x = 0; x < axis.output_size; x += kPixelsPerStore) {
      __m256i pixels[kPixelsPerStore];
      for (int i = 0; i < kPixelsPerStore; ++i) {
        const auto at = static_cast<std::size_t>(std::min(x + i, axis.output_size - 1));
        const std::uint8_t* const first =
            rows.data() + static_cast<std::size_t>(axis.firsts[at]) * kColorChannels;
        pixels[i] = filtered_pixel(first, first + padded,
                                   groups.pairs.data() + at * static_cast<std::size_t>(2 * groups.per_output),
                                   (axis.counts[at] + kTapsPerLoad - 1) / kTapsPerLoad);
      }
      // Packing saturates, which is the clamp to a byte.
      const __m256i words_01 = _mm256_packs_epi32(pixels[0], pixels[1]);
      const __m256i words_23 = _mm256_packs_epi32(pixels[2], pixels[3]);
      const __m256i bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(words_01, words_23), dense);
      const int count = std::min(kPixelsPerStore, axis.output_size - x);
      std::uint8_t* const here = to + static_cast<std::size_t>(x) * kColorChannels;
      store_pixels(_mm256_castsi256_si128(bytes), count, here);
      if (paired) store_pixels(_mm256_extracti128_si256(bytes, 1), count, here + output_stride);
    }
  }
}

// Rows
// --------------------------------------------------------------------------------------------------------

// 32 bytes of one output row; `rows`: where they are in the first row that counts.
__m256i filtered_bytes(const std::uint8_t* rows, std::size_t stride, const WeightPair* pairs, int count) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i high[4] = {zero, zero, zero, zero};
  __m256i low[4] = {zero, zero, zero, zero};
  for (int tap = 0; tap < count; tap += 2) {
    const auto* const second = tap + 1 < count ? rows + stride : rows;  // its weight is zero past the last
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
    const __m256i left = _mm256_unpacklo_epi8(a, b);
    const __m256i right = _mm256_unpackhi_epi8(a, b);
    const __m256i taps[4] = {_mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                             _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
    const __m256i high_weights = _mm256_set1_epi32(pairs->high);
    const __m256i low_weights = _mm256_set1_epi32(pairs->low);
    for (int i = 0; i < 4; ++i) {
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(taps[i], high_weights));
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(taps[i], low_weights));
    }
    ++pairs;
    rows += 2 * stride;
  }
  const __m256i words_01 = _mm256_packs_epi32(joined_parts(high[0], low[0]), joined_parts(high[1], low[1]));
  const __m256i words_23 = _mm256_packs_epi32(joined_parts(high[2], low[2]), joined_parts(high[3], low[3]));
  return _mm256_packus_epi16(words_01, words_23);
}

void resize_rows(const std::uint8_t* input, std::size_t row_bytes, const ResizeAxis& axis,
                 std::uint8_t* output) {
  const auto taps = static_cast<std::size_t>(axis.taps);
  std::vector<WeightPair> pairs((taps + 1) / 2);
  const std::size_t whole = row_bytes / kRegisterBytes * kRegisterBytes;
  for (std::size_t y = 0; y < axis.firsts.size(); ++y, output += row_bytes) {
    const std::int32_t* const weights = axis.weights.data() + y * taps;
    for (std::size_t tap = 0; tap < taps; tap += 2) {
      pairs[tap / 2] = weight_pair(weights[tap], tap + 1 < taps ? weights[tap + 1] : 0);
    }
    const std::uint8_t* const rows = input + static_cast<std::size_t>(axis.firsts[y]) * row_bytes;
    for (std::size_t i = 0; i < whole; i += kRegisterBytes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + i),
                          filtered_bytes(rows + i, row_bytes, pairs.data(), axis.counts[y]));
    }
    for (std::size_t i = whole; i < row_bytes; ++i) {
      std::int32_t sum = kFixedPointHalf;
      for (int tap = 0; tap < axis.counts[y]; ++tap) {
        sum += weights[tap] * rows[static_cast<std::size_t>(tap) * row_bytes + i];
      }
      output[i] = fixed_point_to_byte(sum);
    }
  }
}

// Cells
// -------------------------------------------------------------------------------------------------------

std::int32_t sum_of_lanes(__m256i sums) {
  alignas(32) std::array<std::int32_t, 8> lanes;
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.data()), sums);
  std::int32_t sum = 0;
  for (const std::int32_t lane : lanes) sum += lane;
  return sum;
}

CellSums cell_sums(const std::uint8_t* current, const std::uint8_t* previous, std::size_t stride) {
  constexpr std::size_t kCellWidth = static_cast<std::size_t>(kCellPixels) * kColorChannels;
  static_assert(kCellWidth % 16 == 0);
  __m256i dot = _mm256_setzero_si256();
  __m256i current_square = dot;
  __m256i previous_square = dot;
  for (int y = 0; y < kCellPixels; ++y) {
    for (std::size_t i = 0; i < kCellWidth; i += 16) {
      const __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(current + i)));
      const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(previous + i)));
      dot = _mm256_add_epi32(dot, _mm256_madd_epi16(a, b));
      current_square = _mm256_add_epi32(current_square, _mm256_madd_epi16(a, a));
      previous_square = _mm256_add_epi32(previous_square, _mm256_madd_epi16(b, b));
    }
    current += stride;
    previous += stride;
  }
  return {sum_of_lanes(dot), sum_of_lanes(current_square), sum_of_lanes(previous_square)};
}

}  // namespace

const DepthDiffOps& depth_diff_ops_avx2() {
  static constinit const DepthDiffOps kOps = {&resize_columns, &resize_rows, &cell_sums};
  return kOps;
}

}  // namespace molmoact2::kernels
