#include "control/start_approach.h"

#include <algorithm>
#include <cmath>

namespace molmoact2::control {

namespace {

// A minimum-jerk move peaks at 15/8 of its mean velocity.
constexpr double kMinimumJerkPeak = 15.0 / 8.0;

double minimum_jerk(double s) noexcept { return s * s * s * (10.0 + s * (6.0 * s - 15.0)); }

}  // namespace

bool StartApproach::plan(const JointVector& start, const JointVector& first) noexcept {
  start_ = pose_ = start;
  period_ = 0;
  double longest_s = 0.0;
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    // Beyond distance_max it is refused, so its length need not be known.
    const double distance = std::min(std::abs(first[i] - start_[i]), options_.distance_max[i]);
    longest_s = std::max(longest_s, kMinimumJerkPeak * distance / (limits_.velocity_max[i] * options_.speed));
  }
  periods_ = static_cast<std::int64_t>(std::ceil(std::min(longest_s / period_s_, 1e15)));
  return periods_ > 1;
}

bool StartApproach::reachable(const JointVector& target) const noexcept {
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    if (std::abs(target[i] - start_[i]) > options_.distance_max[i]) {
      return false;
    }
  }
  return true;
}

void StartApproach::replace(JointVector& target) noexcept {
  const double share = static_cast<double>(period_ + 1) / static_cast<double>(periods_);
  const double along = minimum_jerk(std::min(share, 1.0));
  on_curve_ = true;
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    const double curve = start_[i] + (target[i] - start_[i]) * along;
    const double most = limits_.velocity_max[i] * options_.speed * period_s_;
    next_[i] = std::min(std::max(curve, pose_[i] - most), pose_[i] + most);
    on_curve_ = on_curve_ && next_[i] == curve;
    target[i] = next_[i];
  }
}

}  // namespace molmoact2::control
