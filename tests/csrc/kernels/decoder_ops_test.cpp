#include "kernels/decoder_ops/decoder_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "decoder_ops_reference.h"

namespace {

namespace kernels = molmoact2::kernels;
namespace reference = molmoact2::check::reference;
using kernels::DecoderOpsStatus;
using kernels::QkNorm;
using kernels::RowsShape;
using reference::index;
using reference::Numbers;

constexpr double kTolerance = 2e-6;  // of numbers of about 1, in float32
constexpr std::array<RowsShape, 6> kShapes{{{0, 4}, {1, 1}, {3, 7}, {2, 64}, {5, 100}, {1, 2560}}};

std::vector<float> floats(const Numbers& numbers) { return {numbers.begin(), numbers.end()}; }

// Numbers that float32 holds exactly.
Numbers random_floats(std::size_t count, unsigned seed) {
  const std::vector<float> rounded = floats(reference::random_numbers(count, seed));
  return {rounded.begin(), rounded.end()};
}

void check_near(const std::vector<float>& actual, const Numbers& expected) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    CHECK_NEAR(actual[i], expected[i], kTolerance * (1.0 + std::abs(expected[i])));
  }
}

std::size_t count(RowsShape shape) { return index(shape.rows) * index(shape.width); }

}  // namespace

CASE("RMSNorm, alone and behind a sum, is what the model says") {
  for (const RowsShape shape : kShapes) {
    const Numbers x = random_floats(count(shape), 1);
    const Numbers residual = random_floats(count(shape), 2);
    const Numbers weight = random_floats(index(shape.width), 3);
    std::vector<float> out(x.size());
    REQUIRE(kernels::rms_norm(shape, floats(x).data(), floats(weight).data(), 1e-6F, out.data()) ==
            DecoderOpsStatus::ok);
    check_near(out, reference::rms_norm(shape, x, weight, 1e-6));
    std::vector<float> sum = floats(residual);
    REQUIRE(kernels::add_rms_norm(shape, floats(x).data(), sum.data(), floats(weight).data(), 1e-6F,
                                  out.data()) == DecoderOpsStatus::ok);
    Numbers expected = x;
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] += residual[i];
    check_near(sum, expected);
    check_near(out, reference::rms_norm(shape, expected, weight, 1e-6));
  }
}

CASE("LayerNorm is what the model says") {
  for (const RowsShape shape : kShapes) {
    const Numbers x = random_floats(count(shape), 4);
    const Numbers weight = random_floats(index(shape.width), 5);
    const Numbers bias = random_floats(index(shape.width), 6);
    std::vector<float> out(x.size());
    REQUIRE(kernels::layer_norm(shape, floats(x).data(), floats(weight).data(), floats(bias).data(), 1e-6F,
                                out.data()) == DecoderOpsStatus::ok);
    check_near(out, reference::layer_norm(shape, x, weight, bias, 1e-6));
  }
}

CASE("queries and keys are normed, rotated and stored") {
  constexpr std::array<kernels::QkvShape, 5> kQkvShapes{{{0, 2, 1, 4, 8, 8},
                                                         {1, 1, 1, 2, 1, 4},
                                                         {3, 6, 2, 10, 9, 7},
                                                         {4, 4, 4, 66, 6, 6},
                                                         {2, 8, 2, 128, 40, 64}}};
  for (const kernels::QkvShape& shape : kQkvShapes) {
    const reference::Rotation rotation(shape.table_positions, shape.head_dim, 10000.0);
    const int last = std::min(shape.capacity, shape.table_positions) - shape.rows;
    for (const QkNorm norm : {QkNorm::none, QkNorm::per_head, QkNorm::whole}) {
      const int q_weights = norm == QkNorm::whole ? shape.heads * shape.head_dim : shape.head_dim;
      const int k_weights = norm == QkNorm::whole ? shape.kv_heads * shape.head_dim : shape.head_dim;
      const Numbers q_weight = random_floats(index(q_weights), 7);
      const Numbers k_weight = random_floats(index(k_weights), 8);
      const Numbers qkv = random_floats(index(shape.rows) * index(shape.width()), 9);
      const std::size_t kv_width = index(shape.kv_heads) * index(shape.head_dim);
      for (const int position : {0, last / 2, last}) {
        std::vector<float> q(index(shape.rows) * index(shape.heads) * index(shape.head_dim));
        std::vector<float> keys(index(shape.capacity) * kv_width, -7.0F);
        std::vector<float> values(keys.size(), -8.0F);
        REQUIRE(kernels::qk_norm_rope_cache(shape, norm, floats(q_weight).data(), floats(k_weight).data(),
                                            1e-6F, floats(qkv).data(), rotation.cosines.data(),
                                            rotation.sines.data(), position, q.data(), keys.data(),
                                            values.data()) == DecoderOpsStatus::ok);
        const reference::QkvResult expected =
            reference::qk_norm_rope(shape, norm, q_weight, k_weight, 1e-6, qkv, rotation, position);
        check_near(q, expected.q);
        Numbers all_keys(keys.size(), -7.0);
        Numbers all_values(values.size(), -8.0);
        const auto start = static_cast<std::ptrdiff_t>(index(position) * kv_width);
        std::ranges::copy(expected.keys, all_keys.begin() + start);
        std::ranges::copy(expected.values, all_values.begin() + start);
        check_near(keys, all_keys);
        check_near(values, all_values);
      }
    }
  }
}

