#include "control/jerk_filter.h"

#include <algorithm>
#include <cmath>

#include "control/safety_gate.h"

namespace molmoact2::control {

namespace {
constexpr double kRoundingMargin = 1e-6;
}

std::size_t JerkFilter::window(const JointLimits& limits, std::size_t joint, double period_s) noexcept {
  const double jerk = limits.jerk_max[joint] * (1.0 - kRoundingMargin);
  if (!(jerk > 0.0)) {
    return 1;
  }
  const double periods = std::ceil(2.0 * limits.acceleration_max[joint] / (jerk * period_s));
  // Beyond this check() refuses it; the exact number says nothing then, and might not fit.
  return static_cast<std::size_t>(std::clamp(periods, 1.0, 2.0 * static_cast<double>(kMaxWindow)));
}

JerkFilter::JerkFilter(const JointLimits& limits, double period_s) : joint_count_(limits.joint_count) {
  for (std::size_t i = 0; i < joint_count_; ++i) {
    windows_[i] = window(limits, i, period_s);
    longest_ = std::max(longest_, windows_[i]);
  }
  if (longest_ > 1) {
    past_.resize(longest_);
  }
  still_ = longest_;
}

void JerkFilter::reset(const JointVector& pose) noexcept {
  std::ranges::fill(past_, pose);
  still_ = longest_;
}

void JerkFilter::step(const JointVector& path, JointVector& command) noexcept {
  if (past_.empty()) {
    command = path;
    return;
  }
  const auto joints = static_cast<std::ptrdiff_t>(joint_count_);
  const bool stands = std::equal(path.begin(), path.begin() + joints, past_[newest_].begin());
  still_ = stands ? std::min(still_ + 1, longest_) : 0;
  newest_ = (newest_ + 1) % longest_;
  past_[newest_] = path;
  // Differences to the newest position: exact where the path stands, and no drift as a running sum would
  // have.
  JointVector sum{};
  std::size_t slot = newest_;
  for (std::size_t age = 1; age < longest_; ++age) {
    slot = slot == 0 ? longest_ - 1 : slot - 1;
    for (std::size_t i = 0; i < joint_count_; ++i) {
      sum[i] += age < windows_[i] ? past_[slot][i] - path[i] : 0.0;
    }
  }
  for (std::size_t i = 0; i < joint_count_; ++i) {
    command[i] = path[i] + sum[i] / static_cast<double>(windows_[i]);
  }
}

}  // namespace molmoact2::control
