#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "decoder_ops_reference.h"
#include "device_array.h"
#include "kernels/decoder_ops/decoder_ops.h"

namespace {

namespace kernels = molmoact2::kernels;
namespace reference = molmoact2::check::reference;
using kernels::DecoderOpsStatus;
using kernels::QkNorm;
using kernels::RowsShape;
using molmoact2::check::DeviceArray;
using molmoact2::check::no_device;
using reference::index;
using reference::Numbers;

using Bits = std::uint16_t;  // of a bf16

// Half a unit in the last place of a bf16 (8 bits), and what float32 adds to it inside.
constexpr double kRelative = 1.01 / 256;
constexpr double kAbsolute = 1e-5;
// Whole chunks of 8 for all threads, parts of one, more than one chunk for a thread, empty.
constexpr std::array<RowsShape, 9> kShapes{
    {{0, 8}, {1, 1}, {3, 7}, {2, 8}, {5, 100}, {4, 264}, {1, 2560}, {2, 4104}, {2, 4099}}};

Bits rounded(double number) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(number));
  return static_cast<Bits>(std::isnan(number) ? 0x7FFFU : (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

double number_of(Bits bits) {
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
}

std::vector<Bits> bits_of(const Numbers& numbers) {
  std::vector<Bits> bits(numbers.size());
  std::ranges::transform(numbers, bits.begin(), rounded);
  return bits;
}

Numbers numbers_of(const std::vector<Bits>& bits) {
  Numbers numbers(bits.size());
  std::ranges::transform(bits, numbers.begin(), number_of);
  return numbers;
}

// Numbers that bf16 holds exactly.
Numbers random_bf16(std::size_t count, unsigned seed) {
  return numbers_of(bits_of(reference::random_numbers(count, seed)));
}

// In device memory; `offset` numbers of NaN come first, so that nothing is aligned to a whole load.
class Bf16Array {
 public:
  explicit Bf16Array(const Numbers& numbers, std::size_t offset = 0)
      : offset_(offset), array_([&] {
          std::vector<Bits> bits(offset, 0x7FFF);
          const std::vector<Bits> rest = bits_of(numbers);
          bits.insert(bits.end(), rest.begin(), rest.end());
          return bits;
        }()) {}

  void* get() const { return array_.get() + offset_; }

  Numbers numbers() const {
    Numbers all = numbers_of(array_.to_host());
    for (std::size_t i = 0; i < offset_; ++i) CHECK(std::isnan(all[i]));
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(offset_));
    return all;
  }

 private:
  std::size_t offset_;
  DeviceArray<Bits> array_;
};

void check_near(const Numbers& actual, const Numbers& expected) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    CHECK_NEAR(actual[i], expected[i], kRelative * std::abs(expected[i]) + kAbsolute);
  }
}

std::size_t count(RowsShape shape) { return index(shape.rows) * index(shape.width); }

}  // namespace

CASE("the CUDA RMSNorm, alone and behind a sum, is what the model says") {
  if (no_device()) return;
  for (const RowsShape shape : kShapes) {
    for (const std::size_t offset : {0U, 3U}) {
      const Numbers x = random_bf16(count(shape), 1);
      const Numbers residual = random_bf16(count(shape), 2);
      const Numbers weight = random_bf16(index(shape.width), 3);
      const Bf16Array device_x(x, offset);
      const Bf16Array device_weight(weight, offset);
      const Bf16Array out(Numbers(x.size()), offset);
      REQUIRE(kernels::rms_norm_cuda(shape, device_x.get(), device_weight.get(), 1e-6F, out.get(), nullptr) ==
              DecoderOpsStatus::ok);
      check_near(out.numbers(), reference::rms_norm(shape, x, weight, 1e-6));

      const Bf16Array sum(residual, offset);
      REQUIRE(kernels::add_rms_norm_cuda(shape, device_x.get(), sum.get(), device_weight.get(), 1e-6F,
                                         out.get(), nullptr) == DecoderOpsStatus::ok);
      Numbers expected = x;
      for (std::size_t i = 0; i < x.size(); ++i) expected[i] += residual[i];
      check_near(sum.numbers(), expected);
      check_near(out.numbers(), reference::rms_norm(shape, sum.numbers(), weight, 1e-6));
      CHECK(device_x.numbers() == x);
    }
  }
}

