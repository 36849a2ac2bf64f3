#include "control/loopback_port.h"

#include <cmath>

#include "check.h"

using namespace molmoact2::control;

namespace {

void wait(double seconds) {
  MonotonicClock clock;
  clock.sleep_until(clock.now() + static_cast<Nanoseconds>(seconds * 1e9));
}

}  // namespace

CASE("the pose is where it was put until the first command, and its time is the reading's") {
  LoopbackPort port(2, JointVector{1.0, -2.0}, 0.05);
  MeasuredState state;
  const Nanoseconds before = monotonic_now();
  CHECK(port.read(state) == PortStatus::ok);
  CHECK(state.time >= before && state.time <= monotonic_now());
  CHECK_EQ(state.positions[0], 1.0);
  CHECK_EQ(state.positions[1], -2.0);
}

CASE("without a lag the pose is the command") {
  LoopbackPort port(1, JointVector{}, 0.0);
  MeasuredState state;
  Command command;
  command.positions[0] = 3.0;
  CHECK(port.write(command) == PortStatus::ok);
  port.read(state);
  CHECK_EQ(state.positions[0], 3.0);
}

CASE("with a lag the pose follows by the time that passed, whatever the number of readings") {
  LoopbackPort port(1, JointVector{}, 0.05);
  MeasuredState first;
  Command command;
  command.positions[0] = 1.0;
  port.write(command);
  port.read(first);
  wait(0.01);
  MeasuredState middle;
  port.read(middle);
  wait(0.01);
  MeasuredState last;
  port.read(last);
  const double seconds = static_cast<double>(last.time - first.time) * 1e-9;
  const double expected = 1.0 - (1.0 - first.positions[0]) * std::exp(-seconds / 0.05);
  CHECK(first.positions[0] < middle.positions[0] && middle.positions[0] < last.positions[0]);
  CHECK(std::abs(last.positions[0] - expected) < 1e-12);
}
