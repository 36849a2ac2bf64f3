// Dynamixel packets: whatever comes, the parser stays within its bytes, agrees with the encoder, and goes on.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bus/dynamixel/block.h"
#include "bus/dynamixel/packet.h"
#include "fuzz_check.h"

using namespace molmoact2::bus::dynamixel;

namespace {

using Bytes = std::vector<std::uint8_t>;

// Gives `stream` to the parser in pieces of the sizes in `steps`; `found(packet)` for each.
template <typename Found>
void parse(PacketParser& parser, std::span<const std::uint8_t> stream, std::uint8_t steps,
           const Found& found) {
  std::size_t given = 0;
  for (unsigned turn = 0; given < stream.size(); ++turn) {
    const std::span<std::uint8_t> room = parser.room();
    FUZZ_CHECK(room.size() >= kMaxPacketBytes);
    const std::size_t step = 1 + (steps * (turn + 1)) % 97;
    const std::size_t taken = std::min({room.size(), stream.size() - given, step});
    std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(given), taken, room.begin());
    parser.add(taken);
    given += taken;
    Packet packet;
    while (parser.next(packet)) {
      FUZZ_CHECK(packet.parameters.size() <= kMaxPacketBytes);
      // Every byte is touched, so that a sanitizer sees one that is not ours.
      unsigned sum = 0;
      for (const std::uint8_t byte : packet.parameters) {
        sum += byte;
      }
      FUZZ_CHECK(sum <= 255 * packet.parameters.size());
      found(packet);
    }
  }
}

Bytes sealed(std::uint8_t id, std::span<const std::uint8_t> body) {
  Bytes packet{0xFF,
               0xFF,
               0xFD,
               0x00,
               id,
               static_cast<std::uint8_t>((body.size() + 2) & 0xFFU),
               static_cast<std::uint8_t>((body.size() + 2) >> 8U)};
  packet.insert(packet.end(), body.begin(), body.end());
  const std::uint16_t crc = crc16(packet);
  packet.push_back(static_cast<std::uint8_t>(crc & 0xFFU));
  packet.push_back(static_cast<std::uint8_t>(crc >> 8U));
  return packet;
}

void raw_stream(std::uint8_t steps, std::span<const std::uint8_t> input) {
  PacketParser parser;
  parser.expect(std::size_t{5} * steps);
  parse(parser, input, steps, [](const Packet&) {});
}

// What is encoded comes out again, behind whatever came before it.
void round_trip(std::uint8_t id, std::uint8_t instruction, std::span<const std::uint8_t> parameters) {
  std::array<std::uint8_t, kMaxPacketBytes> packet{};
  const std::size_t size = encode(id, static_cast<Instruction>(instruction), parameters, packet);
  if (size == 0) {
    FUZZ_CHECK(kPacketOverhead + parameters.size() + parameters.size() / 3 >= kMaxPacketBytes - 1);
    return;
  }
  const bool combined = id == kBroadcastId && instruction == static_cast<std::uint8_t>(Instruction::status);
  PacketParser parser;
  int packets = 0;
  parse(parser, std::span(packet).first(size), id, [&](const Packet& found) {
    ++packets;
    FUZZ_CHECK(found.id == id && found.instruction == static_cast<Instruction>(instruction));
    FUZZ_CHECK(combined || std::ranges::equal(found.parameters, parameters));
  });
  FUZZ_CHECK(packets == 1 && parser.damaged() == 0);
}

// Bodies that no encoder makes, with a length and CRC that fit: taken as they are, and read as answers.
void sealed_answer(std::uint8_t choice, std::span<const std::uint8_t> input) {
  if (input.empty() || input.size() > kMaxPacketBytes - kPacketOverhead) {
    return;
  }
  Bytes body(input.begin(), input.end());
  body[0] = choice % 4 != 0 ? static_cast<std::uint8_t>(Instruction::status) : body[0];
  const std::size_t length = 1 + choice % kMaxBlockBytes;
  std::array<Block, 6> blocks{};
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    blocks[i].id = static_cast<std::uint8_t>(i + 1);
  }
  const std::uint8_t id = choice % 2 == 0 ? kBroadcastId : static_cast<std::uint8_t>(1 + choice % 8);
  const std::size_t missing = missing_blocks(blocks);
  PacketParser parser;
  int packets = 0;
  parse(parser, sealed(id, body), choice, [&](const Packet& packet) {
    ++packets;
    take_block_answer(packet, blocks, length, packets);
  });
  FUZZ_CHECK(packets >= 1);
  FUZZ_CHECK(missing_blocks(blocks) <= missing);
  std::array<std::uint8_t, kBlockRequestBytes> request{};
  for (const BlockRead way : {BlockRead::sync, BlockRead::fast_sync, BlockRead::bulk, BlockRead::fast_bulk}) {
    FUZZ_CHECK(block_request(way, blocks, length, request) <= request.size());
  }
}

// A whole packet behind damage is found, once nothing before it can be waiting for more bytes.
void after_damage(std::uint8_t steps, std::span<const std::uint8_t> damage) {
  constexpr std::size_t kLongest = 64;
  const std::array<std::uint8_t, 4> parameters{0, steps, 0x5A, 0xA5};
  std::array<std::uint8_t, kLongest> whole{};
  const std::size_t size = encode(17, Instruction::status, parameters, whole);
  Bytes stream(damage.begin(), damage.end());
  stream.insert(stream.end(), whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
  stream.insert(stream.end(), kLongest, 0x00);
  PacketParser parser;
  parser.expect(kLongest);
  int packets = 0;
  bool last = false;
  parse(parser, stream, steps, [&](const Packet& packet) {
    ++packets;
    last = packet.id == 17 && std::ranges::equal(packet.parameters, parameters);
  });
  // A CRC that fits by chance may swallow it, but then that packet was found.
  FUZZ_CHECK(last || packets > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) {
    return 0;
  }
  const std::span<const std::uint8_t> input(data + 3, size - 3);
  switch (data[0] % 4) {
    case 0:
      raw_stream(data[1], input);
      break;
    case 1:
      round_trip(data[1], data[2], input);
      break;
    case 2:
      sealed_answer(data[1], input);
      break;
    default:
      after_damage(data[1], input);
  }
  return 0;
}
