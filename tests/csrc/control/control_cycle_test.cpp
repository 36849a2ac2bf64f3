#include "control/control_cycle.h"

#include <cmath>
#include <source_location>
#include <vector>

#include "check.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

// What a run had before the case begins.
struct Chunk {  // the pose is known, and there are so many equal actions to follow
  std::size_t rows;
  double value = 0.0;
};
struct Ramp {  // the same with 60 actions that rise by `slope`, of which 20 are executed
  double slope = 1.0;
};

struct Bench : CycleBench {
  Bench() = default;  // no tick yet
  explicit Bench(Chunk chunk) {
    tick();
    push(chunk.rows, chunk.value, 0);
  }
  explicit Bench(Ramp ramp) {
    tick();
    push_ramp(60, ramp.slope, 0);
    ticks(20);
  }

  // Returns the last one's record.
  TickRecord ticks(int count) {
    TickRecord record;
    for (int i = 0; i < count; ++i) record = tick();
    return record;
  }
  // Each of so many ticks ends in the state, for the reason, or the caller's line is reported; returns the
  // last one's record.
  TickRecord ticks(int count, State state, Reason reason,
                   std::source_location caller = std::source_location::current()) {
    TickRecord record;
    for (int i = 0; i < count; ++i) {
      record = tick();
      const auto line = static_cast<int>(caller.line());
      molmoact2::check::expect_equal(record.state, state, "record.state", caller.file_name(), line);
      molmoact2::check::expect_equal(record.reason, reason, "record.reason", caller.file_name(), line);
    }
    return record;
  }
};

// How an arm came to the first action that is due.
struct Approach {
  int ticks = 0;
  double end = 0.0;     // where the last of them led
  TickRecord followed;  // the tick after them
};

// On the way from `from` no step is executed, `step` stays due, and a quarter of the velocity limit is kept.
Approach approach(Bench& bench, double from, std::int64_t step) {
  Approach way{0, from, bench.tick()};
  for (; way.followed.reason == Reason::starting; way.followed = bench.tick()) {
    CHECK_EQ(way.followed.step, step);
    CHECK(way.followed.command[0] - way.end <= 25.0 * 0.02 + 1e-9);
    way.end = way.followed.command[0];
    ++way.ticks;
  }
  CHECK(way.followed.followed);
  CHECK_EQ(way.followed.step, step + 1);
  return way;
}

}  // namespace

CASE("before a pose is known nothing is written") {
  Bench bench;
  bench.port->silent = true;
  bench.ticks(10, State::idle, Reason::state_missing);
  CHECK_EQ(bench.port->writes, 0);
}

CASE("a robot that never reports its pose is a fault") {
  Bench bench;
  bench.port->silent = true;
  const TickRecord record = bench.ticks(60);
  CHECK(record.state == State::fault);
  CHECK(record.reason == Reason::state_missing);
  bench.port->silent = false;
  CHECK(bench.tick().state == State::fault);
  CHECK_EQ(bench.port->writes, 0);
}

CASE("without a chunk the measured pose is held") {
  Bench bench;
  bench.port->measured.positions = {10.0, -5.0};
  bench.ticks(1, State::holding, Reason::waiting_for_chunk);
  CHECK_EQ(bench.port->command.positions[0], 10.0);
  CHECK_EQ(bench.port->command.positions[1], -5.0);
}

CASE("a start outside the limits is a fault, and nothing is written") {
  Bench bench;
  bench.port->measured.positions = {100.0, -103.0};
  for (int i = 0; i < 10; ++i) {
    CHECK(bench.ticks(1, State::fault, Reason::start_outside_limits).write_time == 0);
  }
  bench.port->measured.positions = {0.0, 0.0};
  bench.push(10, 1.0, 0);
  CHECK(bench.tick().state == State::fault);
  CHECK_EQ(bench.port->writes, 0);
  bench.cycle.request_stop(Reason::stop_requested);
  bench.tick();
  CHECK(bench.cycle.finished());
}

CASE("the way to the first target is slow and executes no step") {
  Bench bench(Chunk{10, 15.0});
  const Approach way = approach(bench, 0.0, 0);
  CHECK(way.ticks > 30);
  CHECK_NEAR(way.end, 15.0, 1e-9);
  CHECK_EQ(way.followed.action, 0.0);  // the chunk's first, only now
}

CASE("a first target that moves on the way there makes the way longer, not faster") {
  Bench bench(Chunk{10, 15.0});
  double last = 0.0;
  int ticks = 0;
  TickRecord record = bench.tick();
  for (; !record.followed && ticks < 500; ++ticks) {
    CHECK(std::abs(record.target[0] - last) <= 25.0 * 0.02 + 1e-9);
    CHECK(std::abs(record.command[0] - record.target[0]) <= 1.0);  // the gate turns round within its limits
    last = record.target[0];
    if (ticks == 30) bench.push(10, -10.0, 0);
    record = bench.tick();
  }
  CHECK(ticks > 60);
  CHECK_NEAR(last, -10.0, 1e-9);
  CHECK(record.followed);
}

