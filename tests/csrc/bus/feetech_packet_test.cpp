#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bus/feetech/joint_scale.h"
#include "bus/feetech/packet.h"
#include "bus/feetech/servo_model.h"
#include "check.h"

using namespace molmoact2::bus::feetech;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes bytes_of(const Packet& packet) { return {packet.bytes().begin(), packet.bytes().end()}; }

// A status packet is laid out like an instruction packet, with the error in the instruction's place.
Bytes status(std::uint8_t servo, std::uint8_t error, const Bytes& data) {
  return bytes_of(instruction_packet(servo, static_cast<Instruction>(error), data));
}

// Feeds `stream` in pieces of `piece` bytes and returns what came out.
std::vector<Status> parse(StatusParser& parser, const Bytes& stream, std::size_t piece = 1) {
  std::vector<Status> found;
  Status packet;
  for (std::size_t i = 0; i < stream.size(); i += piece) {
    const std::size_t count = std::min(piece, stream.size() - i);
    std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(i), count, parser.space().begin());
    parser.take(count);
    while (parser.next(packet)) found.push_back(packet);
  }
  return found;
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

CASE("instruction packets are the bytes of Feetech's manual") {
  CHECK(bytes_of(ping_packet(1)) == (Bytes{0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB}));
  CHECK(bytes_of(read_packet(1, 0x38, 2)) == (Bytes{0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x02, 0xBE}));
  CHECK(bytes_of(write_packet(kBroadcast, 5, Bytes{1})) ==
        (Bytes{0xFF, 0xFF, 0xFE, 0x04, 0x03, 0x05, 0x01, 0xF4}));
  CHECK(bytes_of(write_packet(1, 0x2A, Bytes{0x00, 0x08, 0x00, 0x00, 0xE8, 0x03})) ==
        (Bytes{0xFF, 0xFF, 0x01, 0x09, 0x03, 0x2A, 0x00, 0x08, 0x00, 0x00, 0xE8, 0x03, 0xD5}));
  CHECK(bytes_of(reg_write_packet(2, 0x2A, Bytes{0x00, 0x08})) ==
        (Bytes{0xFF, 0xFF, 0x02, 0x05, 0x04, 0x2A, 0x00, 0x08, 0xC2}));
  CHECK(bytes_of(action_packet()) == (Bytes{0xFF, 0xFF, 0xFE, 0x02, 0x05, 0xFA}));
  CHECK(bytes_of(sync_read_packet(0x38, 8, Bytes{1, 2})) ==
        (Bytes{0xFF, 0xFF, 0xFE, 0x06, 0x82, 0x38, 0x08, 0x01, 0x02, 0x36}));
  CHECK(bytes_of(sync_write_packet(0x2A, 2, Bytes{1, 2}, Bytes{0x00, 0x08, 0x10, 0x08})) ==
        (Bytes{0xFF, 0xFF, 0xFE, 0x0A, 0x83, 0x2A, 0x02, 0x01, 0x00, 0x08, 0x02, 0x10, 0x08, 0x25}));
}

CASE("what no packet can hold is an empty packet") {
  CHECK(instruction_packet(1, Instruction::write, Bytes(kMaxParameters)).size() == kMaxPacket);
  CHECK(instruction_packet(1, Instruction::write, Bytes(kMaxParameters + 1)).empty());
  CHECK(sync_write_packet(42, 2, Bytes{1, 2}, Bytes{1, 2, 3}).empty());
  CHECK(sync_read_packet(42, 2, Bytes(300)).empty());
}

CASE("status packets come out whatever pieces they arrive in") {
  const Bytes stream =
      joined({status(1, 0, {0x10, 0x08}), status(2, 32, {0xFF, 0xFF}), status(3, 4, {0xFF, 0x00})});
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    StatusParser parser;
    parser.expect(2);
    const std::vector<Status> found = parse(parser, stream, piece);
    REQUIRE(found.size() == 3U);
    CHECK_EQ(found[0].servo, 1);
    CHECK_EQ(found[0].data[1], 8);
    CHECK_EQ(found[1].error, 32);
    CHECK_EQ(found[1].data[0], 0xFF);
    CHECK_EQ(found[2].servo, 3);
    CHECK_EQ(parser.counts().garbage, 0U);
  }
}

