// A robot for tests: its pose is the last command, and it can fall silent, fail, or be moved by hand.
#pragma once

#include "control/port.h"

namespace molmoact2::control {

class ScriptedPort final : public Port {
 public:
  ScriptedPort(std::size_t joint_count, Clock& clock) : joint_count_(joint_count), clock_(clock) {}

  std::size_t joint_count() const noexcept override { return joint_count_; }
  PortStatus read(MeasuredState& state) noexcept override {
    if (reads_fail) return PortStatus::failed;
    if (silent) {
      if (measured.time == 0) return PortStatus::no_data;
    } else {
      measured.time = clock_.now();
    }
    state = measured;
    return PortStatus::ok;
  }
  PortStatus write(const Command& next) noexcept override {
    if (writes_fail) return PortStatus::failed;
    command = next;
    ++writes;
    if (follows) measured.positions = next.positions;
    return PortStatus::ok;
  }

  MeasuredState measured;
  Command command;
  int writes = 0;
  bool follows = true;
  bool silent = false;
  bool reads_fail = false;
  bool writes_fail = false;

 private:
  std::size_t joint_count_;
  Clock& clock_;
};

}  // namespace molmoact2::control
