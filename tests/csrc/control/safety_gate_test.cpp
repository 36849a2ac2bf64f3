#include "control/safety_gate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "check.h"

using namespace molmoact2::control;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPeriod = 0.01;

JointLimits limits_of(std::size_t joints, double range, double velocity, double acceleration, double jump) {
  JointLimits limits;
  limits.joint_count = joints;
  for (std::size_t i = 0; i < std::min(joints, kMaxJoints); ++i) {
    limits.position_min[i] = -range;
    limits.position_max[i] = range;
    limits.velocity_max[i] = velocity;
    limits.acceleration_max[i] = acceleration;
    limits.jump_max[i] = jump;
  }
  return limits;
}

// One joint, watched from outside: what a person with a stop watch and a ruler would measure.
struct Watched {
  explicit Watched(const JointLimits& limits, double start = 0.0) : gate(limits, kPeriod), position(start) {
    gate.reset(&start);
  }
  const GateResult& step(const double* target, const double* measured = nullptr,
                         Reason absence = Reason::chunk_exhausted) {
    const GateResult& result = gate.step({target, absence, measured});
    const double next = result.command[0];
    const double next_velocity = (next - position) / kPeriod;
    const double acceleration = (next_velocity - velocity) / kPeriod;
    const JointLimits& limits = gate.limits();
    CHECK(std::isfinite(next));
    CHECK(next >= limits.position_min[0] && next <= limits.position_max[0]);
    CHECK(std::abs(next_velocity) <= limits.velocity_max[0]);
    CHECK(std::abs(acceleration) <= limits.acceleration_max[0]);
    position = next;
    velocity = next_velocity;
    return result;
  }
  const GateResult& step(double target) { return step(&target); }

  SafetyGate gate;
  double position;
  double velocity = 0.0;
};

}  // namespace

CASE("a step target is reached at full speed, without overshoot, and stands still there") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  double peak = 0.0;
  for (int tick = 0; tick < 200; ++tick) {
    joint.step(40.0);
    peak = std::max(peak, joint.velocity);
    CHECK(joint.position <= 40.0 + 1e-9);
  }
  CHECK_NEAR(joint.position, 40.0, 1e-9);
  CHECK_NEAR(peak, 90.0, 0.1);
  CHECK(joint.gate.at_rest());
}

CASE("a trajectory within the limits is followed without lag") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  for (int tick = 1; tick <= 300; ++tick) {
    const double t = tick * kPeriod;
    const double target = 10.0 * (1.0 - std::cos(2.0 * t));  // peaks at 20 per second, 40 per second squared
    const GateResult& result = joint.step(target);
    CHECK_NEAR(joint.position, target, 1e-9);
    CHECK_EQ(result.limited_joints, 0);
    CHECK(result.state == State::running);
    CHECK(result.reason == Reason::none);
  }
}

CASE("full speed towards a position limit still stops before it") {
  for (const double velocity : {5.0, 90.0, 1000.0}) {
    for (const double acceleration : {20.0, 400.0, 1e5}) {
      Watched joint(limits_of(1, 10, velocity, acceleration, 1e3));
      for (int tick = 0; tick < 600; ++tick) joint.step(1e6);
      CHECK_NEAR(joint.position, 10.0, 1e-6);
      for (int tick = 0; tick < 600; ++tick) joint.step(-1e6);
      CHECK_NEAR(joint.position, -10.0, 1e-6);
    }
  }
}

CASE("a position limit is named as the reason") {
  Watched joint(limits_of(1, 10, 90, 400, 100));
  GateResult result;
  for (int tick = 0; tick < 100; ++tick) {
    result = joint.step(50.0);
  }
  CHECK(result.state == State::running);
  CHECK(result.reason == Reason::position_limit);
  CHECK_EQ(result.limited_joints, 1);
  CHECK_NEAR(joint.position, 10.0, 1e-9);
}

CASE("values that are not finite decelerate and hold, and the next good target resumes") {
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    Watched joint(limits_of(1, 100, 90, 400, 60));
    for (int tick = 0; tick < 15; ++tick) joint.step(30.0);
    const double speed = joint.velocity;
    CHECK(speed > 50.0);
    const GateResult& held = joint.step(bad);
    CHECK(held.state == State::holding);
    CHECK(held.reason == Reason::target_not_finite);
    CHECK(!held.followed);
    CHECK(joint.velocity < speed);
    for (int tick = 0; tick < 50; ++tick) joint.step(bad);
    CHECK(joint.gate.at_rest());
    CHECK(joint.step(30.0).state == State::running);
  }
}

