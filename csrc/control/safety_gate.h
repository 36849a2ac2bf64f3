// The one way from a target to a command. Whatever comes in, what goes out is finite and keeps position,
// velocity, acceleration and, where they are given, jerk limits together: the gate only moves as fast as it
// can still brake before a position limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "control/jerk_filter.h"
#include "control/joints.h"
#include "control/status.h"

namespace molmoact2::control {

// Per joint, in the joint's unit, its unit per second, per second squared and per second cubed.
struct JointLimits {
  std::size_t joint_count = 0;
  JointVector position_min{};
  JointVector position_max{};
  JointVector velocity_max{};
  JointVector acceleration_max{};
  JointVector jump_max{};  // how far from the measured pose a target may be
  JointVector jerk_max{};  // 0: none
};

// Empty when the limits are usable, otherwise what is wrong with them.
std::string check(const JointLimits& limits);
// The same for a gate with that period.
std::string check(const JointLimits& limits, double period_s);

struct GateInput {
  const double* target = nullptr;    // joint_count values, any bit pattern; null: there is none
  Reason absence = Reason::none;     // why there is none
  const double* measured = nullptr;  // joint_count values; null: not known at this tick
  // Where to come to rest while there is no target: finite, joint_count values; null: as soon as possible. A
  // stop and a fault do not wait for it.
  const double* rest_at = nullptr;
};

struct GateResult {
  JointVector command{};
  State state = State::idle;
  Reason reason = Reason::not_reset;
  bool followed = false;             // the target passed finite, fresh, mode and jump
  std::uint32_t limited_joints = 0;  // bit per joint whose command differs from its target
};

class SafetyGate {
 public:
  // Both must pass check(); `period_s` > 0 is the time between two steps.
  SafetyGate(const JointLimits& limits, double period_s);

  // As made: no pose, idle, no fault.
  void forget() noexcept;

  // Starts over, at rest at the measured pose (finite, joint_count values), and clears a fault. Outside the
  // position limits the command starts at the nearest limit; farther out than a joint may move in one period,
  // that is a fault, and since the arm is not where the command is, it must not be written.
  void reset(const double* measured) noexcept;

  // The same pose, at rest, in the state that it is in: for an arm that none of the last commands has
  // reached. False: the pose is as far outside the limits as makes reset() a fault, and that is what it is
  // now.
  bool rebase(const double* measured) noexcept;

  // One period. Checks in this order: finite, fresh, mode, position, jump, velocity, acceleration, jerk. A
  // target that fails one of the first three, or jumps, is not followed: the command decelerates to rest.
  const GateResult& step(const GateInput& input) noexcept;

  // Decelerate to rest, then idle until reset. The first reason given stays.
  void stop(Reason reason) noexcept;
  // Decelerate to rest and stay in fault until reset. The first reason given stays.
  void fault(Reason reason) noexcept;

  bool at_rest() const noexcept;
  const GateResult& last() const noexcept { return result_; }
  const JointLimits& limits() const noexcept { return limits_; }
  double period_s() const noexcept { return period_s_; }

 private:
  Reason refuse(const GateInput& input) noexcept;
  void bound(const double* target) noexcept;
  void move(const double* target) noexcept;
  void judge_limits(const double* target) noexcept;
  double approach_velocity(std::size_t joint, double target) const noexcept;

  JointLimits limits_;
  double period_s_;
  // The path keeps every limit but jerk; the command is what the filter makes of it.
  JerkFilter jerk_filter_;
  JointVector path_{};
  JointVector velocity_{};         // of the path, per second
  JointVector velocity_max_{};     // limits_ less a margin for rounding
  JointVector velocity_change_{};  // the most that velocity may change in one period
  JointVector bounded_target_{};   // the target after the position limits
  JointVector previous_target_{};
  bool has_previous_target_ = false;
  GateResult result_;
};

}  // namespace molmoact2::control
