// What a port must know about its arms: their motors, their weight, and how long to wait for what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bus/damiao/damiao_codec.h"
#include "bus/damiao/serial_chain.h"
#include "control/clock.h"

namespace molmoact2::bus {

inline constexpr std::size_t kMaxBuses = 2;

struct DamiaoJoint {
  std::size_t bus = 0;
  std::uint32_t id = 0;           // of the motor
  std::uint32_t feedback_id = 0;  // under which it answers
  MitRanges ranges;
  double kp = 0.0;      // Nm/rad
  double kd = 0.0;      // Nm s/rad
  double scale = 1.0;   // joint units a radian; negative where the motor turns the other way
  double offset = 0.0;  // joint units at the motor's zero
};

// The weight that the motors of consecutive joints carry besides what holds their position.
struct ArmWeight {
  SerialChain chain;
  std::size_t first_joint = 0;
  std::vector<double> factors;  // of each joint's torque
};

struct DamiaoOptions {
  std::vector<DamiaoJoint> joints;
  std::vector<ArmWeight> weights;                     // empty: the gains alone carry the arm
  control::Nanoseconds exchange_timeout = 3'000'000;  // for all motors to answer
  control::Nanoseconds ramp = 500'000'000;     // from no stiffness to all of it, once motors are switched on
  control::Nanoseconds silence = 300'000'000;  // without feedback for longer a driven motor counts as silent
  control::Nanoseconds keep_period = 20'000'000;     // of the keeper's exchanges
  control::Nanoseconds reopen_period = 250'000'000;  // between two attempts to open a lost link
};

// Empty when usable, otherwise what is wrong.
std::string check(const DamiaoOptions& options, std::size_t buses);

}  // namespace molmoact2::bus
