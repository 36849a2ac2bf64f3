#include <array>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "device_array.h"
#include "kernels/openfast/openfast.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::ByteLevelBpeTables;
using kernels::CudaOpenFastDecoder;
using kernels::OpenFastCodec;
using kernels::OpenFastStatus;
using molmoact2::check::DeviceArray;
using molmoact2::check::no_device;

using Tokens = std::vector<std::int64_t>;

// Ids 0 to 255 are the bytes; then come texts of several characters, cut inside of characters, and empty.
OpenFastCodec codec_with(double scale, std::int32_t min_token) {
  ByteLevelBpeTables tables;
  tables.splits_words = false;
  for (int byte = 0; byte < 256; ++byte) {
    tables.token_bytes.emplace_back(1, static_cast<char>(byte));
    tables.byte_ids[static_cast<std::size_t>(byte)] = byte;
  }
  for (const char* const text : {"", "abc", "\xC3", "\xA9\xC3", "\xE2\x82\xAC", "\xF0\x9F\x98", "\x80z",
                                 "0123456789abcdefghijklmnopqrstuvwxyz"}) {
    tables.token_bytes.emplace_back(text);
  }
  return {kernels::ByteLevelBpe(std::move(tables)), scale, min_token};
}

struct Decoded {
  OpenFastStatus status;
  std::vector<double> chunk;
};

constexpr double kUntouched = 7.0;

Decoded on_cpu(const OpenFastCodec& codec, const Tokens& tokens, int steps, int dims) {
  Decoded decoded{OpenFastStatus::ok,
                  std::vector<double>(static_cast<std::size_t>(steps * dims), kUntouched)};
  decoded.status = codec.decode(tokens, steps, dims, decoded.chunk.data());
  return decoded;
}

class DeviceDecoder {
 public:
  DeviceDecoder(const OpenFastCodec& codec, int steps, int dims) : decoder_(codec, steps, dims) {}

  Decoded decode(const Tokens& tokens) const {
    return decode(tokens, static_cast<std::int32_t>(tokens.size()));
  }
  Decoded decode(Tokens tokens, std::int32_t count) const {
    const auto capacity = static_cast<int>(tokens.size());
    tokens.push_back(-1);  // an array of nothing has no address
    const DeviceArray<std::int64_t> ids(tokens);
    const DeviceArray<std::int32_t> counts(std::vector<std::int32_t>{count});
    const DeviceArray<std::int32_t> status(std::vector<std::int32_t>{-1});
    const DeviceArray<double> chunk(
        std::vector<double>(static_cast<std::size_t>(decoder_.steps() * decoder_.dims()), kUntouched));
    CHECK(decoder_.decode(ids.get(), capacity, counts.get(), chunk.get(), status.get(), nullptr) ==
          OpenFastStatus::ok);
    return {static_cast<OpenFastStatus>(status.to_host().at(0)), chunk.to_host()};
  }

 private:
  CudaOpenFastDecoder decoder_;
};

void check_equal(const Decoded& found, const Decoded& expected) {
  CHECK_EQ(found.status, expected.status);
  CHECK(found.chunk == expected.chunk);
}

}  // namespace

CASE("CUDA decodes chunks to the CPU's bits") {
  if (no_device()) return;
  const OpenFastCodec codec = codec_with(10.0, -40);
  for (const auto& [steps, dims] :
       std::array<std::pair<int, int>, 6>{{{1, 1}, {7, 3}, {30, 6}, {10, 7}, {101, 2}, {33, 32}}}) {
    std::mt19937 generator(static_cast<unsigned>(steps));
    const DeviceDecoder decoder(codec, steps, dims);
    Tokens tokens;
    // Characters of one, two and three bytes, some of them of several tokens.
    for (int left = steps * dims; left > 0; --left) {
      switch (generator() % 6) {
        case 0:
          tokens.insert(tokens.end(), {0xC3, static_cast<std::int64_t>(0x80 + generator() % 0x40)});
          break;
        case 1:
          tokens.push_back(260);
          break;
        case 2:
          if (left >= 3) {
            tokens.push_back(257);
            left -= 2;
            break;
          }
          [[fallthrough]];
        default:
          tokens.push_back(static_cast<std::int64_t>(generator() % 0x80));
          tokens.insert(tokens.end(), generator() % 2, 256);  // nothing
      }
    }
    const Decoded expected = on_cpu(codec, tokens, steps, dims);
    CHECK_EQ(expected.status, OpenFastStatus::ok);
    check_equal(decoder.decode(tokens), expected);
  }
}

