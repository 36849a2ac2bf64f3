// A port without a robot behind it: the pose follows the commands with a lag. What a loop on it measures is
// the computer alone, because neither a bus nor another thread takes part.
#pragma once

#include <cmath>
#include <cstddef>

#include "control/clock.h"
#include "control/port.h"

namespace molmoact2::control {

class LoopbackPort final : public Port {
 public:
  // `lag_s` (>= 0) is the time constant with which the pose follows; measurements are made when they are
  // read.
  LoopbackPort(std::size_t joint_count, const JointVector& pose, double lag_s) noexcept
      : joint_count_(joint_count), lag_s_(lag_s), pose_(pose), goal_(pose) {}

  std::size_t joint_count() const noexcept override { return joint_count_; }

  PortStatus read(MeasuredState& state) noexcept override {
    advance(monotonic_now());
    state.positions = pose_;
    state.time = time_;
    return PortStatus::ok;
  }
  PortStatus write(const Command& command) noexcept override {
    advance(monotonic_now());
    goal_ = command.positions;
    return PortStatus::ok;
  }

 private:
  void advance(Nanoseconds now) noexcept {
    const double seconds = time_ == 0 ? 0.0 : static_cast<double>(now - time_) * 1e-9;
    const double share = lag_s_ > 0.0 ? -std::expm1(-seconds / lag_s_) : 1.0;
    for (std::size_t i = 0; i < joint_count_; ++i) {
      pose_[i] += (goal_[i] - pose_[i]) * share;
    }
    time_ = now;
  }

  std::size_t joint_count_;
  double lag_s_;
  JointVector pose_;
  JointVector goal_;
  Nanoseconds time_ = 0;
};

}  // namespace molmoact2::control
