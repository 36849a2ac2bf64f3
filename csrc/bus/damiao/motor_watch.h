// What is known about one motor from its feedback, and whether to believe a feedback at all.
#pragma once

#include <cstdint>

#include "bus/damiao/damiao_codec.h"
#include "control/clock.h"

namespace molmoact2::bus {

// slcan has no checksum, so that a flipped bit on the serial line gives a position, a temperature or an error
// that never was. What differs from the feedback before by more than a motor can do must be said twice.
class MotorWatch {
 public:
  // Farther than the motor's full-scale speed covers in the time between is a jump; so is a change by more
  // than this.
  static constexpr double kPositionSlack = 0.05;  // rad
  static constexpr double kCelsiusSlack = 5.0;

  explicit MotorWatch(const MitRanges& ranges) noexcept : ranges_(ranges) {}

  // Whether it was believed. `time` is when it was received.
  bool take(const MotorFeedback& feedback, control::Nanoseconds time) noexcept;
  // Believed at once: an answer to a command that asked for the change.
  void accept(const MotorFeedback& feedback, control::Nanoseconds time) noexcept;
  // Nothing is known any more.
  void forget() noexcept;

  bool known() const noexcept { return time_ != 0; }
  const MotorFeedback& feedback() const noexcept { return feedback_; }
  control::Nanoseconds time() const noexcept { return time_; }
  std::uint64_t doubted() const noexcept { return doubted_; }

 private:
  bool follows(const MotorFeedback& before, control::Nanoseconds before_time, const MotorFeedback& feedback,
               control::Nanoseconds time) const noexcept;

  MitRanges ranges_;
  MotorFeedback feedback_;
  control::Nanoseconds time_ = 0;
  MotorFeedback suspect_;
  control::Nanoseconds suspect_time_ = 0;  // 0: none
  std::uint64_t doubted_ = 0;
};

}  // namespace molmoact2::bus