CASE("the CUDA LayerNorm is what the model says") {
  if (no_device()) return;
  for (const RowsShape shape : kShapes) {
    for (const std::size_t offset : {0U, 5U}) {
      Numbers x = random_bf16(count(shape), 4);
      for (double& number : x) number = number_of(rounded(number + 8.0));  // a mean that must go
      const Numbers weight = random_bf16(index(shape.width), 5);
      const Numbers bias = random_bf16(index(shape.width), 6);
      const Bf16Array device_x(x, offset);
      const Bf16Array device_weight(weight, offset);
      const Bf16Array device_bias(bias, offset);
      const Bf16Array out(Numbers(x.size()), offset);
      REQUIRE(kernels::layer_norm_cuda(shape, device_x.get(), device_weight.get(), device_bias.get(), 1e-6F,
                                       out.get(), nullptr) == DecoderOpsStatus::ok);
      check_near(out.numbers(), reference::layer_norm(shape, x, weight, bias, 1e-6));
    }
  }
}

CASE("CUDA queries and keys are normed, rotated and stored, and never outside the cache") {
  if (no_device()) return;
  constexpr std::array<kernels::QkvShape, 6> kQkvShapes{{{0, 2, 1, 4, 8, 8},
                                                         {1, 1, 1, 2, 1, 4},
                                                         {3, 6, 2, 10, 9, 7},
                                                         {4, 4, 4, 66, 6, 6},
                                                         {2, 8, 2, 128, 40, 64},
                                                         {2, 2, 1, 256, 3, 3}}};
  for (const kernels::QkvShape& shape : kQkvShapes) {
    const reference::Rotation rotation(shape.table_positions, shape.head_dim, 10000.0);
    const DeviceArray<float> cosines(rotation.cosines);
    const DeviceArray<float> sines(rotation.sines);
    const int usable = std::min(shape.capacity, shape.table_positions);
    for (const QkNorm norm : {QkNorm::none, QkNorm::per_head, QkNorm::whole}) {
      const int q_weights = norm == QkNorm::whole ? shape.heads * shape.head_dim : shape.head_dim;
      const int k_weights = norm == QkNorm::whole ? shape.kv_heads * shape.head_dim : shape.head_dim;
      const Numbers q_weight = random_bf16(index(q_weights), 7);
      const Numbers k_weight = random_bf16(index(k_weights), 8);
      const Numbers qkv = random_bf16(index(shape.rows) * index(shape.width()), 9);
      const Bf16Array device_q_weight(q_weight);
      const Bf16Array device_k_weight(k_weight);
      const Bf16Array device_qkv(qkv);
      const std::size_t q_width = index(shape.heads) * index(shape.head_dim);
      const std::size_t kv_width = index(shape.kv_heads) * index(shape.head_dim);
      // The last two leave the cache with some or all rows, and the first starts before it.
      for (const int position :
           {-1, 0, usable - shape.rows, usable - 1, usable + 2, std::numeric_limits<int>::max()}) {
        const Bf16Array q(Numbers(index(shape.rows) * q_width, 1.0));
        const Bf16Array keys(Numbers(index(shape.capacity) * kv_width, -7.0));
        const Bf16Array values(Numbers(index(shape.capacity) * kv_width, -8.0));
        const DeviceArray<std::int32_t> device_position(std::vector<std::int32_t>{position});
        REQUIRE(kernels::qk_norm_rope_cache_cuda(shape, norm, device_q_weight.get(), device_k_weight.get(),
                                                 1e-6F, device_qkv.get(), cosines.get(), sines.get(),
                                                 device_position.get(), q.get(), keys.get(), values.get(),
                                                 nullptr) == DecoderOpsStatus::ok);
        const bool near_end = position > usable;
        const reference::QkvResult expected = reference::qk_norm_rope(
            shape, norm, q_weight, k_weight, 1e-6, qkv, rotation, near_end ? usable : position);
        Numbers all_keys(index(shape.capacity) * kv_width, -7.0);
        Numbers all_values(all_keys.size(), -8.0);
        const Numbers found_q = q.numbers();
        for (int row = 0; row < shape.rows; ++row) {
          const std::int64_t at = static_cast<std::int64_t>(position) + row;
          const bool inside = at >= 0 && at < usable;
          for (std::size_t i = 0; i < q_width; ++i) {
            const std::size_t where = index(row) * q_width + i;
            if (inside) {
              CHECK_NEAR(found_q[where], expected.q[where],
                         kRelative * std::abs(expected.q[where]) + kAbsolute);
            } else {
              CHECK(std::isnan(found_q[where]));
            }
          }
          for (std::size_t i = 0; inside && i < kv_width; ++i) {
            all_keys[index(at) * kv_width + i] = expected.keys[index(row) * kv_width + i];
            all_values[index(at) * kv_width + i] = expected.values[index(row) * kv_width + i];
          }
        }
        check_near(keys.numbers(), all_keys);
        check_near(values.numbers(), all_values);
      }
    }
  }
}

