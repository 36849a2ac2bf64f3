// The loop's thread allocates nothing and takes no lock, whatever happens around it.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "control/control_loop.h"
#include "counters.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

// Every mode and limit at once.
CycleOptions busy_options(SpliceMode mode, double rate_hz) {
  CycleOptions options = bench_options(2, rate_hz);
  options.chunks.mode = mode;
  options.chunks.actions_per_step = 0.6;
  options.chunks.blend_steps = 10;
  options.chunks.resampling = Resampling::cubic;
  options.limits.jerk_max.fill(2e5);
  options.watchdogs.chunk_age_max = 2'000'000'000;
  options.watchdogs.cameras = 2;
  options.watchdogs.overruns_max = 10;
  options.watchdogs.temperature.warn.fill(55.0);
  options.watchdogs.temperature.limit.fill(65.0);
  options.watchdogs.current.warn.fill(1.0);
  options.watchdogs.current.limit.fill(2.0);
  return options;
}

// Runs in the loop's thread, and counts there from its first call to its last.
class CountingPort final : public Port {
 public:
  std::size_t joint_count() const noexcept override { return 2; }
  PortStatus read(MeasuredState& state) noexcept override {
    if (reads == 0) begin_counting();
    ++reads;
    state.positions = pose_;
    state.time = monotonic_now();
    return PortStatus::ok;
  }
  PortStatus write(const Command& command) noexcept override {
    pose_ = command.positions;
    // The next tick's read may never come.
    const Counts counts = end_counting();
    allocations += counts.allocations;
    locks += counts.locks;
    begin_counting();
    return PortStatus::ok;
  }

  std::atomic<long> reads{0};
  std::atomic<long> allocations{0};
  std::atomic<long> locks{0};

 private:
  JointVector pose_{};
};

}  // namespace

CASE("the counters count") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has these functions");
    return;
  }
  std::mutex mutex;
  begin_counting();
  {
    const std::scoped_lock lock(mutex);
  }
  CHECK_EQ(end_counting().locks, 1);

  begin_counting();
  const std::string text(100, 'x');
  const auto aligned = std::make_unique<std::vector<double>>(10);
  CHECK(end_counting().allocations >= 3);
  CHECK_EQ(text.size() + aligned->size(), 110U);

  std::condition_variable condition;
  std::unique_lock<std::mutex> held(mutex);
  begin_counting();
  condition.wait_for(held, std::chrono::milliseconds(1));
  CHECK(end_counting().locks >= 1);

  std::atomic<int> value{0};
  std::thread other([&] {
    while (value.load() == 0) std::this_thread::yield();
    value.store(2);
    value.notify_all();
  });
  begin_counting();
  value.store(1);
  value.wait(1);
  const Counts waited = end_counting();
  other.join();
  CHECK(value.load() == 2);
  CHECK(waited.allocations == 0);

  begin_counting();
  CHECK_EQ(end_counting().locks, 0);
}

CASE("ticks allocate nothing and take no lock: running, splicing, holding, refusing, stopping, faulting") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has these functions");
    return;
  }
  for (const SpliceMode mode : {SpliceMode::sync, SpliceMode::async, SpliceMode::blend, SpliceMode::rtc}) {
    CycleBench bench(busy_options(mode, 50.0));
    const std::vector<double> good(60, 4.0);
    const std::vector<double> bad(60, NAN);
    Counts all;
    for (int tick = 0; tick < 3000; ++tick) {
      bench.clock.set(bench.clock.now() + CycleBench::kPeriod);
      if (tick % 40 == 5 && tick % 400 < 300) {
        Observation observation;
        if (bench.cycle.observation_at(bench.clock.now(), observation)) {
          bench.cycle.push(tick % 3 == 0 ? bad.data() : good.data(), 30,
                           {observation.step, observation.run, bench.clock.now(), 4});
        }
      }
      if (tick % 700 < 600) {
        bench.cycle.report_frame(0, bench.clock.now());
        bench.cycle.report_frame(1, bench.clock.now());
      }
      bench.port->silent = tick % 500 > 470;
      bench.port->writes_fail = tick % 600 > 580;
      if (tick % 350 == 100) bench.port->measured.positions[0] += 25.0;
      bench.port->measured.has_temperatures = tick % 2 == 0;
      bench.port->measured.temperatures[0] = tick % 900 > 880 ? 60.0 : 30.0;
      begin_counting();
      if (tick == 2000) bench.cycle.request_stop(Reason::stop_requested);
      if (tick == 2200) bench.cycle.begin(bench.clock);
      if (tick == 2800) bench.port->measured.temperatures[0] = 90.0;
      bench.cycle.tick(bench.clock.now());
      bench.cycle.finish_tick(tick % 100 == 7 ? 1 : 0);
      const Counts counts = end_counting();
      all.allocations += counts.allocations;
      all.locks += counts.locks;
    }
    CHECK_EQ(all.allocations, 0);
    CHECK_EQ(all.locks, 0);
    // All of it happened.
    for (const Reason reason :
         {Reason::none, Reason::target_not_finite, Reason::state_stale, Reason::camera_stale,
          Reason::chunk_exhausted, Reason::temperature_high, Reason::temperature_limit,
          Reason::stop_requested, Reason::bus_write_failed, Reason::arm_not_following}) {
      CHECK(bench.cycle.statistics().reason_ticks[static_cast<std::size_t>(reason)].load() > 0 ||
            reason == Reason::none);
    }
  }
}

CASE("the loop's thread allocates nothing and takes no lock while others push, look and stop it") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has these functions");
    return;
  }
  const auto port = std::make_shared<CountingPort>();
  CycleOptions options = busy_options(SpliceMode::rtc, 1000.0);
  options.watchdogs.cameras = 0;
  ControlLoop loop(port, options, {});
  loop.start();
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      const std::vector<double> actions(60, 1.0);
      std::vector<double> planned(60);
      TickRecord record;
      while (!done.load()) {
        Observation observation;
        if (loop.cycle().observation_at(monotonic_now(), observation)) {
          loop.cycle().push(actions.data(), 30, {observation.step, observation.run, monotonic_now(), 3});
          loop.cycle().planned(observation.run, observation.step, 30, planned.data());
        }
        loop.cycle().telemetry().read(loop.cycle().telemetry().written(), record);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
  }
  MonotonicClock clock;
  const Nanoseconds give_up = clock.now() + 20'000'000'000;
  while (port->reads.load() < 500 && clock.now() < give_up) clock.sleep_until(clock.now() + 1'000'000);
  done.store(true);
  for (std::thread& thread : threads) thread.join();
  CHECK(loop.stop(Reason::stop_requested, 5'000'000'000));
  CHECK(port->reads.load() >= 500);
  CHECK(loop.cycle().statistics().chunks_taken.load() > 0);
  CHECK_EQ(port->allocations.load(), 0);
  CHECK_EQ(port->locks.load(), 0);
}
