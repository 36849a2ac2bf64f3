#include "bus/dynamixel/dynamixel_bus.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace molmoact2::bus::dynamixel {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr double kBitsPerByte = 10.0;        // 8N1
constexpr Nanoseconds kTurnPause = 200'000;  // between two looks for the turn

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
  return wire_time(block_request_bytes(way, servos) + block_answer_bytes(way, servos, length));
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
  if (sent == LinkStatus::lost) {
    return ExchangeStatus::lost;
  }
  return sent == LinkStatus::ok ? ExchangeStatus::ok : ExchangeStatus::timed_out;
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
    if ((answer.error & kErrorNumberMask) != 0) {
      answer.status = ExchangeStatus::refused;
      break;
    }
    if (packet.parameters.size() - 1 == data.size()) {
      std::ranges::copy(packet.parameters.subspan(1), data.begin());
      break;
    }
  }
  return answer;
}

ExchangeStatus DynamixelBus::send(std::uint8_t id, Instruction instruction,
                                  std::span<const std::uint8_t> parameters, Nanoseconds deadline) noexcept {
  return begin(id, instruction, parameters, kMaxPacketBytes, deadline);
}

ExchangeStatus DynamixelBus::read_blocks(BlockRead way, std::span<Block> blocks, std::size_t length,
                                         Nanoseconds deadline) noexcept {
  const std::size_t missing = missing_blocks(blocks);
  if (missing == 0) {
    return ExchangeStatus::ok;
  }
  std::array<std::uint8_t, kBlockRequestBytes> parameters;
  const std::size_t size = block_request(way, blocks, length, parameters);
  ExchangeStatus status = begin(kBroadcastId, block_instruction(way), std::span(parameters).first(size),
                                block_packet_bytes(way, missing, length), deadline);
  const std::size_t expected = block_answer_bytes(way, missing, length);
  while (status == ExchangeStatus::ok && missing_blocks(blocks) > 0) {
    Packet packet;
    status = receive(packet, deadline, expected);
    if (status == ExchangeStatus::ok && packet.is_combined() == is_fast(way)) {
      const Nanoseconds began = monotonic_now() - wire_time(packet.parameters.size() + kPacketOverhead);
      take_block_answer(packet, blocks, length, began);
      if (is_fast(way)) {
        break;  // there is only one
      }
    }
  }
  if (status != ExchangeStatus::ok) {
    return status;
  }
  return missing_blocks(blocks) == 0 ? ExchangeStatus::ok : ExchangeStatus::refused;
}

ExchangeStatus DynamixelBus::sync_write(std::uint16_t address, std::size_t length,
                                        std::span<const std::uint8_t> parameters,
                                        Nanoseconds deadline) noexcept {
  std::array<std::uint8_t, kMaxServos * (1 + kMaxBlockBytes) + 4> whole;
  whole[0] = static_cast<std::uint8_t>(address & 0xFFU);
  whole[1] = static_cast<std::uint8_t>(address >> 8U);
  whole[2] = static_cast<std::uint8_t>(length & 0xFFU);
  whole[3] = static_cast<std::uint8_t>(length >> 8U);
  constexpr std::size_t kBegin = 4;
  const std::size_t taken = std::min(parameters.size(), whole.size() - kBegin);
  std::copy_n(parameters.begin(), taken, whole.begin() + static_cast<std::ptrdiff_t>(kBegin));
  return begin(kBroadcastId, Instruction::sync_write, std::span(whole).first(kBegin + taken), kMaxPacketBytes,
               deadline);
}

}  // namespace molmoact2::bus::dynamixel
