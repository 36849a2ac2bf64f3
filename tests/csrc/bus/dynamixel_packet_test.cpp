#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "bus/dynamixel/packet.h"
#include "check.h"

using namespace molmoact2::bus::dynamixel;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes encoded(std::uint8_t id, Instruction instruction, const Bytes& parameters) {
  Bytes packet(kMaxPacketBytes);
  packet.resize(encode(id, instruction, parameters, packet));
  return packet;
}

struct Found {
  std::uint8_t id;
  Instruction instruction;
  Bytes parameters;
  bool operator==(const Found&) const = default;
};

// Everything that a parser finds in `stream`, given to it in pieces of `step` bytes.
std::vector<Found> parsed(PacketParser& parser, const Bytes& stream, std::size_t step) {
  std::vector<Found> found;
  std::span<const std::uint8_t> left = stream;
  while (!left.empty()) {
    const std::span<std::uint8_t> room = parser.room();
    const std::size_t taken = std::min({room.size(), left.size(), step});
    std::copy_n(left.begin(), taken, room.begin());
    parser.add(taken);
    left = left.subspan(taken);
    Packet packet;
    while (parser.next(packet)) {
      found.push_back({packet.id, packet.instruction, {packet.parameters.begin(), packet.parameters.end()}});
    }
  }
  return found;
}

std::vector<Found> parsed(const Bytes& stream, std::size_t step = 7) {
  PacketParser parser;
  return parsed(parser, stream, step);
}

Bytes joined(std::initializer_list<Bytes> parts) {
  Bytes whole;
  for (const Bytes& part : parts) {
    whole.insert(whole.end(), part.begin(), part.end());
  }
  return whole;
}

}  // namespace

CASE("the vendor's published packets come out byte for byte") {
  CHECK(encoded(1, Instruction::ping, {}) ==
        (Bytes{0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x03, 0x00, 0x01, 0x19, 0x4E}));
  CHECK(encoded(1, Instruction::read, {0x84, 0x00, 0x04, 0x00}) ==
        (Bytes{0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x07, 0x00, 0x02, 0x84, 0x00, 0x04, 0x00, 0x1D, 0x15}));
  CHECK(encoded(1, Instruction::reboot, {}) ==
        (Bytes{0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x03, 0x00, 0x08, 0x2F, 0x4E}));
}

CASE("a header among the parameters is stuffed, also where it is the last or repeats") {
  const Bytes inside{0x74, 0x00, 0xFF, 0xFF, 0xFD, 0x01};
  const Bytes packet = encoded(3, Instruction::write, inside);
  CHECK_EQ(packet.size(), kPacketOverhead + inside.size() + 1);
  CHECK_EQ(packet[5], 3 + inside.size() + 1);
  CHECK_EQ(packet[13], 0xFD);
  for (const Bytes& parameters :
       {inside, Bytes{0xFF, 0xFF, 0xFD}, Bytes{0xFF, 0xFF, 0xFF, 0xFD, 0xFD}, Bytes{0xFF, 0xFF, 0xFD, 0xFD},
        Bytes{0xFF, 0xFF, 0xFD, 0xFF, 0xFF, 0xFD}, Bytes{0xFD, 0xFF, 0xFF, 0xFD, 0x00}}) {
    const Bytes stuffed = encoded(3, Instruction::write, parameters);
    const Bytes header{0xFF, 0xFF, 0xFD, 0x00};
    CHECK(std::search(stuffed.begin() + 1, stuffed.end(), header.begin(), header.end()) == stuffed.end());
    CHECK(parsed(stuffed) == (std::vector<Found>{{3, Instruction::write, parameters}}));
  }
}

CASE("what does not fit is not encoded, and nothing is written beyond the room") {
  std::array<std::uint8_t, 16> room{};
  room[15] = 0xA5;
  const Bytes fitting{1, 2, 3, 4, 5};
  CHECK_EQ(encode(1, Instruction::write, fitting, std::span(room).first(15)), 15U);
  const Bytes stuffed{1, 2, 0xFF, 0xFF, 0xFD};
  CHECK_EQ(encode(1, Instruction::write, stuffed, std::span(room).first(15)), 0U);
  CHECK_EQ(encode(1, Instruction::ping, {}, std::span(room).first(9)), 0U);
  CHECK_EQ(room[15], 0xA5);
  Bytes large(4096);
  const Bytes longest(kMaxPacketBytes - kPacketOverhead);
  CHECK_EQ(encode(1, Instruction::write, longest, large), kMaxPacketBytes);
  CHECK_EQ(encode(1, Instruction::write, Bytes(longest.size() + 1), large), 0U);
}

