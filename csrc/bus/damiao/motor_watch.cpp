#include "bus/damiao/motor_watch.h"

#include <algorithm>
#include <cmath>

namespace molmoact2::bus {

using control::Nanoseconds;

bool MotorWatch::follows(const MotorFeedback& before, Nanoseconds before_time, const MotorFeedback& feedback,
                         Nanoseconds time) const noexcept {
  const double seconds = std::max(0.0, static_cast<double>(time - before_time) * 1e-9);
  return feedback.status == before.status &&
         std::abs(feedback.position - before.position) <= ranges_.velocity * seconds + kPositionSlack &&
         std::abs(feedback.driver_celsius - before.driver_celsius) <= kCelsiusSlack &&
         std::abs(feedback.rotor_celsius - before.rotor_celsius) <= kCelsiusSlack;
}

bool MotorWatch::take(const MotorFeedback& feedback, Nanoseconds time) noexcept {
  if ((known() && follows(feedback_, time_, feedback, time)) ||
      (suspect_time_ != 0 && follows(suspect_, suspect_time_, feedback, time))) {
    accept(feedback, time);
    return true;
  }
  suspect_ = feedback;
  suspect_time_ = time;
  ++doubted_;
  return false;
}

void MotorWatch::accept(const MotorFeedback& feedback, Nanoseconds time) noexcept {
  feedback_ = feedback;
  // Frames may be handed over in another order than they came.
  time_ = std::max(time_, time);
  suspect_time_ = 0;
}

void MotorWatch::forget() noexcept {
  feedback_ = MotorFeedback{};
  time_ = 0;
  suspect_time_ = 0;
}

}  // namespace molmoact2::bus
