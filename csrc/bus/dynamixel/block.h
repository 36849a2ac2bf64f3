// Reading the same few bytes of several servos with one request: what is asked, and what the answers say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "bus/dynamixel/packet.h"
#include "control/clock.h"

namespace molmoact2::bus::dynamixel {

inline constexpr std::size_t kMaxServos = 32;      // on one line that is read as one arm
inline constexpr std::size_t kMaxBlockBytes = 24;  // that are read of each servo at once

// Fast: one packet for all, where each servo's firmware knows it. Bulk: where the same data lies at another
// address in some of them.
enum class BlockRead : std::uint8_t { sync, fast_sync, bulk, fast_bulk };

constexpr bool is_fast(BlockRead way) noexcept {
  return way == BlockRead::fast_sync || way == BlockRead::fast_bulk;
}
constexpr bool is_bulk(BlockRead way) noexcept {
  return way == BlockRead::bulk || way == BlockRead::fast_bulk;
}

struct Block {
  std::uint8_t id = 0;
  std::uint16_t address = 0;

  // What came of it.
  bool received = false;
  control::Nanoseconds time = 0;  // when its answer began on the wire
  std::array<std::uint8_t, kMaxBlockBytes> data{};
};

inline constexpr std::size_t kBlockRequestBytes = 4 + 5 * kMaxServos;  // parameters, at most

Instruction block_instruction(BlockRead way) noexcept;
// The parameters that ask for `length` bytes of each block that is not received yet; returns their size. At
// most kMaxServos blocks.
std::size_t block_request(BlockRead way, std::span<const Block> blocks, std::size_t length,
                          std::span<std::uint8_t, kBlockRequestBytes> parameters) noexcept;
// Bytes on the wire, without stuffing.
std::size_t block_request_bytes(BlockRead way, std::size_t servos) noexcept;
std::size_t block_answer_bytes(BlockRead way, std::size_t servos, std::size_t length) noexcept;
// Of the longest single packet among the answers.
std::size_t block_packet_bytes(BlockRead way, std::size_t servos, std::size_t length) noexcept;

std::size_t missing_blocks(std::span<const Block> blocks) noexcept;
// Marks what an answer brings; what was not asked for, has another length or says that it failed is passed
// over. `began` is when the packet began on the wire.
void take_block_answer(const Packet& packet, std::span<Block> blocks, std::size_t length,
                       control::Nanoseconds began) noexcept;

}  // namespace molmoact2::bus::dynamixel