CASE("the CUDA gated activation takes the second half as the gate") {
  if (no_device()) return;
  for (const RowsShape shape : kShapes) {
    for (const std::size_t offset : {0U, 1U}) {
      const Numbers up_gate = random_bf16(2 * count(shape), 10);
      const Bf16Array device(up_gate, offset);
      const Bf16Array out(Numbers(count(shape)), offset);
      REQUIRE(kernels::silu_gated_cuda(shape, device.get(), out.get(), nullptr) == DecoderOpsStatus::ok);
      check_near(out.numbers(), reference::silu_gated(shape, up_gate));
    }
  }
}

CASE("the CUDA argmax takes the first of equals, in the range only, and reports NaN") {
  if (no_device()) return;
  struct Range {
    RowsShape shape;
    int first;
    int last;
  };
  constexpr std::array<Range, 6> kRanges{{{{0, 4}, 0, 4},
                                          {{1, 1}, 0, 1},
                                          {{3, 25}, 5, 9},
                                          {{4, 1000}, 999, 1000},
                                          {{2, 9000}, 3, 8999},
                                          {{2, 9003}, 0, 9003}}};
  for (const auto& [shape, first, last] : kRanges) {
    for (const unsigned seed : {1U, 2U, 3U}) {
      Numbers logits = random_bf16(count(shape), seed);
      // Few different numbers, so that many are equal, both zeros among them; then a NaN, in or out of range.
      for (double& number : logits) number = seed == 1 ? number : std::round(number) / 2.0;
      if (seed == 3 && !logits.empty()) logits[logits.size() / 2] = std::numeric_limits<double>::quiet_NaN();
      const Bf16Array device(logits);
      const DeviceArray<std::int64_t> ids(index(shape.rows));
      REQUIRE(kernels::argmax_range_cuda(shape, device.get(), first, last, ids.get(), nullptr) ==
              DecoderOpsStatus::ok);
      const std::vector<std::int64_t> found = ids.to_host();
      for (std::size_t row = 0; row < found.size(); ++row) {
        CHECK_EQ(found[row], reference::argmax(logits.data() + row * index(shape.width), first, last));
      }
    }
  }
  const Bf16Array low(Numbers(12, -std::numeric_limits<double>::infinity()));
  const DeviceArray<std::int64_t> id(1);
  REQUIRE(kernels::argmax_range_cuda({1, 12}, low.get(), 4, 9, id.get(), nullptr) == DecoderOpsStatus::ok);
  CHECK_EQ(id.to_host().front(), 4);
}

CASE("the CUDA doors of the decoder's operations refuse what does not fit") {
  if (no_device()) return;
  const Bf16Array x(Numbers(64));
  const DeviceArray<std::int64_t> id(1);
  const DeviceArray<float> table(64);
  const DeviceArray<std::int32_t> position(1);
  CHECK_EQ(kernels::rms_norm_cuda({1, 0}, x.get(), x.get(), 0, x.get(), nullptr),
           DecoderOpsStatus::bad_shape);
  CHECK_EQ(kernels::add_rms_norm_cuda({1, 4}, x.get(), nullptr, x.get(), 0, x.get(), nullptr),
           DecoderOpsStatus::bad_pointer);
  CHECK_EQ(kernels::layer_norm_cuda({1, 4}, x.get(), x.get(), nullptr, 0, x.get(), nullptr),
           DecoderOpsStatus::bad_pointer);
  CHECK_EQ(kernels::silu_gated_cuda({-1, 4}, x.get(), x.get(), nullptr), DecoderOpsStatus::bad_shape);
  CHECK_EQ(kernels::argmax_range_cuda({1, 4}, x.get(), 3, 3, id.get(), nullptr), DecoderOpsStatus::bad_range);
  CHECK_EQ(kernels::qk_norm_rope_cache_cuda({1, 2, 1, 258, 4, 4}, QkNorm::none, nullptr, nullptr, 0, x.get(),
                                            table.get(), table.get(), position.get(), x.get(), x.get(),
                                            x.get(), nullptr),
           DecoderOpsStatus::bad_shape);
  CHECK_EQ(kernels::qk_norm_rope_cache_cuda({1, 2, 1, 4, 4, 4}, QkNorm::whole, x.get(), nullptr, 0, x.get(),
                                            table.get(), table.get(), position.get(), x.get(), x.get(),
                                            x.get(), nullptr),
           DecoderOpsStatus::bad_pointer);
}
