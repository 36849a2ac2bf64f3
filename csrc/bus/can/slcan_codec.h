// Lawicel's text protocol for CAN over a serial line, as slcan adapters and python-can speak it: a frame is a
// line `t` id(3) length(1) data(2 each), `T` with 8 digits of id, `r` and `R` for remote frames, ended by CR.
// An adapter answers commands with CR, or BEL where it refuses; `z` or `Z` before CR acknowledges a frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "bus/can/can_link.h"

namespace molmoact2::bus {

// T, 8 digits of id, length, 16 digits of data, CR.
inline constexpr std::size_t kSlcanLineBytes = 27;
// Some adapters append four digits of time to what they receive.
inline constexpr std::size_t kSlcanTimeDigits = 4;

// Writes the frame's line into `line` and returns its size; 0 where the frame is none (id or length too
// large) or `line` too short.
std::size_t encode_slcan(const CanFrame& frame, std::span<std::uint8_t> line) noexcept;

// Whether `line`, without its CR, is a frame; a frame's time is left 0.
bool decode_slcan(std::span<const std::uint8_t> line, CanFrame& frame) noexcept;

enum class SlcanEvent : std::uint8_t {
  none,       // nothing complete yet
  frame,      // `frame` is set
  answer,     // an adapter's word to a command: CR alone, or a line that is no frame, as of a version
  refusal,    // BEL
  malformed,  // a line that begins like a frame and is none, or is too long
};

// Cuts a stream of bytes into lines. Whatever the bytes are, it goes on at the next CR or BEL.
class SlcanParser {
 public:
  SlcanEvent take(std::uint8_t byte, CanFrame& frame) noexcept;
  void reset() noexcept {
    size_ = 0;
    overlong_ = false;
  }

 private:
  std::array<std::uint8_t, kSlcanLineBytes + kSlcanTimeDigits> line_{};
  std::size_t size_ = 0;
  bool overlong_ = false;
};

}  // namespace molmoact2::bus