CASE("any byte of a packet that is garbled loses that packet and no other") {
  const Bytes first = status(1, 0, {0x10, 0x08});
  for (std::size_t place = 0; place < first.size(); ++place) {
    for (int flipped = 1; flipped < 256; ++flipped) {
      Bytes garbled = first;
      garbled[place] = static_cast<std::uint8_t>(garbled[place] ^ flipped);
      StatusParser parser;
      parser.expect(2);
      const std::vector<Status> found =
          parse(parser, joined({garbled, status(2, 0, {0x20, 0x08}), status(3, 0, {0x30, 0x08})}), 5);
      if (found.size() != 2 || found[0].servo != 2 || found[1].servo != 3) {
        CHECK_EQ(place * 1000 + static_cast<std::size_t>(flipped), 0U);
        return;
      }
    }
  }
}

CASE("a packet that was cut off, or is said to be long, does not swallow those after it") {
  const Bytes whole = status(1, 0, {0x10, 0x08});
  for (std::size_t kept = 0; kept < whole.size(); ++kept) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(kept));
    StatusParser parser;
    parser.expect(2);
    const std::vector<Status> found = parse(parser, joined({cut, status(2, 0, {1, 2})}));
    REQUIRE(found.size() == 1U);
    CHECK_EQ(found[0].servo, 2);
  }
  Bytes boastful = whole;
  boastful[3] = 200;
  StatusParser parser;
  parser.expect(2);
  CHECK_EQ(parse(parser, joined({boastful, status(2, 0, {1, 2})})).size(), 1U);
  CHECK_EQ(parser.counts().wrong_lengths, 1U);
}

CASE("each kind of damage is counted as what it is") {
  StatusParser parser;
  parser.expect(2);
  Bytes wrong_sum = status(1, 0, {1, 2});
  wrong_sum.back() ^= 1;
  CHECK_EQ(parse(parser, joined({wrong_sum, {7, 8, 9}, status(4, 0, {5}), status(2, 0, {1, 2})})).size(), 1U);
  CHECK_EQ(parser.counts().checksum_errors, 1U);
  CHECK_EQ(parser.counts().wrong_lengths, 1U);
  CHECK_EQ(parser.counts().garbage, 8U + 3U + 7U);
}

CASE("leading FF bytes are no part of a packet") {
  StatusParser parser;
  parser.expect(2);
  const std::vector<Status> found = parse(parser, joined({{0xFF, 0xFF, 0xFF}, status(9, 0, {1, 2})}));
  REQUIRE(found.size() == 1U);
  CHECK_EQ(found[0].servo, 9);
}

CASE("the adapter's echo is skipped, also where it looks like an answer") {
  // A ping's bytes are those of an answer under low voltage.
  const Bytes request = bytes_of(ping_packet(1));
  CHECK(request == status(1, kVoltageError, {}));
  for (std::size_t piece = 1; piece <= 12; ++piece) {
    StatusParser parser;
    parser.expect(0, request);
    const std::vector<Status> found = parse(parser, joined({request, status(1, 0, {})}), piece);
    REQUIRE(found.size() == 1U);
    CHECK_EQ(found[0].error, 0);
    parser.expect(0);
    CHECK_EQ(parse(parser, request, piece).size(), 1U);
  }
}