CASE("packets are found in pieces of every size, in order") {
  const Bytes stream = joined({encoded(1, Instruction::status, {0, 1, 2, 3}),
                               encoded(2, Instruction::status, {0x80, 0xFF, 0xFF, 0xFD, 9}),
                               encoded(kBroadcastId, Instruction::sync_read, {1, 0, 2, 0, 1, 2})});
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    const std::vector<Found> found = parsed(stream, step);
    REQUIRE(found.size() == 3);
    CHECK(found[1].parameters == (Bytes{0x80, 0xFF, 0xFF, 0xFD, 9}));
    CHECK_EQ(found[2].id, kBroadcastId);
  }
}

CASE("a combined answer is taken as it stands, stuffing and all") {
  // A servo's data may look like a stuffed header here, and nothing is taken out of it.
  const Bytes body{0x55, 0x00, 0x01, 0xFF, 0xFF, 0xFD, 0xFD};
  Bytes packet{0xFF, 0xFF, 0xFD, 0x00, kBroadcastId, static_cast<std::uint8_t>(body.size() + 2), 0x00};
  packet.insert(packet.end(), body.begin(), body.end());
  const std::uint16_t crc = crc16(packet);
  packet.push_back(static_cast<std::uint8_t>(crc & 0xFFU));
  packet.push_back(static_cast<std::uint8_t>(crc >> 8U));
  CHECK(parsed(packet) ==
        (std::vector<Found>{{kBroadcastId, Instruction::status, Bytes(body.begin() + 1, body.end())}}));
}

CASE("after damage of any one byte every other packet is found, and the damaged one never") {
  const Bytes first = encoded(1, Instruction::status, {0, 10, 11, 12, 13});
  const Bytes second = encoded(2, Instruction::status, {0, 20, 21, 22, 23});
  const Bytes third = encoded(3, Instruction::status, {0, 30, 31, 32, 33});
  for (std::size_t at = 0; at < second.size(); ++at) {
    for (unsigned flip = 1; flip < 256; ++flip) {
      Bytes damaged = second;
      damaged[at] = static_cast<std::uint8_t>(damaged[at] ^ flip);
      PacketParser parser;
      parser.expect(first.size());
      const std::vector<Found> found = parsed(parser, joined({first, damaged, third}), 5);
      // A length that came out too short or too long may take a byte or two of the third with it, no more.
      CHECK_EQ(found.size(), 2U);
      if (found.size() == 2) {
        CHECK_EQ(found[0].id, 1);
        CHECK_EQ(found[1].id, 3);
      }
    }
  }
}

CASE("bytes that are lost or added between packets cost no packet that is whole") {
  const Bytes packet = encoded(7, Instruction::status, {0, 1, 2});
  for (std::size_t kept = 0; kept < packet.size(); ++kept) {
    const Bytes cut(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(kept));
    CHECK_EQ(parsed(joined({cut, packet, packet, Bytes(40, 0xFF), packet})).size(), 3U);
  }
}

CASE("lengths that no packet has are damage, not a reason to wait") {
  for (const std::uint8_t length : Bytes{0, 1, 2}) {
    PacketParser parser;
    const Bytes impossible{0xFF, 0xFF, 0xFD, 0x00, 1, length, 0, 0x55};
    CHECK_EQ(parsed(parser, joined({impossible, encoded(4, Instruction::ping, {})}), 3).size(), 1U);
    CHECK_EQ(parser.damaged(), 1U);
  }
  PacketParser parser;
  const Bytes endless{0xFF, 0xFF, 0xFD, 0x00, 1, 0xFF, 0xFF, 0x55};
  CHECK_EQ(parsed(parser, joined({endless, encoded(4, Instruction::ping, {})}), 64).size(), 1U);
}

CASE("random streams never outgrow the parser's room") {
  std::mt19937 random(
      5);  // NOLINT(cert-msc32-c,cert-msc51-cpp,bugprone-random-generator-seed): the same every time
  PacketParser parser;
  Packet packet;
  std::uint64_t packets = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::span<std::uint8_t> room = parser.room();
    REQUIRE(room.size() >= kMaxPacketBytes);
    const std::size_t count = random() % 200;
    for (std::size_t i = 0; i < count; ++i) {
      constexpr std::array<std::uint8_t, 6> kLikely{0xFF, 0xFF, 0xFD, 0x00, 0x03, 0x55};
      room[i] = random() % 4 == 0 ? static_cast<std::uint8_t>(random()) : kLikely[random() % kLikely.size()];
    }
    parser.add(count);
    while (parser.next(packet)) {
      ++packets;
    }
  }
  CHECK(parser.damaged() > 0);
  CHECK(packets < parser.damaged());
}