CASE("a first target beyond the start distance is refused for good") {
  Bench bench(Chunk{10, 51.0});
  bench.ticks(1, State::fault, Reason::start_too_far);
  bench.push(10, 1.0, 0);
  CHECK(bench.ticks(10).state == State::fault);
  CHECK_EQ(bench.port->command.positions[0], 0.0);
}

CASE("steps count only what was executed, so a chunk after a hold loses nothing") {
  Bench bench(Chunk{3});
  for (int i = 0; i < 3; ++i) CHECK_EQ(bench.tick().step, i + 1);
  for (int i = 0; i < 20; ++i) {
    const TickRecord held = bench.tick();
    CHECK(held.reason == Reason::chunk_exhausted);
    CHECK_EQ(held.step, 3);
  }
  bench.push(5, 0.0, 3);
  const TickRecord resumed = bench.tick();
  CHECK_EQ(resumed.action, 0.0);
  CHECK_EQ(resumed.step, 4);
}

CASE("a target that the gate refuses is not a step") {
  Bench bench(Chunk{3});
  bench.tick();
  bench.push(10, NAN, 1);
  for (int i = 0; i < 5; ++i) {
    const TickRecord record = bench.tick();
    CHECK(record.reason == Reason::target_not_finite);
    CHECK_EQ(record.step, 1);
  }
}

CASE("a silent robot is held, then a fault, and both name it") {
  Bench bench(Chunk{60});
  for (int i = 0; i < 5; ++i) CHECK(bench.tick().state == State::running);
  bench.port->silent = true;
  for (int i = 0; i < 5; ++i) CHECK(bench.tick().state == State::running);  // 0.1 s is allowed
  bench.ticks(1, State::holding, Reason::state_stale);
  const TickRecord record = bench.ticks(45);
  CHECK(record.state == State::fault);
  CHECK(record.reason == Reason::state_lost);
  bench.port->silent = false;
  CHECK(bench.tick().state == State::fault);
}

CASE("a robot that speaks again within the limit goes on") {
  Bench bench(Chunk{60});
  bench.tick();
  bench.port->reads_fail = true;
  bench.ticks(10);
  CHECK(bench.tick().reason == Reason::state_stale);
  bench.port->reads_fail = false;
  CHECK(bench.tick().state == State::running);
  CHECK_EQ(bench.cycle.statistics().read_failures.load(), 11U);
}

CASE("one lost write is nothing, a bus that takes none is held, then a fault") {
  Bench bench(Chunk{64});
  bench.port->writes_fail = true;
  CHECK(bench.tick().state == State::running);
  bench.port->writes_fail = false;
  CHECK(bench.tick().state == State::running);
  bench.port->writes_fail = true;
  TickRecord record = bench.ticks(7);
  CHECK(record.state == State::holding);
  CHECK(record.reason == Reason::bus_write_failed);
  record = bench.ticks(50);
  CHECK(record.state == State::fault);
  CHECK(record.reason == Reason::bus_write_failed);
}

CASE("a few lost commands are passed over, at the limits of the time that they took") {
  Bench bench(Ramp{});
  bench.port->writes_fail = true;
  const double last = bench.port->command.positions[0];
  CHECK(bench.ticks(3).state == State::running);
  bench.port->writes_fail = false;
  const TickRecord record = bench.tick();
  CHECK(record.state == State::running);
  CHECK(record.followed);
  CHECK(bench.port->command.positions[0] - last <= 4 * 2.0);
}

CASE("the first command that arrives after too many lost ones is where the arm stands") {
  Bench bench(Ramp{});
  bench.port->writes_fail = true;
  for (int i = 0; i < 4; ++i) CHECK(bench.tick().state == State::running);  // the fourth is one too many
  const JointVector sagged{bench.port->command.positions[0] - 3.0, 1.0};
  bench.port->measured.positions = sagged;
  TickRecord record;
  for (int i = 0; i < 5; ++i) {
    record = bench.ticks(1, State::holding, Reason::bus_write_failed);
    CHECK_EQ(record.command[0], sagged[0]);
  }
  const std::int64_t due = record.step;
  bench.port->writes_fail = false;
  record = bench.tick();
  CHECK(record.state == State::holding);
  CHECK_EQ(bench.port->command.positions[0], sagged[0]);
  CHECK_EQ(bench.port->command.positions[1], sagged[1]);
  // Then slowly, as at a start, to the step that has stayed due.
  CHECK(approach(bench, sagged[0], due).ticks > 10);
}

