// Requests and answers on one half-duplex line of Feetech servos. Knows time and the link, not what a
// register means.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "bus/feetech/packet.h"
#include "bus/serial/serial_link.h"
#include "control/clock.h"
#include "control/joints.h"

namespace molmoact2::bus::feetech {

// Of one servo to one request.
struct Answer {
  std::uint8_t servo = 0;
  bool arrived = false;
  std::uint8_t error = 0;
  // When the request was sent: the servo measured later than that, never before.
  control::Nanoseconds time = 0;
  std::array<std::uint8_t, 16> data{};
};

// Counted since the bus was made; any thread may look.
struct BusCounters {
  std::atomic<std::uint64_t> exchanges{0};        // requests that wanted an answer
  std::atomic<std::uint64_t> retries{0};          // of them, those that repeated another
  std::atomic<std::uint64_t> timeouts{0};         // exchanges that ended without every answer
  std::atomic<std::uint64_t> checksum_errors{0};  // packets
  std::atomic<std::uint64_t> wrong_lengths{0};    // beginnings of packets of a size that was not asked for
  std::atomic<std::uint64_t> garbage{0};          // bytes that belonged to no packet
  std::atomic<std::uint64_t> foreign{0};          // valid packets that nobody had asked for
};

// How long answers may take on top of their time on the wire: the servos' turnaround and the adapter's
// latency.
inline constexpr control::Nanoseconds kAnswerSlack = 3'000'000;
// The longest block of registers that fits an Answer.
inline constexpr std::size_t kMaxBlock = std::tuple_size_v<decltype(Answer::data)>;
inline constexpr std::size_t kMaxServos = control::kMaxJoints;

class ServoBus {
 public:
  ServoBus(std::string path, int baud) : link_(std::move(path), baud) {}

  // Opens the line and finds out whether the adapter sends back what it is given. Not for the loop's thread.
  bool open(std::string& error) noexcept;
  void close() noexcept { link_.close(); }
  bool is_open() const noexcept { return link_.is_open(); }
  const std::string& path() const noexcept { return link_.path(); }
  int baud() const noexcept { return link_.baud(); }
  bool echoes() const noexcept { return echoes_; }
  const BusCounters& counters() const noexcept { return counters_; }

  // Whoever exchanges packets has the bus. The loop's thread only tries; others wait until it is free.
  bool try_acquire() noexcept { return !busy_.exchange(true, std::memory_order_acquire); }
  void acquire() noexcept;
  void release() noexcept { busy_.store(false, std::memory_order_release); }

  // --- who has the bus ---

  // Sends `request` and waits until every one of `answers` has arrived, which is ok; timed_out where that is
  // not so after their time on the wire and `slack`, or at `deadline`, or as soon as it cannot be any more.
  // Those that have arrived before the call are not waited for. At most kMaxServos answers of at most
  // kMaxBlock bytes.
  LinkStatus exchange(const Packet& request, std::size_t data_size, std::span<Answer> answers,
                      control::Nanoseconds slack, control::Nanoseconds deadline) noexcept;
  // Sends what nobody answers.
  LinkStatus send(const Packet& request, control::Nanoseconds deadline) noexcept;
  // Reads `size` bytes from `address` of every servo in `answers` that has not arrived, and once more from
  // those that are missing as long as `deadline` allows. Those that miss are asked last the next time: some
  // firmware waits in its turn for the servo before it. Reorders `answers`.
  LinkStatus read_block(std::uint8_t address, std::size_t size, std::span<Answer> answers,
                        control::Nanoseconds slack, control::Nanoseconds deadline) noexcept;
  void count_retry() noexcept { counters_.retries.fetch_add(1, std::memory_order_relaxed); }

 private:
  control::Nanoseconds on_wire(std::size_t bytes) const noexcept;
  // Adds `bytes` to what is on its way out; returns when the last of them has left.
  control::Nanoseconds occupy(std::size_t bytes) noexcept;
  void count(const StatusParser::Counts& counts, bool complete) noexcept;

  SerialLink link_;
  StatusParser parser_;
  BusCounters counters_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> echoes_{false};
  control::Nanoseconds wire_free_ = 0;
};

// Has the bus for as long as it lives. Not for the loop's thread.
class BusTurn {
 public:
  explicit BusTurn(ServoBus& bus) noexcept : bus_(bus) { bus_.acquire(); }
  BusTurn(const BusTurn&) = delete;
  BusTurn& operator=(const BusTurn&) = delete;
  ~BusTurn() { bus_.release(); }

 private:
  ServoBus& bus_;
};

}  // namespace molmoact2::bus::feetech