CASE("one joint that is not finite stops all of them") {
  const JointLimits limits = limits_of(3, 100, 90, 400, 60);
  SafetyGate gate(limits, kPeriod);
  const JointVector start{};
  gate.reset(start.data());
  const JointVector target{10.0, kNaN, 10.0};
  const GateResult& result = gate.step({target.data(), Reason::none, nullptr});
  CHECK(result.reason == Reason::target_not_finite);
  CHECK_EQ(result.command[0], 0.0);
}

CASE("a measured pose that is not finite holds") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  const double target = 5.0;
  CHECK(joint.step(&target, &kNaN).reason == Reason::measured_not_finite);
}

CASE("a target farther than the jump limit from the measured pose is refused") {
  Watched joint(limits_of(1, 100, 90, 400, 20));
  const double measured = 0.0;
  const double far = 20.5;
  const double near = 19.5;
  CHECK(joint.step(&far, &measured).reason == Reason::jump);
  CHECK_EQ(joint.position, 0.0);
  CHECK(joint.step(&near, &measured).state == State::running);
  const double elsewhere = -5.0;
  CHECK(joint.step(&near, &elsewhere).reason == Reason::jump);
}

CASE("a jump is judged after the position limits, as the order says") {
  Watched joint(limits_of(1, 10, 90, 400, 15));
  const double measured = 0.0;
  const double beyond = 1000.0;  // brought to 10, which is no jump
  CHECK(joint.step(&beyond, &measured).followed);
}

CASE("no target holds with the reason that is given for it") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  const GateResult& result = joint.step(nullptr, nullptr, Reason::chunk_late);
  CHECK(result.state == State::holding);
  CHECK(result.reason == Reason::chunk_late);
}

CASE("a fault decelerates, keeps its first reason, and latches until reset") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  for (int tick = 0; tick < 15; ++tick) joint.step(30.0);
  joint.gate.fault(Reason::state_lost);
  joint.gate.fault(Reason::jump);
  joint.gate.stop(Reason::stop_requested);
  for (int tick = 0; tick < 60; ++tick) {
    const GateResult& result = joint.step(30.0);
    CHECK(result.state == State::fault);
    CHECK(result.reason == Reason::state_lost);
  }
  CHECK(joint.gate.at_rest());
  joint.gate.reset(&joint.position);
  joint.velocity = 0.0;
  CHECK(joint.step(30.0).state == State::running);
}

CASE("a stop decelerates, then is idle and ignores targets until reset") {
  Watched joint(limits_of(1, 100, 90, 400, 60));
  for (int tick = 0; tick < 15; ++tick) joint.step(30.0);
  joint.gate.stop(Reason::stop_requested);
  CHECK(joint.step(30.0).state == State::stopping);
  for (int tick = 0; tick < 60; ++tick) joint.step(30.0);
  const double there = joint.position;
  const GateResult& result = joint.step(60.0);
  CHECK(result.state == State::idle);
  CHECK(result.reason == Reason::stop_requested);
  CHECK_EQ(joint.position, there);
}

CASE("a gate that was never given a pose moves nothing") {
  SafetyGate gate(limits_of(1, 100, 90, 400, 60), kPeriod);
  const double target = 5.0;
  const GateResult& result = gate.step({&target, Reason::none, nullptr});
  CHECK(result.state == State::idle);
  CHECK(result.reason == Reason::not_reset);
  CHECK_EQ(result.command[0], 0.0);
}

CASE("a start outside the limits begins at the limit, and far outside is a fault") {
  SafetyGate gate(limits_of(1, 10, 90, 400, 5), kPeriod);
  const double outside = 10.8;  // one period at the velocity limit is 0.9
  gate.reset(&outside);
  CHECK(gate.last().state == State::holding);
  CHECK_EQ(gate.last().command[0], 10.0);
  const double far_outside = 11.0;
  gate.reset(&far_outside);
  CHECK(gate.last().state == State::fault);
  CHECK(gate.last().reason == Reason::start_outside_limits);
}

CASE("random targets, holds, faults and stops never break a limit") {
  std::mt19937_64 random(20260101);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  for (int trial = 0; trial < 300; ++trial) {
    const double velocity = std::pow(10.0, uniform(random) * 4.0 - 1.0);
    const double acceleration = std::pow(10.0, uniform(random) * 6.0 - 1.0);
    Watched joint(limits_of(1, 20, velocity, acceleration, 100), (uniform(random) - 0.5) * 40.0);
    double target = 0.0;
    for (int tick = 0; tick < 300; ++tick) {
      const double dice = uniform(random);
      if (dice < 0.2) target = (uniform(random) - 0.5) * 100.0;
      if (dice > 0.97) target = kNaN;
      if (dice > 0.999) joint.gate.fault(Reason::state_lost);
      joint.step(dice > 0.9 && dice < 0.95 ? nullptr : &target);
    }
  }
}

