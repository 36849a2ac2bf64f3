#include "control/safety_gate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace molmoact2::control {

namespace {

// Velocity and acceleration are differences of commands divided by the period once and twice, so a rounding
// in the last bit of a command grows by up to 1e6 at 1 kHz. Staying this fraction inside keeps the limits
// strict.
constexpr double kRoundingMargin = 1e-6;

// A command this close to its target, as a fraction of what one period may change, counts as on target.
constexpr double kOnTarget = 1e-6;

// The highest speed at which a joint may move in this period so that, slowing by `change` in each period
// after it, it has come no farther than `distance`. With n periods of motion, speed w covers period * (n w -
// change n (n - 1) / 2); the distance holds for every n, so w is the least over n of distance / (n period) +
// change (n - 1) / 2. The minimum lies beside the root of the continuous form.
double braking_speed(double distance, double change, double period) noexcept {
  if (distance <= 0.0) {
    return 0.0;
  }
  const double root = std::sqrt(2.0 * distance / (change * period));
  const double first = std::max(1.0, std::floor(root) - 1.0);
  double speed = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 4; ++i) {
    const double n = first + i;
    speed = std::min(speed, distance / (n * period) + change * (n - 1.0) / 2.0);
  }
  return speed;
}

bool finite(const double* values, std::size_t count) noexcept {
  return std::all_of(values, values + count, [](double value) { return std::isfinite(value); });
}

}  // namespace

std::string check(const JointLimits& limits) {
  if (limits.joint_count == 0 || limits.joint_count > kMaxJoints) {
    return "expected 1 to " + std::to_string(kMaxJoints) + " joints, got " +
           std::to_string(limits.joint_count);
  }
  for (std::size_t i = 0; i < limits.joint_count; ++i) {
    const std::string joint = " of joint " + std::to_string(i);
    if (!std::isfinite(limits.position_min[i]) || !std::isfinite(limits.position_max[i]) ||
        !(limits.position_min[i] < limits.position_max[i])) {
      return "position_min" + joint + " must be finite and below position_max";
    }
    const auto positive = [](double value) { return std::isfinite(value) && value > 0.0; };
    if (!positive(limits.velocity_max[i])) {
      return "velocity_max" + joint + " must be finite and above 0";
    }
    if (!positive(limits.acceleration_max[i])) {
      return "acceleration_max" + joint + " must be finite and above 0";
    }
    if (!positive(limits.jump_max[i])) {
      return "jump_max" + joint + " must be finite and above 0";
    }
    if (limits.jerk_max[i] != 0.0 && !positive(limits.jerk_max[i])) {
      return "jerk_max" + joint + " must be finite and above 0, or absent";
    }
  }
  return {};
}

std::string check(const JointLimits& limits, double period_s) {
  std::string wrong = check(limits);
  for (std::size_t i = 0; wrong.empty() && i < limits.joint_count; ++i) {
    const std::size_t window = JerkFilter::window(limits, i, period_s);
    if (window > JerkFilter::kMaxWindow) {
      return "jerk_max of joint " + std::to_string(i) +
             " is too small: acceleration_max would take longer than " +
             std::to_string(JerkFilter::kMaxWindow / 2) + " periods to build up";
    }
  }
  return wrong;
}

SafetyGate::SafetyGate(const JointLimits& limits, double period_s)
    : limits_(limits), period_s_(period_s), jerk_filter_(limits, period_s) {
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    velocity_max_[i] = limits_.velocity_max[i] * (1.0 - kRoundingMargin);
    velocity_change_[i] = limits_.acceleration_max[i] * (1.0 - kRoundingMargin) * period_s_;
  }
  forget();
}

void SafetyGate::forget() noexcept {
  result_ = GateResult{};
  has_previous_target_ = false;
  velocity_.fill(0.0);
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    // Until the first reset there is no pose to hold; the middle of the range is at least a legal number.
    path_[i] = limits_.position_min[i] / 2.0 + limits_.position_max[i] / 2.0;
  }
  jerk_filter_.reset(path_);
  result_.command = path_;
}

void SafetyGate::reset(const double* measured) noexcept {
  result_.state = State::holding;
  result_.reason = Reason::none;
  result_.followed = false;
  result_.limited_joints = 0;
  rebase(measured);
}

bool SafetyGate::rebase(const double* measured) noexcept {
  bool inside = true;
  has_previous_target_ = false;
  velocity_.fill(0.0);
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    path_[i] = std::min(std::max(measured[i], limits_.position_min[i]), limits_.position_max[i]);
    // The first command goes from where the arm is to the limit at the servo's own speed, so the way must not
    // be longer than one period's.
    inside = inside && std::abs(measured[i] - path_[i]) <= limits_.velocity_max[i] * period_s_;
  }
  jerk_filter_.reset(path_);
  result_.command = path_;
  if (!inside) {
    fault(Reason::start_outside_limits);
  }
  return inside;
}

