#include "control/watchdogs.h"

#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

constexpr Nanoseconds kMs = 1'000'000;

// Runs on a chunk without end; one tick is 20 ms.
struct Running : CycleBench {
  explicit Running(const CycleOptions& options) : CycleBench(options) {
    tick();
    push(64, 0.0, 0);
  }
  TickRecord ticks(int count) {
    TickRecord record;
    for (int i = 0; i < count; ++i) {
      if (cycle.options().chunks.capacity > 0 && record.remaining_steps < 5) {
        Observation observation;
        if (cycle.observation_at(clock.now(), observation)) {
          push(64, 0.0, observation.step, clock.now());
        }
      }
      record = tick();
    }
    return record;
  }
};

}  // namespace

CASE("an action whose observation is too old is not executed, a fresh chunk goes on") {
  CycleOptions options = bench_options();
  options.watchdogs.chunk_age_max = 100 * kMs;
  CycleBench bench(options);
  bench.tick();
  bench.push(64, 0.0, 0, bench.clock.now());
  for (int i = 0; i < 5; ++i) CHECK(bench.tick().state == State::running);  // exactly 0.1 s is allowed
  for (int i = 0; i < 3; ++i) {
    const TickRecord held = bench.tick();
    CHECK(held.state == State::holding);
    CHECK(held.reason == Reason::chunk_stale);
    CHECK_EQ(held.step, 5);
  }
  bench.push(64, 0.0, 5, bench.clock.now());
  const TickRecord resumed = bench.tick();
  CHECK(resumed.state == State::running);
  CHECK_EQ(resumed.step, 6);
}

CASE("on the way to the first target no observation is too old") {
  CycleOptions options = bench_options();
  options.watchdogs.chunk_age_max = 100 * kMs;
  CycleBench bench(options);
  bench.tick();
  bench.push(64, 15.0, 0, bench.clock.now());
  TickRecord record = bench.tick();
  int starting = 0;
  for (; record.reason == Reason::starting; ++starting) record = bench.tick();
  CHECK(starting > 30);
  CHECK(record.reason == Reason::chunk_stale);
}

CASE("a chunk that does not say when it was observed has no age") {
  CycleOptions options = bench_options();
  options.watchdogs.chunk_age_max = 100 * kMs;
  CycleBench bench(options);
  bench.tick();
  bench.push(64, 0.0, 0);
  for (int i = 0; i < 60; ++i) CHECK(bench.tick().state == State::running);
}

CASE("each camera counts: one that stalls holds within a period of its limit, whoever reports the others") {
  CycleOptions options = bench_options();
  options.watchdogs.cameras = 2;
  options.watchdogs.camera_age_max = 100 * kMs;
  Running bench(options);
  const auto tick = [&bench](bool second) {
    bench.cycle.report_frame(0, bench.clock.now());
    if (second) bench.cycle.report_frame(1, bench.clock.now());
    return bench.ticks(1);
  };
  for (int i = 0; i < 20; ++i) CHECK(tick(true).state == State::running);
  const Nanoseconds newest = bench.clock.now() - CycleBench::kPeriod;
  TickRecord record;
  do record = tick(false);
  while (record.state == State::running);
  CHECK(record.reason == Reason::camera_stale);
  CHECK(record.wakeup - newest > 100 * kMs);
  CHECK(record.wakeup - newest <= 100 * kMs + CycleBench::kPeriod);
  CHECK(tick(true).state == State::running);
}

CASE("a camera that never gave a frame holds once the limit has passed since the run began") {
  CycleOptions options = bench_options();
  options.watchdogs.cameras = 1;
  options.watchdogs.camera_age_max = 100 * kMs;
  Running bench(options);
  for (int i = 0; i < 4; ++i) CHECK(bench.ticks(1).state == State::running);
  CHECK(bench.ticks(1).reason == Reason::camera_stale);
}

CASE("a time that lies ahead is no sign of life") {
  CycleOptions options = bench_options();
  options.watchdogs.cameras = 1;
  Running bench(options);
  bench.cycle.report_frame(0, bench.clock.now() + 3'600'000'000'000);
  CHECK(bench.ticks(1).reason == Reason::camera_stale);
}

CASE("overruns hold when there are too many in the window, and no longer") {
  CycleOptions options = bench_options();
  options.watchdogs.overruns_max = 3;
  options.watchdogs.overrun_window = 200 * kMs;
  Running bench(options);
  bench.ticks(2);
  for (int i = 0; i < 3; ++i) CHECK(bench.tick(CycleBench::kPeriod, 1).state == State::running);
  CHECK(bench.tick().state == State::running);
  CHECK(bench.tick(CycleBench::kPeriod, 1).state == State::running);  // the fourth, noticed at the next tick
  const Nanoseconds begin = bench.clock.now();
  TickRecord record = bench.ticks(1);
  CHECK(record.state == State::holding);
  CHECK(record.reason == Reason::overruns_repeated);
  while (record.state == State::holding) record = bench.ticks(1);
  CHECK(bench.clock.now() - begin < 200 * kMs);
}