CASE("limits that make no sense are named") {
  CHECK(check(limits_of(2, 10, 90, 400, 5)).empty());
  CHECK(!check(limits_of(0, 10, 90, 400, 5)).empty());
  CHECK(!check(limits_of(33, 10, 90, 400, 5)).empty());
  CHECK(check(limits_of(1, -10, 90, 400, 5)).find("position_min") != std::string::npos);
  CHECK(check(limits_of(1, 10, 0, 400, 5)).find("velocity_max") != std::string::npos);
  CHECK(check(limits_of(1, 10, 90, kNaN, 5)).find("acceleration_max") != std::string::npos);
  CHECK(check(limits_of(1, 10, 90, 400, kInfinity)).find("jump_max") != std::string::npos);
}

namespace {

// As Watched, for the third difference too.
struct WatchedJerk {
  WatchedJerk(const JointLimits& limits, double period_s, double start)
      : gate(limits, period_s), period(period_s), position(start) {
    gate.reset(&start);
  }
  const GateResult& step(const double* target) {
    const GateResult& result = gate.step({target, Reason::chunk_exhausted, nullptr});
    const JointLimits& limits = gate.limits();
    const double next = result.command[0];
    const double next_velocity = (next - position) / period;
    const double next_acceleration = (next_velocity - velocity) / period;
    const double jerk = (next_acceleration - acceleration) / period;
    // What the last bit of a position is worth in a third difference.
    const double rounding = 32.0 * limits.position_max[0] * 1.2e-16 / (period * period * period);
    CHECK(next >= limits.position_min[0] && next <= limits.position_max[0]);
    CHECK(std::abs(next_velocity) <= limits.velocity_max[0] + rounding * period * period);
    CHECK(std::abs(next_acceleration) <= limits.acceleration_max[0] + rounding * period);
    CHECK(std::abs(jerk) <= limits.jerk_max[0] + rounding);
    position = next;
    velocity = next_velocity;
    acceleration = next_acceleration;
    return result;
  }

  SafetyGate gate;
  double period;
  double position;
  double velocity = 0.0;
  double acceleration = 0.0;
};

}  // namespace

CASE("no sequence of targets breaks a jerk limit, nor any other with it") {
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  for (int trial = 0; trial < 400; ++trial) {
    const double period = trial % 2 == 0 ? 0.02 : 0.001;
    JointLimits limits = limits_of(1, 30.0, std::pow(10.0, 3.0 * unit(random)),
                                   std::pow(10.0, 1.0 + 3.0 * unit(random)), 1000.0);
    // From a window of one period to one of hundreds.
    limits.jerk_max[0] = 2.0 * limits.acceleration_max[0] / (period * std::pow(10.0, 2.5 * unit(random)));
    REQUIRE(check(limits, period).empty());
    WatchedJerk watched(limits, period, 60.0 * unit(random) - 30.0);
    for (int change = 0; change < 20; ++change) {
      const double target = trial % 3 == 0 && change % 7 == 5 ? kNaN : 200.0 * unit(random) - 100.0;
      const bool absent = unit(random) < 0.2;
      for (int i = static_cast<int>(100 * unit(random)); i > 0; --i) watched.step(absent ? nullptr : &target);
    }
  }
}

CASE("with a jerk limit a target is reached exactly, and rest is told only when it is reached") {
  JointLimits limits = limits_of(1, 100.0, 90.0, 450.0, 200.0);
  limits.jerk_max[0] = 9000.0;  // a window of ten periods
  WatchedJerk watched(limits, kPeriod, 0.0);
  const double target = 40.0;
  int steps = 0;
  while (watched.step(&target).limited_joints != 0) REQUIRE(++steps < 200);
  CHECK_NEAR(watched.position, 40.0, 1e-9);
  const double back = 0.0;
  for (int i = 0; i < 15; ++i) watched.step(&back);
  watched.gate.stop(Reason::stop_requested);
  CHECK(watched.gate.last().state == State::stopping);
  double last = watched.position;
  while (watched.step(nullptr).state == State::stopping) {
    CHECK(watched.position != last);
    last = watched.position;
  }
  CHECK(watched.gate.last().state == State::idle);
  for (int i = 0; i < 5; ++i) {
    const double stood = watched.position;
    watched.step(nullptr);
    CHECK_EQ(watched.position, stood);
  }
}

CASE("a jerk limit too small for the period, or no number, is named") {
  JointLimits limits = limits_of(1, 100.0, 90.0, 450.0, 200.0);
  limits.jerk_max[0] = 1.0;
  CHECK(check(limits).empty());
  CHECK(check(limits, 0.001).find("jerk_max of joint 0 is too small") != std::string::npos);
  limits.jerk_max[0] = -1.0;
  CHECK(check(limits).find("jerk_max of joint 0") != std::string::npos);
  limits.jerk_max[0] = kNaN;
  CHECK(check(limits).find("jerk_max of joint 0") != std::string::npos);
}
