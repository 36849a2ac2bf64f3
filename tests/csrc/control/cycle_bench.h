// A cycle in time that stands still until it is set, with a robot that does what it is told.
#pragma once

#include <memory>
#include <vector>

#include "check.h"
#include "control/control_cycle.h"
#include "scripted_port.h"

namespace molmoact2::control {

// 50 Hz, or `rate_hz`; joints from -100 to 100 with 100/s, 1000/s^2 and jumps of 20; chunks switch at once.
inline CycleOptions bench_options(std::size_t joints = 2, double rate_hz = 50.0) {
  CycleOptions options;
  options.limits.joint_count = joints;
  for (std::size_t i = 0; i < joints; ++i) {
    options.limits.position_min[i] = -100;
    options.limits.position_max[i] = 100;
    options.limits.velocity_max[i] = 100;
    options.limits.acceleration_max[i] = 1000;
    options.limits.jump_max[i] = 20;
    options.start.distance_max[i] = 50;
  }
  options.rate_hz = rate_hz;
  options.chunks.action_dim = joints;
  options.chunks.capacity = 64;
  options.chunks.blend_steps = 0;
  options.telemetry_capacity = 512;
  return options;
}

struct CycleBench {
  static constexpr Nanoseconds kPeriod = 20'000'000;

  CycleBench() : CycleBench(bench_options()) {}
  explicit CycleBench(const CycleOptions& options)
      : joints(options.limits.joint_count),
        port(std::make_shared<ScriptedPort>(joints, clock)),
        cycle(port, options) {
    cycle.begin(clock);
  }
  TickRecord tick(Nanoseconds period = kPeriod, std::int64_t skipped_periods = 0) {
    clock.set(clock.now() + period);
    cycle.tick(clock.now());
    cycle.finish_tick(skipped_periods);
    TickRecord record;
    CHECK(cycle.telemetry().read(cycle.telemetry().written(), record));
    return record;
  }
  void push(std::size_t rows, double value, std::int64_t observed_step, Nanoseconds observed_time = 0) {
    const std::vector<double> actions(rows * joints, value);
    cycle.push(actions.data(), rows, {observed_step, cycle.run(), observed_time});
  }
  // Every joint is `slope` farther in each row, from 0 on.
  void push_ramp(std::size_t rows, double slope, std::int64_t observed_step) {
    std::vector<double> actions(rows * joints);
    for (std::size_t i = 0; i < actions.size(); ++i) {
      const std::size_t row = i / joints;
      actions[i] = slope * static_cast<double>(row);
    }
    cycle.push(actions.data(), rows, {observed_step, cycle.run()});
  }

  ManualClock clock{1'000'000'000};
  std::size_t joints;
  std::shared_ptr<ScriptedPort> port;
  ControlCycle cycle;
};

}  // namespace molmoact2::control
