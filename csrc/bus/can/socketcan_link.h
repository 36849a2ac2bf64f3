// A CAN bus that is a network interface of the kernel, such as can0. Bit rate and state of the interface are
// the system's to set: `ip link set can0 up type can bitrate 1000000`.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bus/can/can_link.h"

namespace molmoact2::bus {

// A received frame's time is the kernel's, taken when the interface handed it over.
class SocketCanLink final : public CanLink {
 public:
  // Receives only frames with one of these standard ids, and the controller's errors; empty: every frame.
  SocketCanLink(std::string interface, std::vector<std::uint32_t> accepted_ids);
  SocketCanLink(const SocketCanLink&) = delete;
  SocketCanLink& operator=(const SocketCanLink&) = delete;
  ~SocketCanLink() override;

  bool open(std::string& error) noexcept override;
  void close() noexcept override;
  bool is_open() const noexcept override { return ready_.load(std::memory_order_acquire); }
  LinkStatus send(std::span<const CanFrame> frames, control::Nanoseconds deadline) noexcept override;
  // Frames that tell of the controller's errors are taken in on the way and change health().
  LinkStatus receive(CanFrame& frame, control::Nanoseconds deadline) noexcept override;
  CanHealth health() const noexcept override { return health_.load(std::memory_order_acquire); }
  std::uint64_t malformed() const noexcept override { return malformed_.load(std::memory_order_relaxed); }
  const std::string& path() const noexcept override { return interface_; }

 private:
  LinkStatus wait(short events, control::Nanoseconds deadline) noexcept;
  LinkStatus lose() noexcept;
  // One frame that is there; timed_out where none is. `is_error`: it was of the controller and is taken in.
  LinkStatus take(CanFrame& frame, bool& is_error) noexcept;

  std::string interface_;
  std::vector<std::uint32_t> accepted_ids_;
  std::atomic<int> descriptor_{-1};  // changed by the thread that opens, while ready_ is false
  std::atomic<bool> ready_{false};
  std::atomic<CanHealth> health_{CanHealth::active};
  std::atomic<std::uint64_t> malformed_{0};
};

}  // namespace molmoact2::bus
