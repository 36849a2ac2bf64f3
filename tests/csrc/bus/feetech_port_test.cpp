#include "bus/feetech/feetech_port.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "bus/feetech/reconnector.h"
#include "check.h"
#include "counters.h"
#include "feetech_arm.h"

using namespace molmoact2::bus;
using namespace molmoact2::bus::feetech;
using molmoact2::control::begin_counting;
using molmoact2::control::Command;
using molmoact2::control::counters_work;
using molmoact2::control::Counts;
using molmoact2::control::end_counting;
using molmoact2::control::MeasuredState;
using molmoact2::control::monotonic_now;
using molmoact2::control::Nanoseconds;
using molmoact2::control::PortStatus;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;
// Nothing here has to be fast: a loaded machine may take its time, and only what must time out waits for it.
constexpr Nanoseconds kPatience = 2'000 * kMillisecond;

PortOptions options_for(int servos) {
  PortOptions options;
  for (int id = 1; id <= servos; ++id) {
    options.joints.push_back({static_cast<std::uint8_t>(id), {1000, 3000, JointUnit::degrees, false}, 0});
  }
  options.answer_slack = kPatience;
  options.read_budget = kPatience;
  return options;
}

struct Bench {
  explicit Bench(int servos, bool echo = false, PortOptions options = {})
      : arm(servos, echo), bus(std::make_shared<ServoBus>(arm.path(), 1'000'000)) {
    std::string error;
    opened = bus->open(error);
    if (options.joints.empty()) options = options_for(servos);
    port = std::make_shared<FeetechPort>(bus, std::move(options));
  }
  // For what has to time out: the slack that answers have is short.
  static PortOptions hasty(int servos) {
    PortOptions options = options_for(servos);
    options.answer_slack = 60 * kMillisecond;
    options.read_budget = 250 * kMillisecond;
    return options;
  }
  // A first pose, however long a busy machine takes for it.
  bool settle(MeasuredState& state) {
    const Nanoseconds deadline = monotonic_now() + 10 * kPatience;
    while (port->read(state) != PortStatus::ok) {
      if (monotonic_now() > deadline) return false;
    }
    return true;
  }
  std::int32_t goal(int servo) {
    // Writes are not answered: a ping behind them says that they were taken.
    Answer pinged;
    pinged.servo = 1;
    {
      const BusTurn turn(*bus);
      bus->exchange(ping_packet(1), 0, std::span(&pinged, 1), kPatience, monotonic_now() + kPatience);
    }
    return arm.with([servo](TestArm& a) { return a.servo(servo).get("goal_position"); });
  }

  TestArm arm;
  std::shared_ptr<ServoBus> bus;
  std::shared_ptr<FeetechPort> port;
  bool opened = false;
};

