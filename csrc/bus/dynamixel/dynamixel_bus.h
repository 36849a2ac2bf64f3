// Exchanges with Dynamixel servos on one half-duplex line: a request, then the answers to it, until a
// deadline.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "bus/dynamixel/block.h"
#include "bus/dynamixel/packet.h"
#include "bus/serial/serial_link.h"
#include "control/clock.h"

namespace molmoact2::bus::dynamixel {

enum class ExchangeStatus : std::uint8_t {
  ok,
  timed_out,  // nothing, or not all, came in time
  corrupt,    // something came, and no valid answer among it
  refused,    // the servo answered with an error
  lost,       // the line is gone
};

struct Answer {
  ExchangeStatus status = ExchangeStatus::timed_out;
  std::uint8_t error = 0;  // of the servo: a number, and kAlertBit
};

// Counted by whoever has the turn, read by anybody.
struct BusCounters {
  std::atomic<std::uint64_t> exchanges{0};
  std::atomic<std::uint64_t> timeouts{0};
  std::atomic<std::uint64_t> damaged{0};  // exchanges whose answers were, or had something invalid in them
  std::atomic<std::uint64_t> retries{0};
};

// One thread at a time, which has the turn. The loop's thread only tries for it; others wait.
class DynamixelBus {
 public:
  // `slack_s` is what adapter and scheduler may add to the time that the bytes take on the wire.
  DynamixelBus(std::string path, int baud, double slack_s);

  SerialLink& link() noexcept { return link_; }
  const SerialLink& link() const noexcept { return link_; }
  const BusCounters& counters() const noexcept { return counters_; }
  void count_retry() noexcept { add(counters_.retries); }

  bool try_turn() noexcept { return !turn_.test_and_set(std::memory_order_acquire); }
  // Sleeps in between: not for the loop's thread. False at the deadline.
  bool wait_turn(control::Nanoseconds deadline) noexcept;
  void give_turn() noexcept { turn_.clear(std::memory_order_release); }

  control::Nanoseconds wire_time(std::size_t bytes) const noexcept {
    return static_cast<control::Nanoseconds>(static_cast<double>(bytes) * ns_per_byte_);
  }
  control::Nanoseconds slack() const noexcept { return slack_; }
  // How long reading these blocks takes on the wire, request and answers.
  control::Nanoseconds block_time(BlockRead way, std::size_t servos, std::size_t length) const noexcept;

  // One servo, whose answer must have as many bytes of data as `data` has room for, or refuse: an answer does
  // not say what it answers, and one to an earlier request may come late. An instruction that is not answered
  // (to the broadcast id) ends when it is sent.
  Answer exchange(std::uint8_t id, Instruction instruction, std::span<const std::uint8_t> parameters,
                  std::span<std::uint8_t> data, control::Nanoseconds deadline) noexcept;
  // No answer.
  ExchangeStatus send(std::uint8_t id, Instruction instruction, std::span<const std::uint8_t> parameters,
                      control::Nanoseconds deadline) noexcept;
  // Pings everybody and calls `found(id, model, firmware)` for each answer until the deadline.
  template <typename Found>
  ExchangeStatus broadcast_ping(control::Nanoseconds deadline, const Found& found) {
    Packet packet;
    if (begin(kBroadcastId, Instruction::ping, {}, kMaxPacketBytes, deadline) != ExchangeStatus::ok) {
      return ExchangeStatus::lost;
    }
    ExchangeStatus status = receive(packet, deadline);
    for (; status == ExchangeStatus::ok; status = receive(packet, deadline)) {
      if (packet.instruction == Instruction::status && packet.parameters.size() == 4) {
        const unsigned model = packet.parameters[1] | static_cast<unsigned>(packet.parameters[2]) << 8U;
        found(packet.id, model, packet.parameters[3]);
      }
    }
    return status == ExchangeStatus::lost ? status : ExchangeStatus::ok;
  }

  // Reads `length` bytes of each block that is not `received` yet and marks those that came. timed_out or
  // corrupt where any did not.
  ExchangeStatus read_blocks(BlockRead way, std::span<Block> blocks, std::size_t length,
                             control::Nanoseconds deadline) noexcept;

  // Writes `length` bytes at `address` of each servo; `parameters` are [id data] for each. No answer.
  ExchangeStatus sync_write(std::uint16_t address, std::size_t length,
                            std::span<const std::uint8_t> parameters, control::Nanoseconds deadline) noexcept;

 private:
  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }

  // Drops what came unasked and sends a request; answers longer than `longest` bytes are damage.
  ExchangeStatus begin(std::uint8_t id, Instruction instruction, std::span<const std::uint8_t> parameters,
                       std::size_t longest, control::Nanoseconds deadline) noexcept;
  // The next valid packet. `corrupt` where something invalid came since begin(), and the time is over or
  // `expected` bytes have come.
  ExchangeStatus receive(Packet& packet, control::Nanoseconds deadline,
                         std::size_t expected = kMaxPacketBytes) noexcept;

  SerialLink link_;
  double ns_per_byte_;
  control::Nanoseconds slack_;
  std::atomic_flag turn_;
  PacketParser parser_;
  std::uint64_t damaged_before_ = 0;  // as begin() found the parser's count
  std::size_t arrived_ = 0;           // bytes since begin()
  std::array<std::uint8_t, kMaxPacketBytes> request_{};
  BusCounters counters_;
};

}  // namespace molmoact2::bus::dynamixel
