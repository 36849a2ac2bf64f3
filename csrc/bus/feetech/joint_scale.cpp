#include "bus/feetech/joint_scale.h"

#include <algorithm>
#include <cmath>

namespace molmoact2::bus::feetech {

namespace {

constexpr double kLastTick = 4095.0;  // LeRobot divides the turn by this, not by 4096

}  // namespace

double JointScale::position_of(int ticks) const noexcept {
  if (unit == JointUnit::degrees) {
    const double middle = static_cast<double>(range_min + range_max) / 2.0;
    return (static_cast<double>(ticks) - middle) * 360.0 / kLastTick;
  }
  const int bounded = std::clamp(ticks, range_min, range_max);
  const double percent =
      static_cast<double>(bounded - range_min) / static_cast<double>(range_max - range_min) * 100.0;
  return inverted ? 100.0 - percent : percent;
}

int JointScale::ticks_of(double position) const noexcept {
  double ticks = 0.0;
  if (unit == JointUnit::degrees) {
    const double middle = static_cast<double>(range_min + range_max) / 2.0;
    ticks = position * kLastTick / 360.0 + middle;
  } else {
    const double percent = inverted ? 100.0 - position : position;
    ticks = percent / 100.0 * static_cast<double>(range_max - range_min) + static_cast<double>(range_min);
  }
  // Clamped before it is rounded: what lies far outside has no integer.
  const double bounded = std::clamp(ticks, static_cast<double>(range_min), static_cast<double>(range_max));
  return static_cast<int>(std::lround(bounded));
}

}  // namespace molmoact2::bus::feetech