CASE("CUDA says why a sequence does not decode, as the CPU does, and leaves the chunk alone") {
  if (no_device()) return;
  const OpenFastCodec codec = codec_with(10.0, 0);
  const DeviceDecoder decoder(codec, 2, 2);
  const std::vector<Tokens> sequences{
      {},
      {1, 2, 3},
      {1, 2, 3, 4, 5},
      {1, 2, 3, 264},
      {1, 2, 3, -1},
      {1, 2, 3, std::numeric_limits<std::int64_t>::max()},
      {1, 2, 3, 0x80},
      {1, 2, 3, 0xC3},
      {1, 2, 3, 4, 0xC3},
      {1, 2, 3, 0xEF, 0xBF, 0xBD},
      {1, 2, 3, 4, 0xEF, 0xBF, 0xBD},  // both too many and U+FFFD, at the same byte
      {1, 2, 3, 4, 5, 0x80},           // too many before it is no text
      {1, 2, 0x80, 4, 5, 6},           // and after
      {1, 2, 3, 4, 5, -1},             // too many before the unknown token
      {1, 2, 0xC3, -1},                // unknown before the text ends early
      {1, 2, 0xC3, 256, -1},
      {0xFF, -1},
      {-1, 0xFF},
      {258, 0xA9, 1, 2, 3},
      {258, 259, 0xA9, 1, 2},  // é é 1 2
      {261, 0x80, 1, 2, 3},    // an emoji, its last byte by itself
      {261, 0x80, 1, 2, 262},
      {263},
      {1, 2, 3, 4},
  };
  for (const Tokens& tokens : sequences) check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 2, 2));
  CHECK_EQ(decoder.decode({1, 2, 3, 4}, 5).status, OpenFastStatus::bad_shape);
  CHECK_EQ(decoder.decode({1, 2, 3, 4}, -1).status, OpenFastStatus::bad_shape);
  CHECK_EQ(decoder.decode({1, 2, 3, 4, -1}, 4).status, OpenFastStatus::ok);
  const DeviceDecoder shifted(codec_with(0.3, -1000), 2, 2);
  check_equal(shifted.decode({1, 2, 3, 4}), on_cpu(codec_with(0.3, -1000), {1, 2, 3, 4}, 2, 2));
}

CASE("CUDA and the CPU agree on sequences that are mostly broken") {
  if (no_device()) return;
  const OpenFastCodec codec = codec_with(1.0, 0);
  const DeviceDecoder decoder(codec, 3, 3);
  constexpr std::array<std::int64_t, 20> kBytes{1,    2,    3,    0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC2, 0xDF,
                                                0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xBD, 256,  261,  0x41, 0x42};
  std::mt19937 generator(11);
  std::array<int, 8> seen{};
  for (int round = 0; round < 150; ++round) {
    Tokens tokens;
    // Characters that are whole, now and then a byte or a token that may break them.
    const std::size_t length = 6 + generator() % 6;
    for (std::size_t i = 0; i < length; ++i) {
      const std::size_t kind = generator() % 12;
      if (kind == 0) {
        tokens.push_back(kBytes[generator() % kBytes.size()]);
      } else if (kind == 1) {
        tokens.insert(tokens.end(), {0xF0, 0x9F, 0x98, 0x80});
      } else if (kind == 2 && round % 5 == 0) {
        tokens.push_back(264);
      } else {
        tokens.push_back(static_cast<std::int64_t>(generator() % 0x80));
      }
    }
    const Decoded expected = on_cpu(codec, tokens, 3, 3);
    ++seen[static_cast<std::size_t>(expected.status)];
    check_equal(decoder.decode(tokens), expected);
  }
  CHECK(seen[static_cast<std::size_t>(OpenFastStatus::ok)] > 5);
  CHECK(seen[static_cast<std::size_t>(OpenFastStatus::not_text)] > 20);
  CHECK(seen[static_cast<std::size_t>(OpenFastStatus::token_out_of_range)] > 2);
  CHECK(seen[static_cast<std::size_t>(OpenFastStatus::coefficient_count)] > 10);
}

CASE("a text longer than any chunk ends where the CPU ends it") {
  if (no_device()) return;
  const OpenFastCodec codec = codec_with(1.0, 0);
  const DeviceDecoder decoder(codec, 5, 8);
  Tokens tokens(3000, 263);
  check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 5, 8));
  tokens.assign(2000, 256);  // tokens without bytes
  check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 5, 8));
  tokens.insert(tokens.end(), 40, 9);
  check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 5, 8));
  tokens[1500] = -1;
  check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 5, 8));
  tokens.assign(900, 0xC3);
  check_equal(decoder.decode(tokens), on_cpu(codec, tokens, 5, 8));
}

CASE("a decoder of no usable shape is refused") {
  if (no_device()) return;
  const OpenFastCodec codec = codec_with(1.0, 0);
  CHECK_THROWS(CudaOpenFastDecoder(codec, 0, 1), std::invalid_argument);
  CHECK_THROWS(CudaOpenFastDecoder(codec, 1, kernels::kMaxActionDims + 1), std::invalid_argument);
  CHECK_THROWS(CudaOpenFastDecoder(codec, kernels::DctBasis::kMaxLength + 1, 1), std::invalid_argument);
}
