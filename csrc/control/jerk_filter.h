// Jerk limits on top of the others. Each joint's command is the mean of the last positions of a path that
// keeps position, velocity and acceleration limits. A mean of values within limits is within them, so those
// three still hold; and with a window of n periods, jerk is the difference of two accelerations over n
// periods: at most 2 acceleration_max / (n period). The price is a delay of half a window, which is how long
// the limited jerk takes to build up the acceleration. (L. Biagiotti, C. Melchiorri: FIR filters for online
// trajectory planning with time- and frequency-domain specifications, 2012.)
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "control/joints.h"

namespace molmoact2::control {

struct JointLimits;

class JerkFilter {
 public:
  static constexpr std::size_t kMaxWindow = 1024;

  // Periods over which joint `joint` is averaged: 1 where it has no jerk limit.
  static std::size_t window(const JointLimits& limits, std::size_t joint, double period_s) noexcept;

  // Every window must be at most kMaxWindow. Allocates; nothing else does.
  JerkFilter(const JointLimits& limits, double period_s);

  // The path stands at `pose` and has for long.
  void reset(const JointVector& pose) noexcept;
  // One period: `path` in, the command out.
  void step(const JointVector& path, JointVector& command) noexcept;
  // The command has come to where the path stands.
  bool settled() const noexcept { return still_ + 1 >= longest_; }

 private:
  std::size_t joint_count_;
  std::array<std::size_t, kMaxJoints> windows_{};
  std::size_t longest_ = 1;
  std::vector<JointVector>
      past_;  // ring of the newest longest_ path positions; empty where nothing is limited
  std::size_t newest_ = 0;
  std::size_t still_ = 0;  // periods since the path moved
};

}  // namespace molmoact2::control
