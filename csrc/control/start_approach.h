// The way from the measured pose to a run's first target: a slow minimum-jerk move, or a refusal.
#pragma once

#include <cstdint>

#include "control/joints.h"
#include "control/safety_gate.h"

namespace molmoact2::control {

struct ApproachOptions {
  double speed = 0.25;         // fraction of velocity_max at the fastest point
  JointVector distance_max{};  // a first target farther away is refused
};

class StartApproach {
 public:
  StartApproach(const JointLimits& limits, double period_s, const ApproachOptions& options) noexcept
      : limits_(limits), period_s_(period_s), options_(options) {}

  // From `start` to `first`, both finite. False: it is so near that one period is enough.
  bool plan(const JointVector& start, const JointVector& first) noexcept;
  // Whether `target` is as near to the start as it must be.
  bool reachable(const JointVector& target) const noexcept;
  // Puts the pose of the period that is due in the place of the target that the way leads to. Where a new
  // chunk has moved that target, the way there is no faster for it, only longer.
  void replace(JointVector& target) noexcept;
  // A period was executed. True: it was the last.
  bool advance() noexcept {
    pose_ = next_;
    return ++period_ >= periods_ && on_curve_;
  }

 private:
  JointLimits limits_;
  double period_s_;
  ApproachOptions options_;
  JointVector start_{};
  JointVector pose_{};     // of the last period that was executed
  JointVector next_{};     // of the one that is due
  bool on_curve_ = false;  // whether it is where the minimum-jerk move has it
  std::int64_t period_ = 0;
  std::int64_t periods_ = 0;
};

}  // namespace molmoact2::control