CASE("while commands are lost and the pose is not known, nothing is written") {
  Bench bench(Ramp{});
  bench.port->writes_fail = true;
  bench.port->silent = true;
  bench.ticks(10);
  bench.port->writes_fail = false;
  const int before = bench.port->writes;
  for (int i = 0; i < 10; ++i) {
    const TickRecord record = bench.tick();
    CHECK(record.state == State::holding);
    CHECK_EQ(record.write_time, 0);
  }
  CHECK_EQ(bench.port->writes, before);
  bench.port->silent = false;
  bench.port->measured.positions = {-20.0, 5.0};
  bench.tick();
  CHECK_EQ(bench.port->command.positions[0], -20.0);
  CHECK_EQ(bench.port->command.positions[1], 5.0);
}

CASE("a bus that comes back after the fault holds the arm where it is") {
  Bench bench(Ramp{});
  bench.port->writes_fail = true;
  bench.port->reads_fail = true;
  CHECK(bench.ticks(60).state == State::fault);
  bench.port->writes_fail = false;
  bench.port->reads_fail = false;
  bench.port->measured.positions = {-30.0, -40.0};
  bench.ticks(1, State::fault, Reason::state_lost);
  CHECK_EQ(bench.port->command.positions[0], -30.0);
  CHECK_EQ(bench.port->command.positions[1], -40.0);
  bench.ticks(10);
  CHECK_EQ(bench.port->command.positions[0], -30.0);
}

CASE("an arm that fell out of its limits while commands were lost is a fault, and nothing is written") {
  Bench bench(Chunk{60});
  bench.ticks(5);
  bench.port->writes_fail = true;
  bench.ticks(6);
  bench.port->measured.positions = {0.0, -110.0};
  bench.port->writes_fail = false;
  const int before = bench.port->writes;
  bench.ticks(10, State::fault, Reason::start_outside_limits);
  CHECK_EQ(bench.port->writes, before);
}

CASE("an arm that does not follow draws its command back within the limits, and then starts anew") {
  Bench bench(Chunk{64, 15.0});
  TickRecord record = bench.tick();
  while (record.reason == Reason::starting) record = bench.tick();
  bench.port->follows = false;
  bench.port->measured.positions = {-10.0, 15.0};  // 25 from the command, where 20 is the jump limit
  const std::int64_t due = record.step;
  double last = record.command[0];
  double speed = 0.0;
  for (int i = 0; i < 100 && record.command[0] > -10.0 + 0.2; ++i) {
    record = bench.ticks(1, State::holding, Reason::arm_not_following);
    CHECK_EQ(record.step, due);
    CHECK(std::abs(record.command[0] - last) <= 2.0);
    CHECK(std::abs(record.command[0] - last - speed) <= 0.4);
    speed = record.command[0] - last;
    last = record.command[0];
  }
  CHECK_NEAR(record.command[0], -10.0, 0.2);
  bench.port->follows = true;
  bench.push(64, -5.0, due);
  record = bench.ticks(1, State::running, Reason::starting);
  while (record.reason == Reason::starting) record = bench.tick();
  CHECK(record.followed);
}

CASE("a pose that is not a number from the start on is a fault after the limit of silence") {
  Bench bench;
  bench.port->measured.positions = {0.0, NAN};
  bench.ticks(50, State::idle, Reason::measured_not_finite);
  bench.ticks(1, State::fault, Reason::measured_not_finite);
  bench.port->measured.positions = {0.0, 0.0};
  CHECK(bench.tick().state == State::fault);
  CHECK_EQ(bench.port->writes, 0);
}

CASE("a stop decelerates and ends") {
  Bench bench(Ramp{0.5});
  bench.cycle.request_stop(Reason::stop_signal);
  CHECK(!bench.cycle.finished());
  TickRecord record = bench.ticks(1, State::stopping, Reason::stop_signal);
  for (int i = 0; i < 10 && !bench.cycle.finished(); ++i) record = bench.tick();
  CHECK(bench.cycle.finished());
  CHECK(record.state == State::idle);
}

CASE("a new run starts from the new pose with nothing carried over") {
  Bench bench(Chunk{30});
  const std::uint32_t before = bench.cycle.run();
  bench.ticks(10);
  bench.cycle.request_stop(Reason::stop_requested);
  bench.tick();
  bench.port->measured.positions = {40.0, 40.0};
  bench.cycle.begin(bench.clock);
  TickRecord record = bench.ticks(1, State::holding, Reason::waiting_for_chunk);
  CHECK_EQ(record.step, 0);
  CHECK_EQ(record.period, 0);
  CHECK_EQ(record.command[0], 40.0);
  const std::vector<double> late(20, 40.0);
  bench.cycle.push(late.data(), 10, {0, before});
  record = bench.tick();
  CHECK(record.reason == Reason::chunk_of_other_run);
  CHECK_EQ(bench.cycle.statistics().ticks.load(), 14U);
  CHECK_EQ(bench.cycle.statistics().period.count(), 12U);
}

