#include "bus/dynamixel/dynamixel_bus.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace molmoact2::bus::dynamixel {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr double kBitsPerByte = 10.0;        // 8N1
constexpr std::size_t kRequestBytes = 14;    // of a sync read or write without servos
constexpr std::size_t kCombinedBytes = 8;    // of a combined answer, before the servos' parts
constexpr std::size_t kPartOverhead = 4;     // of one servo's: error, id, crc
constexpr std::size_t kBulkEntryBytes = 5;   // id, address, length
constexpr Nanoseconds kTurnPause = 200'000;  // between two looks for the turn

constexpr bool is_fast(BlockRead way) noexcept {
  return way == BlockRead::fast_sync || way == BlockRead::fast_bulk;
}
constexpr bool is_bulk(BlockRead way) noexcept {
  return way == BlockRead::bulk || way == BlockRead::fast_bulk;
}

constexpr Instruction instruction_of(BlockRead way) noexcept {
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

constexpr std::size_t answer_bytes(BlockRead way, std::size_t servos, std::size_t length) noexcept {
  return is_fast(way) ? kCombinedBytes + servos * (kPartOverhead + length)
                      : servos * (kStatusOverhead + length);
}

// Appends a number, low byte first.
void put(std::span<std::uint8_t> bytes, std::size_t& size, std::size_t value) noexcept {
  bytes[size++] = static_cast<std::uint8_t>(value & 0xFFU);
  bytes[size++] = static_cast<std::uint8_t>(value >> 8U & 0xFFU);
}

}  // namespace

DynamixelBus::DynamixelBus(std::string path, int baud, double slack_s)
    : link_(std::move(path), baud),
      ns_per_byte_(kBitsPerByte * 1e9 / baud),
      slack_(static_cast<Nanoseconds>(slack_s * 1e9)) {}

bool DynamixelBus::wait_turn(Nanoseconds deadline) noexcept {
  control::MonotonicClock clock;
  while (!try_turn()) {
    const Nanoseconds now = clock.now();
    if (now >= deadline) {
      return false;
    }
    clock.sleep_until(std::min(now + kTurnPause, deadline));
  }
  return true;
}

Nanoseconds DynamixelBus::block_time(BlockRead way, std::size_t servos, std::size_t length) const noexcept {
  const std::size_t entries =
      is_bulk(way) ? kPacketOverhead + servos * kBulkEntryBytes : kRequestBytes + servos;
  return wire_time(entries + answer_bytes(way, servos, length));
}

ExchangeStatus DynamixelBus::begin(std::uint8_t id, Instruction instruction,
                                   std::span<const std::uint8_t> parameters, std::size_t longest,
                                   Nanoseconds deadline) noexcept {
  add(counters_.exchanges);
  const std::size_t size = encode(id, instruction, parameters, request_);
  link_.discard_input();
  parser_.expect(longest);
  damaged_before_ = parser_.damaged();
  arrived_ = 0;
  // A request that is too long never came about: every caller's size is bounded.
  const LinkStatus sent = link_.write(std::span(request_).first(size), deadline);
  return sent == LinkStatus::ok          ? ExchangeStatus::ok
         : sent == LinkStatus::timed_out ? ExchangeStatus::timed_out
                                         : ExchangeStatus::lost;
}

ExchangeStatus DynamixelBus::receive(Packet& packet, Nanoseconds deadline, std::size_t expected) noexcept {
  while (!parser_.next(packet)) {
    const std::uint64_t damaged = parser_.damaged() - damaged_before_;
    std::size_t got = 0;
    // After damage, waiting longer than for what was asked for would only cost the time of a retry.
    const LinkStatus read = damaged > 0 && arrived_ >= expected ? LinkStatus::timed_out
                                                                : link_.read(parser_.room(), got, deadline);
    if (read == LinkStatus::lost) {
      return ExchangeStatus::lost;
    }
    if (read == LinkStatus::timed_out) {
      damaged_before_ = parser_.damaged();
      add(damaged > 0 ? counters_.damaged : counters_.timeouts);
      return damaged > 0 ? ExchangeStatus::corrupt : ExchangeStatus::timed_out;
    }
    parser_.add(got);
    arrived_ += got;
  }
  return ExchangeStatus::ok;
}

Answer DynamixelBus::exchange(std::uint8_t id, Instruction instruction,
                              std::span<const std::uint8_t> parameters, std::span<std::uint8_t> data,
                              Nanoseconds deadline) noexcept {
  Answer answer;
  answer.status = begin(id, instruction, parameters, kMaxPacketBytes, deadline);
  if (answer.status != ExchangeStatus::ok || id == kBroadcastId) {
    return answer;
  }
  Packet packet;
  while ((answer.status = receive(packet, deadline)) == ExchangeStatus::ok) {
    // What others say, and the echo of an adapter that hears itself, is passed over.
    if (packet.id != id || packet.instruction != Instruction::status || packet.parameters.empty()) {
      continue;
    }
    answer.error = packet.parameters[0];
    answer.size = std::min(packet.parameters.size() - 1, data.size());
    std::copy_n(packet.parameters.begin() + 1, answer.size, data.begin());
    if ((answer.error & kErrorNumberMask) != 0) {
      answer.status = ExchangeStatus::refused;
    }
    break;
  }
  return answer;
}

