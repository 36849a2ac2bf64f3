// A CAN bus behind an slcan adapter on a serial line.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "bus/can/can_link.h"
#include "bus/can/slcan_codec.h"
#include "bus/serial/serial_link.h"

namespace molmoact2::bus {

// Empty where slcan adapters have the bit rate, otherwise what they have.
std::string check_slcan_bitrate(int bitrate);

// A frame's time is when its bytes were read where the reader was waiting for them. Where they were there
// already, it is the last time that nothing was: never younger than the frame.
class SlcanLink final : public CanLink {
 public:
  // `baud` of the serial line, `bitrate` of the CAN bus; the latter must pass check_slcan_bitrate().
  SlcanLink(std::string path, int baud, int bitrate);

  bool open(std::string& error) noexcept override;
  void close() noexcept override;
  bool is_open() const noexcept override { return ready_.load(std::memory_order_acquire); }
  LinkStatus send(std::span<const CanFrame> frames, control::Nanoseconds deadline) noexcept override;
  LinkStatus receive(CanFrame& frame, control::Nanoseconds deadline) noexcept override;
  // The adapter would have to be asked.
  CanHealth health() const noexcept override { return CanHealth::active; }
  std::uint64_t malformed() const noexcept override { return malformed_.load(std::memory_order_relaxed); }
  const std::string& path() const noexcept override { return serial_.path(); }

 private:
  static constexpr std::size_t kFramesAtOnce = 16;

  LinkStatus lose() noexcept;
  LinkStatus fill(control::Nanoseconds deadline) noexcept;

  SerialLink serial_;
  int bitrate_;
  // The thread that opens owns everything below while this is false, the one that sends and receives while
  // true.
  std::atomic<bool> ready_{false};
  SlcanParser parser_;
  std::array<std::uint8_t, 1024> input_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  control::Nanoseconds input_time_ = 0;  // of what is in input_
  control::Nanoseconds emptied_ = 0;     // when nothing was there to be read
  std::array<std::uint8_t, 1 + kFramesAtOnce * kSlcanLineBytes> output_{};
  bool unfinished_ = false;  // the adapter has part of a line
  std::atomic<std::uint64_t> malformed_{0};
};

}  // namespace molmoact2::bus