template <typename Condition>
bool within(Nanoseconds patience, Condition condition) {
  const Nanoseconds deadline = monotonic_now() + patience;
  while (!condition()) {
    if (monotonic_now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace

CASE("a read gives every joint's position, and every so often what else the servos measure") {
  Bench bench(6);
  REQUIRE(bench.opened);
  CHECK(!bench.bus->echoes());
  const Nanoseconds before = monotonic_now();
  MeasuredState state;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK(state.time >= before);
  CHECK(state.time <= monotonic_now());
  for (int i = 0; i < 6; ++i) {
    const auto joint = static_cast<std::size_t>(i);
    CHECK_EQ(state.positions[joint], (1 + i) * 360.0 / 4095.0);
    CHECK_EQ(state.temperatures[joint], 31.0 + i);
    CHECK_NEAR(state.currents[joint], 0.65 * (1 + i), 1e-9);
  }
  CHECK(state.has_temperatures);
  CHECK(state.has_currents);
  for (int i = 0; i < 9; ++i) CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK_EQ(bench.bus->counters().exchanges.load(), 10U);
  CHECK_EQ(bench.bus->counters().timeouts.load(), 0U);

  ArmState all;
  REQUIRE(bench.port->measure(all, kPatience));
  CHECK_NEAR(all.voltages[0], 7.4, 1e-9);
  CHECK_NEAR(all.loads[0], -5.0, 1e-9);
}

CASE("an adapter that sends back what it is given is found out and makes no difference") {
  Bench bench(3, true);
  REQUIRE(bench.opened);
  CHECK(bench.bus->echoes());
  bench.arm.with([](TestArm& arm) { arm.servo(1).error = kVoltageError; });
  MeasuredState state;
  for (int i = 0; i < 5; ++i) CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK_EQ(bench.bus->counters().timeouts.load(), 0U);
  CHECK_EQ(bench.bus->counters().garbage.load(), 0U);
}

CASE("packets that are garbled, dropped or repeated are asked for again in the same read") {
  PortOptions options = options_for(6);
  options.answer_slack = 60 * kMillisecond;
  Bench bench(6, false, options);
  REQUIRE(bench.opened);
  MeasuredState state;
  REQUIRE(bench.settle(state));
  const auto once = [&bench](TestArm::Damage damage) {
    bench.arm.with([&](TestArm& arm) {
      arm.damage = [damage = std::move(damage), done = false](std::uint8_t servo,
                                                              std::vector<std::uint8_t>& bytes) mutable {
        if (servo == 4 && !std::exchange(done, true)) damage(servo, bytes);
      };
    });
  };
  once([](std::uint8_t, std::vector<std::uint8_t>& bytes) { bytes[5] ^= 0x40; });
  Nanoseconds before = monotonic_now();
  CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK(state.time >= before);
  CHECK_EQ(bench.bus->counters().checksum_errors.load(), 1U);
  CHECK(bench.bus->counters().retries.load() >= 1U);

  once([](std::uint8_t, std::vector<std::uint8_t>& bytes) { bytes.clear(); });
  before = monotonic_now();
  CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK(state.time >= before);
  CHECK(bench.bus->counters().retries.load() >= 2U);

  once([](std::uint8_t, std::vector<std::uint8_t>& bytes) {
    const std::vector<std::uint8_t> again = bytes;
    bytes.insert(bytes.end(), again.begin(), again.end());
  });
  CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK(bench.bus->counters().foreign.load() >= 1U);
}

CASE("a silent servo keeps its position and its time; the others go on") {
  Bench bench(3, false, Bench::hasty(3));
  REQUIRE(bench.opened);
  MeasuredState state;
  REQUIRE(bench.settle(state));
  const MeasuredState first = state;
  bench.arm.with([](TestArm& arm) {
    arm.servo(2).absent = true;
    for (const int id : {1, 2, 3}) arm.servo(id).set("present_position", 2500);
  });
  CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK_EQ(state.time, first.time);
  CHECK_EQ(state.positions[1], first.positions[1]);
  CHECK(state.positions[0] > first.positions[0]);
  CHECK(state.positions[2] > first.positions[2]);
  CHECK(bench.port->counters(1).misses.load() >= 1U);

  bench.arm.with([](TestArm& arm) {
    for (const int id : {1, 3}) arm.servo(id).absent = true;
  });
  CHECK(bench.port->read(state) == PortStatus::failed);
}

CASE("no pose is made up for a servo that has never answered") {
  Bench bench(2, false, Bench::hasty(2));
  REQUIRE(bench.opened);
  bench.arm.with([](TestArm& arm) { arm.servo(2).absent = true; });
  MeasuredState state;
  state.time = 77;
  CHECK(bench.port->read(state) == PortStatus::no_data);
  CHECK_EQ(state.time, 77);
}

CASE("commands become ticks within the range, and only while the arm follows") {
  Bench bench(2);
  REQUIRE(bench.opened);
  Command command;
  command.positions[0] = 10.0;
  command.positions[1] = 1e6;
  CHECK(bench.port->write(command) == PortStatus::failed);
  CHECK_EQ(bench.goal(1), 0);
  bench.port->follow(true);
  CHECK(bench.port->write(command) == PortStatus::ok);
  CHECK_EQ(bench.goal(1), 2000 + 114);
  CHECK_EQ(bench.goal(2), 3000);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    command.positions[0] = bad;
    CHECK(bench.port->write(command) == PortStatus::failed);
    CHECK(!bench.port->send_targets(command.positions));
  }
  CHECK_EQ(bench.goal(1), 2000 + 114);
  bench.port->follow(false);
  command.positions[0] = 0.0;
  CHECK(bench.port->write(command) == PortStatus::failed);
  CHECK(bench.port->send_targets(command.positions));
  CHECK_EQ(bench.goal(1), 2000);
}

CASE("an error that a servo reports twice stops the commands, one report alone is noise") {
  for (const std::uint8_t error : {kOverloadError, kTemperatureError, kCurrentError, kAngleError}) {
    Bench bench(3);
    REQUIRE(bench.opened);
    bench.port->follow(true);
    MeasuredState state;
    CHECK(bench.port->read(state) == PortStatus::ok);
    bench.arm.with([error](TestArm& arm) { arm.servo(2).error = error; });
    CHECK(bench.port->read(state) == PortStatus::ok);
    CHECK_EQ(bench.port->trouble().kind, Trouble::none);
    CHECK(bench.port->read(state) == PortStatus::ok);
    const TroubleReport trouble = bench.port->trouble();
    CHECK_EQ(trouble.kind, Trouble::protection);
    CHECK_EQ(trouble.joint, 1);
    CHECK_EQ(trouble.errors, error);
    CHECK(bench.port->write({}) == PortStatus::failed);
    bench.arm.with([](TestArm& arm) { arm.servo(2).error = 0; });
    CHECK(bench.port->read(state) == PortStatus::ok);
    CHECK_EQ(bench.port->counters(1).errors.load(), error);
    CHECK(bench.port->write({}) == PortStatus::failed);
    (*bench.port).reset();
    CHECK(bench.port->write({}) == PortStatus::ok);
    CHECK_EQ(bench.port->counters(1).errors.load(), 0);
  }
}

CASE("low voltage is told, and no reason to let the arm fall") {
  Bench bench(1);
  REQUIRE(bench.opened);
  bench.port->follow(true);
  bench.arm.with([](TestArm& arm) { arm.servo(1).error = kVoltageError; });
  MeasuredState state;
  for (int i = 0; i < 3; ++i) CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK_EQ(bench.port->counters(0).errors.load(), kVoltageError);
  CHECK(bench.port->write({}) == PortStatus::ok);
}

CASE("a servo that was away is sent no goal until its torque was seen") {
  for (const bool kept : {true, false}) {
    Bench bench(2, false, Bench::hasty(2));
    REQUIRE(bench.opened);
    bench.port->follow(true);
    MeasuredState state;
    REQUIRE(bench.settle(state));
    bench.arm.with([](TestArm& arm) { arm.servo(2).absent = true; });
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    CHECK(bench.port->read(state) == PortStatus::ok);
    bench.arm.with([kept](TestArm& arm) {
      arm.servo(2).absent = false;
      arm.servo(2).set("goal_position", 0);
      if (!kept) arm.servo(2).set("torque_enable", 0);
    });
    Command command;
    command.positions[0] = 5.0;
    command.positions[1] = 5.0;
    CHECK(bench.port->write(command) == PortStatus::ok);
    CHECK_EQ(bench.goal(1), 2057);
    CHECK_EQ(bench.goal(2), 0);
    CHECK(bench.port->read(state) == PortStatus::ok);
    CHECK_EQ(bench.port->trouble().kind, kept ? Trouble::none : Trouble::torque_lost);
    CHECK(bench.port->write(command) == (kept ? PortStatus::ok : PortStatus::failed));
    CHECK_EQ(bench.goal(2), kept ? 2057 : 0);
  }
}

CASE("a pulled cable is said at once; put in again, the arm goes on where all is as it was") {
  Bench bench(3);
  REQUIRE(bench.opened);
  bench.port->follow(true);
  Reconnector reconnector(bench.port, 60'000 * kMillisecond);
  MeasuredState state;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  const MeasuredState first = state;
  bench.arm.unplug();
  const Nanoseconds before = monotonic_now();
  CHECK(bench.port->read(state) == PortStatus::failed);
  CHECK(monotonic_now() - before < kPatience);
  CHECK(bench.port->lost());
  CHECK(bench.port->write({}) == PortStatus::failed);
  CHECK_EQ(state.time, first.time);

  bench.arm.plug();
  CHECK(within(20'000 * kMillisecond, [&] { return !bench.port->lost(); }));
  CHECK_EQ(bench.port->reconnections(), 1U);
  CHECK_EQ(bench.port->trouble().kind, Trouble::none);
  CHECK(bench.port->read(state) == PortStatus::ok);
  CHECK(state.time > first.time);
  CHECK(bench.port->write({}) == PortStatus::ok);
}

CASE("an arm that comes back without torque, or is another one, is not moved") {
  struct Change {
    void (*apply)(TestArm&);
    Trouble expected;
  };
  const Change changes[] = {
      {[](TestArm& arm) { arm.servo(2).set("torque_enable", 0); }, Trouble::torque_lost},
      {[](TestArm& arm) { arm.servo(2).set("homing_offset", 5); }, Trouble::other_servos},
      {[](TestArm& arm) { arm.servo(2).set("model_number", 778); }, Trouble::other_servos},
      {[](TestArm& arm) { arm.servo(2).set("max_position_limit", 2999); }, Trouble::other_servos},
      {[](TestArm& arm) { arm.servo(2).absent = true; }, Trouble::servos_missing},
  };
  for (const Change& change : changes) {
    Bench bench(3, false, Bench::hasty(3));
    REQUIRE(bench.opened);
    bench.port->follow(true);
    Reconnector reconnector(bench.port, 100 * kMillisecond);
    MeasuredState state;
    REQUIRE(bench.settle(state));
    bench.arm.unplug();
    CHECK(bench.port->read(state) == PortStatus::failed);
    bench.arm.with(change.apply);
    bench.arm.plug();
    CHECK(within(20'000 * kMillisecond, [&] { return bench.port->trouble().kind != Trouble::none; }));
    // On a loaded machine the patience may be over before the device was looked at.
    if (bench.port->trouble().kind != Trouble::unplugged) {
      CHECK_EQ(bench.port->trouble().kind, change.expected);
      CHECK_EQ(bench.port->trouble().joint, 1);
    }
    CHECK(bench.port->write({}) == PortStatus::failed);
    CHECK_EQ(bench.arm.with([](TestArm& arm) { return arm.requests[0x83]; }), 0);
  }
}

CASE("an arm that does not come back is given up") {
  Bench bench(1);
  REQUIRE(bench.opened);
  Reconnector reconnector(bench.port, 10 * kMillisecond);
  bench.arm.unplug();
  MeasuredState state;
  CHECK(bench.port->read(state) == PortStatus::failed);
  CHECK(within(20'000 * kMillisecond, [&] { return bench.port->trouble().kind == Trouble::unplugged; }));
}

CASE("while another thread has the bus, the loop goes on with what it knows") {
  Bench bench(2);
  REQUIRE(bench.opened);
  bench.port->follow(true);
  MeasuredState state;
  const BusTurn* turn = new BusTurn(*bench.bus);
  CHECK(bench.port->read(state) == PortStatus::no_data);
  delete turn;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  const Nanoseconds measured = state.time;
  {
    const BusTurn other(*bench.bus);
    state = {};
    CHECK(bench.port->read(state) == PortStatus::ok);
    CHECK_EQ(state.time, measured);
    CHECK(bench.port->write({}) == PortStatus::failed);
  }
  CHECK(bench.port->write({}) == PortStatus::ok);
}

CASE("the loop's calls take no memory and no lock, whatever the servos do") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has these functions");
    return;
  }
  PortOptions options = options_for(6);
  options.answer_slack = 5 * kMillisecond;
  options.read_budget = 20 * kMillisecond;
  Bench bench(6, false, options);
  REQUIRE(bench.opened);
  bench.port->follow(true);
  int packets = 0;
  bench.arm.with([&packets](TestArm& arm) {
    arm.damage = [&packets](std::uint8_t servo, std::vector<std::uint8_t>& bytes) {
      ++packets;
      if (packets % 7 == 0) bytes[4] ^= 0x10;
      if (packets % 11 == 0 || (servo == 3 && packets > 60)) bytes.clear();
    };
  });
  MeasuredState state;
  begin_counting();
  for (int i = 0; i < 20; ++i) {
    bench.port->read(state);
    bench.port->write({});
  }
  Counts counts = end_counting();
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
  bench.arm.unplug();
  begin_counting();
  CHECK(bench.port->read(state) == PortStatus::failed);
  CHECK(bench.port->write({}) == PortStatus::failed);
  counts = end_counting();
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
}

CASE("options that make no arm are refused") {
  PortOptions none;
  CHECK(!check(none).empty());
  PortOptions twice = options_for(2);
  twice.joints[1].servo = 1;
  CHECK(check(twice).find("two joints") != std::string::npos);
  PortOptions flat = options_for(1);
  flat.joints[0].scale.range_max = 1000;
  CHECK(!check(flat).empty());
  PortOptions never = options_for(1);
  never.block_every = 0;
  CHECK(!check(never).empty());
  CHECK(check(options_for(6)).empty());
}
