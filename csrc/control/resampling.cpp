#include "control/resampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace molmoact2::control {

namespace {

// The velocity at an action, from the differences before and after it: their harmonic mean, or 0 where they
// turn round. It is at most twice the smaller one, and up to three times keeps a cubic monotone between its
// ends (F. N. Fritsch, R. E. Carlson: Monotone piecewise cubic interpolation, 1980), so nothing overshoots.
double slope_between(double before, double after) noexcept {
  const double product = before * after;
  if (!(product > 0.0)) {  // also for NaN
    return 0.0;
  }
  const double slope = 2.0 * (product / (before + after));
  return std::isfinite(slope) ? slope : 0.0;
}

struct Neighbours {
  double here;
  double there;
  double difference_before;  // to `here`, from the action before it
  double difference_after;   // from `there`, to the action after it
};

double cubic(const Neighbours& at, double part) noexcept {
  if (!std::isfinite(at.here) || !std::isfinite(at.there)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double difference = at.there - at.here;
  const double slope_here = slope_between(at.difference_before, difference);
  const double slope_there = slope_between(difference, at.difference_after);
  const double rest = 1.0 - part;
  const double value = at.here + difference * part * part * (3.0 - 2.0 * part) +
                       slope_here * part * rest * rest - slope_there * part * part * rest;
  return std::clamp(value, std::min(at.here, at.there), std::max(at.here, at.there));
}

}  // namespace

void sample(const ActionRows& chunk, double position, Resampling how, JointVector& target) noexcept {
  const double whole = std::floor(position + kActionRounding);
  const double part = std::max(0.0, position - whole);
  const std::size_t last = chunk.rows - 1;
  const std::size_t row =
      std::min(static_cast<std::size_t>(whole), last);  // rounding must not lead past the end
  const std::size_t after = std::min(row + 1, last);
  const double* here = chunk.actions + row * chunk.action_dim;
  const double* there = chunk.actions + after * chunk.action_dim;
  if (part <= kActionRounding || row == after) {
    std::copy(here, here + chunk.action_dim, target.begin());
    return;
  }
  if (how == Resampling::linear) {
    for (std::size_t i = 0; i < chunk.action_dim; ++i) {
      target[i] = here[i] + (there[i] - here[i]) * part;
    }
    return;
  }
  const double* before = row > 0 ? here - chunk.action_dim : nullptr;
  const double* beyond = after < last ? there + chunk.action_dim : nullptr;
  for (std::size_t i = 0; i < chunk.action_dim; ++i) {
    const double difference = there[i] - here[i];
    // Before the first action the motion is taken to be the same; after the last one the arm stands.
    target[i] = cubic({here[i], there[i], before != nullptr ? here[i] - before[i] : difference,
                       beyond != nullptr ? beyond[i] - there[i] : 0.0},
                      part);
  }
}

}  // namespace molmoact2::control