const GateResult& SafetyGate::step(const GateInput& input) noexcept {
  result_.limited_joints = 0;
  const Reason refusal = refuse(input);
  result_.followed = refusal == Reason::none;
  if (result_.followed) {
    result_.state = State::running;
    result_.reason = Reason::none;
    move(bounded_target_.data());
    judge_limits(input.target);
  } else {
    const bool holds = result_.state == State::running || result_.state == State::holding;
    has_previous_target_ = false;
    if (holds && input.rest_at != nullptr && finite(input.rest_at, limits_.joint_count)) {
      bound(input.rest_at);
      move(bounded_target_.data());
      has_previous_target_ = false;  // where the arm rests is no target that the next one continues
    } else {
      move(nullptr);
    }
    if (result_.state == State::stopping && at_rest()) {
      result_.state = State::idle;
    }
    if (holds) {
      result_.state = State::holding;
      result_.reason = refusal;
    }
  }
  return result_;
}

// Which joints do not reach their target in this period, and the limit that keeps the first of them from it.
void SafetyGate::judge_limits(const double* target) noexcept {
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    const double near = kOnTarget * velocity_change_[i] * period_s_;
    if (std::abs(result_.command[i] - target[i]) <= near) {
      continue;
    }
    result_.limited_joints |= 1U << i;
    if (target[i] != bounded_target_[i]) {
      result_.reason = Reason::position_limit;
    } else if (result_.reason == Reason::none && std::abs(path_[i] - target[i]) <= near) {
      result_.reason = Reason::jerk_limit;
    } else if (result_.reason == Reason::none) {
      const bool at_full_speed = std::abs(velocity_[i]) >= velocity_max_[i];
      result_.reason = at_full_speed ? Reason::velocity_limit : Reason::acceleration_limit;
    }
  }
}

Reason SafetyGate::refuse(const GateInput& input) noexcept {
  const std::size_t count = limits_.joint_count;
  if (input.target != nullptr && !finite(input.target, count)) {
    return Reason::target_not_finite;
  }
  if (input.measured != nullptr && !finite(input.measured, count)) {
    return Reason::measured_not_finite;
  }
  if (input.target == nullptr) {
    return input.absence == Reason::none ? Reason::waiting_for_chunk : input.absence;
  }
  if (result_.state != State::running && result_.state != State::holding) {
    return result_.reason;
  }
  bound(input.target);
  for (std::size_t i = 0; i < count; ++i) {
    // Without a measurement the last command is the best knowledge of where the joint is.
    const double reference = input.measured != nullptr ? input.measured[i] : result_.command[i];
    if (std::abs(bounded_target_[i] - reference) > limits_.jump_max[i]) {
      return Reason::jump;
    }
  }
  return Reason::none;
}

void SafetyGate::bound(const double* target) noexcept {
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    bounded_target_[i] = std::min(std::max(target[i], limits_.position_min[i]), limits_.position_max[i]);
  }
}

// The velocity that brings the joint onto its target soonest without running past it. A target that moves is
// met at its own velocity, so that a feasible trajectory is followed without lag; a step is met at rest.
double SafetyGate::approach_velocity(std::size_t joint, double target) const noexcept {
  double target_velocity = 0.0;
  if (has_previous_target_) {
    target_velocity = (target - previous_target_[joint]) / period_s_;
    if (std::abs(target_velocity) > velocity_max_[joint]) {
      target_velocity = 0.0;
    }
  }
  const double gap = target - target_velocity * period_s_ - path_[joint];
  const double closing = braking_speed(std::abs(gap), velocity_change_[joint], period_s_);
  return target_velocity + std::copysign(closing, gap);
}

void SafetyGate::move(const double* target) noexcept {
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    const double position = path_[i];
    const double change = velocity_change_[i];
    const double up = braking_speed(limits_.position_max[i] - position, change, period_s_);
    const double down = braking_speed(position - limits_.position_min[i], change, period_s_);
    // Never empty: the step before kept a speed from which slowing by `change` is enough on either side.
    const double lowest = std::max({velocity_[i] - change, -velocity_max_[i], -down});
    const double highest = std::min({velocity_[i] + change, velocity_max_[i], up});
    const double wanted = target == nullptr ? 0.0 : approach_velocity(i, target[i]);
    const double velocity = std::min(std::max(wanted, lowest), highest);
    const double next =
        std::min(std::max(position + velocity * period_s_, limits_.position_min[i]), limits_.position_max[i]);
    velocity_[i] = velocity;
    path_[i] = next;
  }
  jerk_filter_.step(path_, result_.command);
  for (std::size_t i = 0; i < limits_.joint_count; ++i) {
    // A mean may leave its values' interval by a rounding.
    result_.command[i] =
        std::min(std::max(result_.command[i], limits_.position_min[i]), limits_.position_max[i]);
  }
  if (target != nullptr) {
    std::copy(target, target + limits_.joint_count, previous_target_.begin());
    has_previous_target_ = true;
  }
}

void SafetyGate::stop(Reason reason) noexcept {
  if (result_.state == State::running || result_.state == State::holding) {
    result_.state = at_rest() ? State::idle : State::stopping;
    result_.reason = reason;
  }
}

void SafetyGate::fault(Reason reason) noexcept {
  if (result_.state != State::fault) {
    result_.state = State::fault;
    result_.reason = reason;
  }
}

bool SafetyGate::at_rest() const noexcept {
  return jerk_filter_.settled() &&
         std::all_of(velocity_.begin(), velocity_.begin() + static_cast<std::ptrdiff_t>(limits_.joint_count),
                     [](double velocity) { return velocity == 0.0; });
}

}  // namespace molmoact2::control
