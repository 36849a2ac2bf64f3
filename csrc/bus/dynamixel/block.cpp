#include "bus/dynamixel/block.h"

#include <algorithm>

namespace molmoact2::bus::dynamixel {

namespace {

constexpr std::size_t kSyncRequestBytes = 14;  // without servos
constexpr std::size_t kBulkEntryBytes = 5;     // id, address, length
constexpr std::size_t kCombinedBytes = 8;      // of a combined answer, before the servos' parts
constexpr std::size_t kPartOverhead = 4;       // of one servo's: error, id, crc
constexpr std::size_t kCrcBytes = 2;

void put_word(std::span<std::uint8_t> bytes, std::size_t& size, std::size_t value) noexcept {
  bytes[size++] = static_cast<std::uint8_t>(value & 0xFFU);
  bytes[size++] = static_cast<std::uint8_t>(value >> 8U & 0xFFU);
}

void take(std::uint8_t id, std::uint8_t error, std::span<const std::uint8_t> data, std::span<Block> blocks,
          control::Nanoseconds began) noexcept {
  const auto block =
      std::ranges::find_if(blocks, [id](const Block& one) { return one.id == id && !one.received; });
  if (block == blocks.end() || (error & kErrorNumberMask) != 0) {
    return;
  }
  block->received = true;
  block->time = began;
  std::ranges::copy(data, block->data.begin());
}

}  // namespace

Instruction block_instruction(BlockRead way) noexcept {
  switch (way) {
    case BlockRead::sync:
      return Instruction::sync_read;
    case BlockRead::fast_sync:
      return Instruction::fast_sync_read;
    case BlockRead::bulk:
      return Instruction::bulk_read;
    case BlockRead::fast_bulk:
      return Instruction::fast_bulk_read;
  }
  return Instruction::sync_read;
}

std::size_t block_request(BlockRead way, std::span<const Block> blocks, std::size_t length,
                          std::span<std::uint8_t, kBlockRequestBytes> parameters) noexcept {
  std::size_t size = 0;
  if (!is_bulk(way)) {
    put_word(parameters, size, blocks.empty() ? 0 : blocks.front().address);
    put_word(parameters, size, length);
  }
  for (const Block& block : blocks.first(std::min(blocks.size(), kMaxServos))) {
    if (block.received) {
      continue;
    }
    parameters[size++] = block.id;
    if (is_bulk(way)) {
      put_word(parameters, size, block.address);
      put_word(parameters, size, length);
    }
  }
  return size;
}

std::size_t block_request_bytes(BlockRead way, std::size_t servos) noexcept {
  return is_bulk(way) ? kPacketOverhead + servos * kBulkEntryBytes : kSyncRequestBytes + servos;
}

std::size_t block_answer_bytes(BlockRead way, std::size_t servos, std::size_t length) noexcept {
  return is_fast(way) ? kCombinedBytes + servos * (kPartOverhead + length)
                      : servos * (kStatusOverhead + length);
}

std::size_t block_packet_bytes(BlockRead way, std::size_t servos, std::size_t length) noexcept {
  // At most every third byte of an ordinary answer is followed by stuffing.
  return is_fast(way) ? block_answer_bytes(way, servos, length) : kStatusOverhead + length + length / 3 + 1;
}

std::size_t missing_blocks(std::span<const Block> blocks) noexcept {
  return static_cast<std::size_t>(
      std::ranges::count_if(blocks, [](const Block& block) { return !block.received; }));
}

void take_block_answer(const Packet& packet, std::span<Block> blocks, std::size_t length,
                       control::Nanoseconds began) noexcept {
  if (packet.instruction != Instruction::status || length > kMaxBlockBytes) {
    return;
  }
  const std::span<const std::uint8_t> parameters = packet.parameters;
  if (!packet.is_combined()) {
    if (parameters.size() == 1 + length) {
      take(packet.id, parameters[0], parameters.subspan(1), blocks, began);
    }
    return;
  }
  // The last part's CRC is the packet's, which the parser has taken off.
  const std::size_t part = kPartOverhead + length;
  for (std::size_t at = 0; at + part <= parameters.size() + kCrcBytes; at += part) {
    take(parameters[at + 1], parameters[at], parameters.subspan(at + 2, length), blocks, began);
  }
}

}  // namespace molmoact2::bus::dynamixel