CASE("overruns are a fault where the configuration says so, and one in a while is nothing") {
  CycleOptions options = bench_options();
  options.watchdogs.overruns_max = 2;
  options.watchdogs.overrun_window = 200 * kMs;
  options.watchdogs.overruns_fault = true;
  Running bench(options);
  for (int i = 0; i < 20; ++i) {
    CHECK(bench.ticks(10).state == State::running);
    bench.tick(CycleBench::kPeriod, 1);
  }
  for (int i = 0; i < 3; ++i) bench.tick(CycleBench::kPeriod, 2);
  const TickRecord record = bench.ticks(30);
  CHECK(record.state == State::fault);
  CHECK(record.reason == Reason::overruns_repeated);
}

CASE("a warm joint holds until it has cooled by the hysteresis, a hot one is a fault") {
  CycleOptions options = bench_options();
  options.watchdogs.temperature.warn = {55.0, 50.0};
  options.watchdogs.temperature.limit = {65.0, 60.0};
  options.watchdogs.temperature.hysteresis = 5.0;
  Running bench(options);
  bench.port->measured.has_temperatures = true;
  const auto at = [&bench](double first, double second) {
    bench.port->measured.temperatures = {first, second};
    return bench.ticks(1);
  };
  CHECK(at(55.0, 50.0).state == State::running);
  CHECK(at(20.0, 50.5).reason == Reason::temperature_high);
  CHECK(at(20.0, 46.0).reason == Reason::temperature_high);
  CHECK(at(20.0, 44.5).state == State::running);
  CHECK(at(std::nan(""), 20.0).reason ==
        Reason::temperature_high);  // a joint with levels must have a reading
  CHECK(at(20.0, 20.0).state == State::running);
  CHECK(at(65.5, 20.0).reason == Reason::temperature_limit);
  const TickRecord cooled = at(20.0, 20.0);
  CHECK(cooled.state == State::fault);
  CHECK(cooled.reason == Reason::temperature_limit);
}

CASE("a current counts by its magnitude and once it has lasted") {
  CycleOptions options = bench_options();
  options.watchdogs.current.warn.fill(1.0);
  options.watchdogs.current.limit.fill(2.0);
  options.watchdogs.current.duration = 100 * kMs;
  Running bench(options);
  bench.port->measured.has_currents = true;
  const auto ticks = [&bench](double amperes, int count) {
    bench.port->measured.currents = {0.1, amperes};
    return bench.ticks(count);
  };
  CHECK(ticks(-1.5, 5).state == State::running);
  CHECK(ticks(0.5, 1).state == State::running);  // starts anew
  CHECK(ticks(-1.5, 5).state == State::running);
  CHECK(ticks(-1.5, 1).reason == Reason::current_high);
  CHECK(ticks(0.5, 1).state == State::running);
  CHECK(ticks(2.5, 5).state != State::fault);
  CHECK(ticks(2.5, 1).reason == Reason::current_limit);
}

CASE("a robot that reports no temperatures and currents is not judged by them") {
  CycleOptions options = bench_options();
  options.watchdogs.temperature.warn.fill(1.0);
  options.watchdogs.temperature.limit.fill(2.0);
  options.watchdogs.current.warn.fill(1.0);
  options.watchdogs.current.limit.fill(2.0);
  Running bench(options);
  bench.port->measured.temperatures = {90.0, 90.0};
  bench.port->measured.currents = {9.0, 9.0};
  CHECK(bench.ticks(20).state == State::running);
}

CASE("of several conditions the first in the order counts") {
  const FrameTimes frames;
  WatchdogOptions options;
  options.cameras = 1;
  options.chunk_age_max = 100 * kMs;
  Watchdogs watchdogs(options, 2, frames);
  MeasuredState measured;
  const auto judge = [&](Nanoseconds pose_age, Nanoseconds write_age) {
    watchdogs.begin(0);
    constexpr Nanoseconds kNow = 100'000 * kMs;
    measured.time = kNow - pose_age;
    return watchdogs.judge({kNow, &measured, kNow - write_age, true, 1});
  };
  CHECK(judge(200 * kMs, 200 * kMs).hold == Reason::state_stale);
  CHECK(judge(0, 200 * kMs).hold == Reason::bus_write_failed);
  CHECK(judge(0, 0).hold == Reason::camera_stale);
  CHECK(judge(0, 0).fault == Reason::none);
  CHECK(judge(2000 * kMs, 2000 * kMs).fault == Reason::state_lost);
  CHECK(judge(0, 2000 * kMs).fault == Reason::bus_write_failed);
}

CASE("watchdogs that make no sense are named") {
  const auto wrong = [](auto change) {
    WatchdogOptions options;
    change(options);
    return check(options, 2);
  };
  CHECK(wrong([](WatchdogOptions&) {}).empty());
  CHECK(wrong([](WatchdogOptions& o) { o.camera_age_max = 0; }).find("camera_age_max_s") !=
        std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) { o.cameras = 17; }).find("16 cameras") != std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) { o.overruns_max = 65; }).find("overruns_max") != std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) { o.chunk_age_max = -1; }).find("chunk_age_max_s") != std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) { o.temperature.warn[1] = NAN; }).find("temperature_warn of joint 1") !=
        std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) {
          o.current.limit[0] = 0.5, o.current.warn[0] = 1.0;
        }).find("current_warn of joint 0") != std::string::npos);
  CHECK(wrong([](WatchdogOptions& o) { o.current.hysteresis = -1; }).find("hysteresis") != std::string::npos);
}
