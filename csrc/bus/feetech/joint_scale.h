// Ticks of a servo and positions of a joint: LeRobot's calibration and its formulas, in double arithmetic, so
// that the same arm with the same file gives the same number there and here.
#pragma once

#include <cstdint>

namespace molmoact2::bus::feetech {

enum class JointUnit : std::uint8_t {
  degrees,  // zero in the middle of the range, not clamped; the drive mode has no effect, as in LeRobot
  percent,  // of the range, clamped; inverted by the drive mode
};

struct JointScale {
  int range_min = 0;  // ticks, below range_max
  int range_max = 4095;
  JointUnit unit = JointUnit::degrees;
  bool inverted = false;

  double position_of(int ticks) const noexcept;
  // The nearest tick within the range; `position` is finite.
  int ticks_of(double position) const noexcept;
};

}  // namespace molmoact2::bus::feetech