ExchangeStatus DynamixelBus::send(std::uint8_t id, Instruction instruction,
                                  std::span<const std::uint8_t> parameters, Nanoseconds deadline) noexcept {
  return begin(id, instruction, parameters, kMaxPacketBytes, deadline);
}

void DynamixelBus::take_combined(const Packet& packet, std::span<Block> blocks, std::size_t length) noexcept {
  const std::size_t part = kPartOverhead + length;
  const Nanoseconds began = monotonic_now() - wire_time(packet.parameters.size() + kPacketOverhead);
  // The last part's CRC is the packet's, which the parser has taken off.
  for (std::size_t at = 0; at + part <= packet.parameters.size() + 2; at += part) {
    const std::uint8_t id = packet.parameters[at + 1];
    const auto block =
        std::ranges::find_if(blocks, [id](const Block& one) { return one.id == id && !one.received; });
    const std::uint8_t error = packet.parameters[at];
    if (block != blocks.end() && (error & kErrorNumberMask) == 0) {
      block->received = true;
      block->error = error;
      block->time = began;
      std::copy_n(packet.parameters.begin() + static_cast<std::ptrdiff_t>(at + 2), length,
                  block->data.begin());
    }
  }
}

void DynamixelBus::take_single(const Packet& packet, std::span<Block> blocks, std::size_t length) noexcept {
  if (packet.instruction != Instruction::status || packet.parameters.size() != 1 + length) {
    return;
  }
  const auto block = std::ranges::find_if(
      blocks, [&packet](const Block& one) { return one.id == packet.id && !one.received; });
  if (block != blocks.end() && (packet.parameters[0] & kErrorNumberMask) == 0) {
    block->received = true;
    block->error = packet.parameters[0];
    block->time = monotonic_now() - wire_time(kStatusOverhead + length);
    std::ranges::copy(packet.parameters.subspan(1), block->data.begin());
  }
}

ExchangeStatus DynamixelBus::read_blocks(BlockRead way, std::span<Block> blocks, std::size_t length,
                                         Nanoseconds deadline) noexcept {
  std::array<std::uint8_t, kMaxServos * kBulkEntryBytes + 4> parameters;
  std::size_t size = 0;
  std::size_t missing = 0;
  if (!is_bulk(way)) {
    put(parameters, size, blocks.empty() ? 0 : blocks.front().address);
    put(parameters, size, length);
  }
  for (const Block& block : blocks) {
    if (block.received) {
      continue;
    }
    ++missing;
    parameters[size++] = block.id;
    if (is_bulk(way)) {
      put(parameters, size, block.address);
      put(parameters, size, length);
    }
  }
  if (missing == 0) {
    return ExchangeStatus::ok;
  }
  // Every byte of an ordinary answer may be followed by stuffing, at most one in three.
  const std::size_t longest =
      is_fast(way) ? answer_bytes(way, missing, length) : kStatusOverhead + length + length / 3 + 1;
  const std::size_t expected = answer_bytes(way, missing, length);
  ExchangeStatus status =
      begin(kBroadcastId, instruction_of(way), std::span(parameters).first(size), longest, deadline);
  while (status == ExchangeStatus::ok && missing > 0) {
    Packet packet;
    status = receive(packet, deadline, expected);
    if (status == ExchangeStatus::ok && is_fast(way) && packet.is_combined()) {
      take_combined(packet, blocks, length);
      break;  // there is only one
    }
    if (status == ExchangeStatus::ok && !is_fast(way)) {
      take_single(packet, blocks, length);
    }
    missing = static_cast<std::size_t>(
        std::ranges::count_if(blocks, [](const Block& block) { return !block.received; }));
  }
  if (status != ExchangeStatus::ok) {
    return status;
  }
  return std::ranges::all_of(blocks, &Block::received) ? ExchangeStatus::ok : ExchangeStatus::refused;
}

ExchangeStatus DynamixelBus::sync_write(std::uint16_t address, std::size_t length,
                                        std::span<const std::uint8_t> parameters,
                                        Nanoseconds deadline) noexcept {
  std::array<std::uint8_t, kMaxServos * (1 + kMaxBlockBytes) + 4> whole;
  std::size_t size = 0;
  put(whole, size, address);
  put(whole, size, length);
  const std::size_t taken = std::min(parameters.size(), whole.size() - size);
  std::copy_n(parameters.begin(), taken, whole.begin() + static_cast<std::ptrdiff_t>(size));
  return begin(kBroadcastId, Instruction::sync_write, std::span(whole).first(size + taken), kMaxPacketBytes,
               deadline);
}

}  // namespace molmoact2::bus::dynamixel