CASE("the gated activation takes the second half as the gate") {
  for (const RowsShape shape : kShapes) {
    const Numbers up_gate = random_floats(2 * count(shape), 10);
    std::vector<float> out(count(shape));
    REQUIRE(kernels::silu_gated(shape, floats(up_gate).data(), out.data()) == DecoderOpsStatus::ok);
    check_near(out, reference::silu_gated(shape, up_gate));
  }
}

CASE("argmax takes the first of equals, in the range only, and reports NaN") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {
      9,  1,    3,          3,          9,          -0.0F,      0, -1, -2,   -3, kNan, -1, -5,
      -1, kNan, -kInfinity, -kInfinity, -kInfinity, -kInfinity, 0, 2,  kNan, 0,  1,    1};
  std::vector<std::int64_t> ids(5);
  REQUIRE(kernels::argmax_range({5, 5}, logits.data(), 1, 4, ids.data()) == DecoderOpsStatus::ok);
  CHECK(ids == std::vector<std::int64_t>({2, 1, 1, 1, -1}));
  REQUIRE(kernels::argmax_range({5, 5}, logits.data(), 0, 5, ids.data()) == DecoderOpsStatus::ok);
  CHECK(ids == std::vector<std::int64_t>({0, 0, -1, 4, -1}));
}

CASE("the decoder's operations refuse what does not fit") {
  std::vector<float> x(64);
  std::int64_t id = 0;
  CHECK_EQ(kernels::rms_norm({1, 0}, x.data(), x.data(), 0, x.data()), DecoderOpsStatus::bad_shape);
  CHECK_EQ(kernels::rms_norm({-1, 4}, x.data(), x.data(), 0, x.data()), DecoderOpsStatus::bad_shape);
  CHECK_EQ(kernels::rms_norm({1, 4}, x.data(), nullptr, 0, x.data()), DecoderOpsStatus::bad_pointer);
  CHECK_EQ(kernels::argmax_range({1, 4}, x.data(), 2, 2, &id), DecoderOpsStatus::bad_range);
  CHECK_EQ(kernels::argmax_range({1, 4}, x.data(), -1, 2, &id), DecoderOpsStatus::bad_range);
  CHECK_EQ(kernels::argmax_range({1, 4}, x.data(), 0, 5, &id), DecoderOpsStatus::bad_range);
  const auto rope = [&](const kernels::QkvShape& shape, QkNorm norm, int position) {
    return kernels::qk_norm_rope_cache(shape, norm, nullptr, nullptr, 0, x.data(), x.data(), x.data(),
                                       position, x.data(), x.data(), x.data());
  };
  CHECK_EQ(rope({1, 2, 1, 3, 4, 4}, QkNorm::none, 0), DecoderOpsStatus::bad_shape);  // odd head
  CHECK_EQ(rope({1, 3, 2, 2, 4, 4}, QkNorm::none, 0),
           DecoderOpsStatus::bad_shape);  // heads in no whole groups
  CHECK_EQ(rope({1, 2, 1, 2, 4, 4}, QkNorm::per_head, 0), DecoderOpsStatus::bad_pointer);
  CHECK_EQ(rope({2, 2, 1, 2, 4, 8}, QkNorm::none, 3), DecoderOpsStatus::bad_position);
  CHECK_EQ(rope({2, 2, 1, 2, 8, 4}, QkNorm::none, 3), DecoderOpsStatus::bad_position);
  CHECK_EQ(rope({1, 2, 1, 2, 4, 4}, QkNorm::none, -1), DecoderOpsStatus::bad_position);
}