CASE("a pose from before the run is not believed") {
  Bench bench;
  bench.tick();
  bench.port->silent = true;
  bench.clock.set(bench.clock.now() + Bench::kPeriod);
  bench.cycle.begin(bench.clock);
  CHECK(bench.tick().reason == Reason::state_missing);
}

CASE("the observation of a moment is the loop as it was then") {
  Bench bench;
  Observation observation;
  const Nanoseconds early = bench.clock.now();
  bench.tick();
  bench.push(60, 0.0, 0);
  std::vector<Nanoseconds> times;
  for (int i = 0; i < 10; ++i) {
    bench.tick();
    times.push_back(bench.clock.now());
  }
  for (int i = 0; i < 10; ++i) {
    CHECK(bench.cycle.observation_at(times[static_cast<std::size_t>(i)] + 1'000'000, observation));
    CHECK_EQ(observation.step, i + 1);
    CHECK_EQ(observation.run, bench.cycle.run());
  }
  CHECK(!bench.cycle.observation_at(early, observation));
  bench.cycle.begin(bench.clock);
  CHECK(!bench.cycle.observation_at(bench.clock.now(), observation));
}

CASE("every tick has one reason in the statistics") {
  Bench bench;
  bench.ticks(7);
  bench.push(5, 0.0, 0);
  bench.ticks(9);
  const LoopStatistics& statistics = bench.cycle.statistics();
  std::uint64_t sum = 0;
  for (const LoopStatistics::Counter& ticks : statistics.reason_ticks) sum += ticks.load();
  CHECK_EQ(sum, 16U);
  CHECK_EQ(statistics.reason_ticks[static_cast<std::size_t>(Reason::waiting_for_chunk)].load(), 7U);
  CHECK_EQ(statistics.reason_ticks[static_cast<std::size_t>(Reason::chunk_exhausted)].load(), 4U);
  CHECK_EQ(statistics.reason_events[static_cast<std::size_t>(Reason::chunk_exhausted)].load(), 1U);
  CHECK_EQ(statistics.executed_steps.load(), 5U);
}

CASE("options that make no sense are named") {
  CHECK(check(bench_options()).empty());
  CycleOptions wrong = bench_options();
  wrong.rate_hz = 9;
  CHECK(check(wrong).find("rate_hz") != std::string::npos);
  wrong = bench_options();
  wrong.watchdogs.silence_fault = wrong.watchdogs.silence_hold - 1;
  CHECK(check(wrong).find("silence_fault_s") != std::string::npos);
  wrong = bench_options();
  wrong.chunks.actions_per_step = 1.5;
  CHECK(check(wrong).find("chunk_rate_hz") != std::string::npos);
  wrong = bench_options();
  wrong.start.distance_max[1] = NAN;
  CHECK(check(wrong).find("start_distance_max") != std::string::npos);
}

CASE("the age of an observation is taken from its exposure to the write, first and later actions apart") {
  Bench bench;
  bench.tick();
  const std::vector<double> actions(30 * 2, 0.0);
  const Nanoseconds exposed = bench.clock.now() - 70'000'000;
  bench.cycle.push(actions.data(), 30, {0, bench.cycle.run(), exposed});
  TickRecord record;
  for (int i = 0; i < 3; ++i) {
    record = bench.tick();
    CHECK(record.followed);
    CHECK_EQ(record.observed_time, exposed);
    CHECK_EQ(record.write_time, bench.clock.now());
  }
  const LoopStatistics& statistics = bench.cycle.statistics();
  CHECK_EQ(statistics.observation_age.count(), 3U);
  CHECK_EQ(statistics.observation_age.max(), 130'000'000);
  CHECK_EQ(statistics.observation_to_action.count(), 1U);
  CHECK_EQ(statistics.observation_to_action.max(), 90'000'000);

  bench.push(30, 0.0, 3);  // nobody said when its images were exposed
  record = bench.tick();
  CHECK(record.followed);
  CHECK_EQ(record.observed_time, 0);
  CHECK_EQ(statistics.observation_age.count(), 3U);
  CHECK_EQ(statistics.observation_to_action.count(), 1U);

  bench.port->writes_fail = true;
  bench.cycle.push(actions.data(), 30, {4, bench.cycle.run(), exposed});
  record = bench.tick();
  CHECK_EQ(record.write_time, 0);
  CHECK_EQ(statistics.observation_to_action.count(), 1U);
  bench.port->writes_fail = false;
  bench.tick();
  CHECK_EQ(statistics.observation_to_action.count(), 2U);
}
