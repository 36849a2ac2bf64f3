#include "control/control_loop.h"

#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "control/mailbox_port.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

CycleOptions options(double rate_hz) {
  CycleOptions options = bench_options(1, rate_hz);
  options.watchdogs.silence_hold = 60'000'000'000;  // only the loop is looked at here
  options.watchdogs.silence_fault = 60'000'000'000;
  return options;
}

// Of this process.
std::size_t threads() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

bool wait_for_ticks(const ControlLoop& loop, std::uint64_t ticks) {
  MonotonicClock clock;
  const Nanoseconds give_up = clock.now() + 20'000'000'000;
  while (loop.cycle().statistics().ticks.load() < ticks) {
    if (clock.now() > give_up) return false;
    clock.sleep_until(clock.now() + 1'000'000);
  }
  return true;
}

}  // namespace

CASE("the thread ticks, writes to its port, and stops at rest") {
  auto port = std::make_shared<MailboxPort>(1);
  ControlLoop loop(port, options(1000), {});
  CHECK(loop.start().empty());
  port->publish_state({.positions = {7.0}, .time = monotonic_now()});
  REQUIRE(wait_for_ticks(loop, 50));
  Command command;
  CHECK(port->take_command(command));
  CHECK_EQ(command.positions[0], 7.0);
  CHECK(loop.stop(Reason::stop_requested, 5'000'000'000));
  CHECK(!loop.running());
}

CASE("deadlines lie on one grid, whatever the wake-ups did") {
  ControlLoop loop(std::make_shared<MailboxPort>(1), options(500), {});
  loop.start();
  REQUIRE(wait_for_ticks(loop, 100));
  loop.stop(Reason::stop_requested, 5'000'000'000);
  TickRecord first;
  TickRecord record;
  REQUIRE(loop.cycle().telemetry().read(1, first));
  std::int64_t periods = 0;
  for (std::uint64_t position = 2; position <= 100; ++position) {
    TickRecord before;
    REQUIRE(loop.cycle().telemetry().read(position - 1, before));
    REQUIRE(loop.cycle().telemetry().read(position, record));
    periods += 1 + before.skipped_periods;
    CHECK_EQ(record.deadline, first.deadline + periods * 2'000'000);
    CHECK(record.wakeup >= record.deadline);
  }
}

CASE("a loop can be started again, not twice at once") {
  ControlLoop loop(std::make_shared<MailboxPort>(1), options(500), {});
  loop.start();
  CHECK_THROWS(loop.start(), std::logic_error);
  CHECK_THROWS(loop.begin_stepped(0), std::logic_error);
  loop.stop(Reason::stop_requested, 5'000'000'000);
  loop.start();
  CHECK_EQ(loop.cycle().run(), 2U);
  REQUIRE(wait_for_ticks(loop, 10));
}

CASE("several threads may stop a loop at the same time") {
  ControlLoop loop(std::make_shared<MailboxPort>(1), options(500), {});
  for (int round = 0; round < 20; ++round) {
    loop.start();
    std::vector<std::thread> stopping;
    for (int i = 0; i < 4; ++i) {
      stopping.emplace_back([&loop] { loop.stop(Reason::stop_requested, 5'000'000'000); });
    }
    for (std::thread& thread : stopping) thread.join();
    CHECK(!loop.running());
  }
}

CASE("what the scheduler refuses is named, and the loop runs") {
  SchedulingRequest request;
  request.cpus = {1 << 20};
  ControlLoop loop(std::make_shared<MailboxPort>(1), options(500), request);
  const std::vector<SchedulingWarning> warnings = loop.start();
  REQUIRE(warnings.size() == 1);
  CHECK_EQ(warnings[0].name, std::string("affinity_refused"));
  CHECK(wait_for_ticks(loop, 5));
}

CASE("a loop that is destroyed ends its thread") {
  const std::size_t before = threads();
  for (int i = 0; i < 20; ++i) {
    ControlLoop loop(std::make_shared<MailboxPort>(1), options(1000), {});
    loop.start();
  }
  // The kernel lists a thread for a moment after it was joined.
  MonotonicClock clock;
  const Nanoseconds give_up = clock.now() + 20'000'000'000;
  while (threads() > before && clock.now() < give_up) clock.sleep_until(clock.now() + 1'000'000);
  CHECK_EQ(threads(), before);
}

CASE("a stepped run is the same on every machine") {
  const auto run = [] {
    auto port = std::make_shared<MailboxPort>(1);
    ControlLoop loop(port, options(50), {});
    loop.begin_stepped(0);
    std::vector<double> commands;
    Command command;
    JointVector pose{};
    for (int tick = 1; tick <= 60; ++tick) {
      const Nanoseconds now = tick * Nanoseconds{20'000'000};
      port->publish_state({.positions = pose, .time = now});
      if (tick == 5) {
        const std::vector<double> actions(30, 9.0);
        loop.cycle().push(actions.data(), 30, {0, loop.cycle().run()});
      }
      loop.tick_stepped(now);
      if (port->take_command(command)) pose = command.positions;
      commands.push_back(pose[0]);
    }
    return commands;
  };
  const std::vector<double> commands = run();
  CHECK(commands == run());
  CHECK_NEAR(commands.back(), 9.0, 1e-9);
}
