// A serial line as the loop's thread needs it: raw bytes, absolute deadlines, and a word when the device is
// gone.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "control/clock.h"

namespace molmoact2::bus {

enum class LinkStatus : std::uint8_t {
  ok,
  timed_out,
  lost
};  // lost: hang-up, an error of the device, closed

// One thread reads and writes. Another may open and close meanwhile: the descriptor's number stays this
// link's from the first open() to the end, and what lies behind it is replaced in one step. The thread that
// reads therefore never meets a descriptor of somebody else, and finds a device that was plugged in again at
// its next call.
class SerialLink {
 public:
  // `baud` in bits a second, any that the adapter can do. Opens nothing.
  SerialLink(std::string path, int baud);
  SerialLink(const SerialLink&) = delete;
  SerialLink& operator=(const SerialLink&) = delete;
  ~SerialLink();

  // Raw 8N1, non-blocking, for this process alone; low latency where the adapter has it. False, and why with
  // what to do in `error`, where the path is no serial device that we may have. May allocate and wait: not
  // for the loop's thread.
  bool open(std::string& error) noexcept;
  void close() noexcept;
  // False as soon as the device is found to be gone.
  bool is_open() const noexcept { return (state_.load(std::memory_order_acquire) & kOpen) != 0; }
  // Counts successful calls of open(): what was read before another one came from another device.
  std::uint64_t openings() const noexcept { return state_.load(std::memory_order_acquire) >> 1U; }

  const std::string& path() const noexcept { return path_; }
  int baud() const noexcept { return baud_; }

  // Drops what has arrived and was not read.
  void discard_input() noexcept;
  // Hands all bytes to the kernel, which sends them at the baud rate.
  LinkStatus write(std::span<const std::uint8_t> bytes, control::Nanoseconds deadline) noexcept;
  // At least one byte, as many as are there and fit; `got` is 0 on anything but ok. A deadline that has
  // passed takes what is there.
  LinkStatus read(std::span<std::uint8_t> bytes, std::size_t& got, control::Nanoseconds deadline) noexcept;

 private:
  static constexpr std::uint64_t kOpen = 1;

  // Waits for `events`; timed_out at the deadline.
  LinkStatus wait(short events, std::uint64_t state, control::Nanoseconds deadline) noexcept;
  // The device of that opening is gone; a newer one is not.
  LinkStatus lose(std::uint64_t state) noexcept;

  std::string path_;
  int baud_;
  std::atomic<int> descriptor_{-1};
  std::atomic<std::uint64_t> state_{0};  // openings << 1 | open
};

}  // namespace molmoact2::bus