CASE("an echo that was garbled costs nothing but itself") {
  const Bytes request = bytes_of(sync_read_packet(56, 2, Bytes{1, 2}));
  for (std::size_t place = 0; place < request.size(); ++place) {
    Bytes garbled = request;
    garbled[place] ^= 0x55;
    StatusParser parser;
    parser.expect(2, request);
    const std::vector<Status> found =
        parse(parser, joined({garbled, status(1, 0, {1, 2}), status(2, 0, {3, 4})}));
    REQUIRE(found.size() == 2U);
    CHECK_EQ(found[1].data[0], 3);
  }
}

CASE("endless noise never fills the parser") {
  StatusParser parser;
  parser.expect(kMaxParameters);
  Status packet;
  std::uint32_t random = 1;
  for (int i = 0; i < 100'000; ++i) {
    REQUIRE(!parser.space().empty());
    random = random * 1664525U + 1013904223U;
    // Mostly FF, so that beginnings of packets are everywhere.
    parser.space()[0] = (random >> 30U) == 0 ? static_cast<std::uint8_t>(random >> 8U) : 0xFF;
    parser.take(1);
    while (parser.next(packet)) {
    }
  }
  CHECK(parser.counts().garbage > 50'000U);
}

CASE("negative numbers are sign and magnitude") {
  CHECK_EQ(encode_sign_magnitude(-5, 15), 0x8005U);
  CHECK_EQ(encode_sign_magnitude(5, 15), 5U);
  CHECK_EQ(encode_sign_magnitude(-3000, 11), 0xFFFU);  // saturates
  CHECK_EQ(decode_sign_magnitude(0x8000, 15), 0);
  CHECK_EQ(decode_sign_magnitude(0x0C00, 11), -1024);
  for (const unsigned bit : {10U, 11U, 15U}) {
    for (int value = -(1 << bit) + 1; value < 1 << bit; ++value) {
      if (decode_sign_magnitude(encode_sign_magnitude(value, bit), bit) != value) {
        CHECK_EQ(value, 0);
        return;
      }
    }
  }
}

CASE("the table has every register once, and they do not overlap") {
  const ServoModel& model = sts3215();
  CHECK_EQ(model.number, 777);
  CHECK(model_of(777) == &model);
  CHECK(model_of(778) == nullptr);
  CHECK(model.find("no_such_register") == nullptr);
  int end = 0;
  for (const Register& reg : model.registers) {
    CHECK(reg.address >= end);
    end = reg.address + reg.size;
    CHECK(model.find(reg.name) == &reg);
    CHECK(reg.lowest() <= 0);
    for (const std::int32_t value : {reg.lowest(), 0, reg.highest()}) {
      std::array<std::uint8_t, 4> bytes{};
      reg.encode(value, bytes);
      CHECK_EQ(reg.decode(bytes), value);
    }
  }
}

CASE("ticks become LeRobot's degrees and per cent, and every tick of the range comes back") {
  const JointScale shoulder{740, 3390, JointUnit::degrees, false};
  CHECK_EQ(shoulder.position_of(2065), 0.0);
  CHECK_EQ(shoulder.position_of(740), (740.0 - 2065.0) * 360.0 / 4095.0);
  CHECK_EQ(shoulder.ticks_of(1e9), 3390);
  CHECK_EQ(shoulder.ticks_of(-1e300), 740);
  const JointScale gripper{1800, 3200, JointUnit::percent, false};
  CHECK_EQ(gripper.position_of(1800), 0.0);
  CHECK_EQ(gripper.position_of(4000), 100.0);
  const JointScale mirrored{1800, 3200, JointUnit::percent, true};
  CHECK_EQ(mirrored.position_of(1800), 100.0);
  CHECK_EQ(mirrored.ticks_of(25.0), 2850);
  for (const JointScale& scale :
       {shoulder, gripper, mirrored, JointScale{0, 4095, JointUnit::degrees, false}}) {
    for (int ticks = scale.range_min; ticks <= scale.range_max; ++ticks) {
      if (scale.ticks_of(scale.position_of(ticks)) != ticks) {
        CHECK_EQ(ticks, -1);
        return;
      }
    }
  }
}
