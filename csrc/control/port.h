// The loop's only way to a robot. A port owns the wire; the loop owns the time at which it is called.
#pragma once

#include <cstddef>
#include <cstdint>

#include "control/clock.h"
#include "control/joints.h"

namespace molmoact2::control {

struct MeasuredState {
  JointVector positions{};
  Nanoseconds time = 0;  // monotonic time of the measurement, not of its delivery
  // What a robot may report besides, each joint in its own place; NaN for a joint that has no such sensor.
  bool has_temperatures = false;
  bool has_currents = false;
  JointVector temperatures{};  // degrees Celsius
  JointVector currents{};      // amperes, magnitude or signed
};

struct Command {
  JointVector positions{};
  std::uint64_t sequence = 0;  // counts writes from 1
  Nanoseconds time = 0;        // monotonic time of the write
};

enum class PortStatus : std::uint8_t { ok, no_data, failed };

class Port {
 public:
  virtual ~Port() = default;
  virtual std::size_t joint_count() const noexcept = 0;
  // The newest measurement. `no_data`: none yet. On anything but `ok`, `state` is unchanged. Never blocks for
  // longer than the bus needs for one exchange.
  virtual PortStatus read(MeasuredState& state) noexcept = 0;
  virtual PortStatus write(const Command& command) noexcept = 0;
};

}  // namespace molmoact2::control
