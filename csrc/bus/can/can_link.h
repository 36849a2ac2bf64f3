// A CAN bus as the loop's thread needs it, whoever carries it: classic frames, absolute deadlines, and a word
// when the adapter is gone or the controller has left the bus.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "bus/serial/serial_link.h"
#include "control/clock.h"

namespace molmoact2::bus {

inline constexpr std::size_t kCanDataBytes = 8;
inline constexpr std::uint32_t kStandardIdMax = 0x7FF;
inline constexpr std::uint32_t kExtendedIdMax = 0x1FFF'FFFF;

struct CanFrame {
  std::uint32_t id = 0;  // 11 bits, or 29 where `extended`
  bool extended = false;
  bool remote = false;  // asks for data: `length` counts what is asked for, and `data` is empty
  std::uint8_t length = 0;
  std::array<std::uint8_t, kCanDataBytes> data{};
  control::Nanoseconds time =
      0;  // received frames: monotonic, never earlier than the frame's arrival is known
};

// The controller's error state (ISO 11898-1). In bus_off it neither sends nor receives.
enum class CanHealth : std::uint8_t { active, warning, passive, bus_off };

const char* name(CanHealth health) noexcept;

// One thread sends and receives. Once it has been told `lost`, another one may call open() until that
// succeeds; until then send() and receive() keep saying `lost` at once.
class CanLink {
 public:
  virtual ~CanLink() = default;

  // Ready for frames at the bit rate, with nothing old in its buffers. False, and why with what to do in
  // `error`. May allocate and wait: not for the loop's thread.
  virtual bool open(std::string& error) noexcept = 0;
  virtual void close() noexcept = 0;
  virtual bool is_open() const noexcept = 0;

  // Hands over all frames; they are on the bus later.
  virtual LinkStatus send(std::span<const CanFrame> frames, control::Nanoseconds deadline) noexcept = 0;
  // The next frame. A deadline that has passed takes one that is there.
  virtual LinkStatus receive(CanFrame& frame, control::Nanoseconds deadline) noexcept = 0;

  // Any thread: what the controller said last. Links that are not told stay `active`.
  virtual CanHealth health() const noexcept = 0;
  // Any thread: received texts or frames that made no sense, since the link was made.
  virtual std::uint64_t malformed() const noexcept = 0;
  // For messages: what was opened, or is to be.
  virtual const std::string& path() const noexcept = 0;
};

}  // namespace molmoact2::bus
