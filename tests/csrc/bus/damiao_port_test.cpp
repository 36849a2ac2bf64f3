// Two arms on scripted buses: what is sent, what is believed, what is said when something is lost. The
// keeper's thread is kept out of the cases about the loop by a period that is longer than any of them.
#include "bus/damiao/damiao_port.h"

#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "counters.h"
#include "scripted_can.h"

using namespace molmoact2::bus;
using namespace molmoact2::control;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;
constexpr Nanoseconds kHour = 3'600'000'000'000;
constexpr double kDegrees = 180.0 / std::numbers::pi;
constexpr std::size_t kJoints = ScriptedCan::kMotors;

DamiaoOptions options_for(std::size_t buses) {
  DamiaoOptions options;
  for (std::size_t bus = 0; bus < buses; ++bus) {
    for (std::size_t i = 0; i < kJoints; ++i) {
      const auto id = static_cast<std::uint32_t>(i + 1);
      options.joints.push_back({bus, id, id + 0x10, ScriptedCan::kRanges, 80.0, 4.0, kDegrees, 0.0});
    }
  }
  options.exchange_timeout = kMillisecond / 4;
  options.ramp = 0;
  options.keep_period = kHour;
  return options;
}

// A port on scripted buses.
struct Bench {
  explicit Bench(std::size_t count, const DamiaoOptions& options) {
    std::vector<std::unique_ptr<CanLink>> links;
    for (std::size_t i = 0; i < count; ++i) {
      auto bus = std::make_unique<ScriptedCan>();
      buses.push_back(bus.get());
      links.push_back(std::move(bus));
    }
    port = std::make_unique<DamiaoPort>(std::move(links), options);
  }
  explicit Bench(std::size_t count) : Bench(count, options_for(count)) {}

  void open() const {
    std::string error;
    REQUIRE(port->open(error));
    hear();
  }
  // Twice, because one feedback alone is not believed.
  void hear() const {
    MeasuredState state;
    port->read(state);
    port->read(state);
  }
  void follow() const {
    open();
    for (std::size_t i = 0; i < port->joint_count(); ++i) REQUIRE(port->command(i, MotorCommand::enable));
    REQUIRE(port->set_mode(DriveMode::follow));
  }
  ScriptedMotor& motor(std::size_t joint) const { return buses[joint / kJoints]->motors[joint % kJoints]; }

  std::vector<ScriptedCan*> buses;
  std::unique_ptr<DamiaoPort> port;
};

Command command_of(double value) {
  Command command;
  command.positions.fill(value);
  return command;
}

// A millisecond at a time, because what another thread does has no fixed time.
bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 5000 && !holds(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return holds();
}

}  // namespace

CASE("options that make no arm are refused") {
  CHECK_EQ(check(options_for(2), 2), "");
  CHECK(!check(options_for(2), 1).empty());
  CHECK(!check(options_for(1), 3).empty());
  CHECK(!check(DamiaoOptions{}, 1).empty());
  const auto broken = [](const std::function<void(DamiaoOptions&)>& breaks) {
    DamiaoOptions options = options_for(1);
    breaks(options);
    return !check(options, 1).empty();
  };
  CHECK(broken([](DamiaoOptions& options) { options.joints[1].id = 1; }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[1].feedback_id = 0x11; }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[0].id = 0; }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[0].kp = 501; }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[0].kd = std::nan(""); }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[0].scale = 0; }));
  CHECK(broken([](DamiaoOptions& options) { options.joints[0].ranges.torque = 0; }));
  CHECK(broken([](DamiaoOptions& options) { options.silence = 0; }));
  CHECK(broken([](DamiaoOptions& options) {
    options.weights.push_back({SerialChain(std::vector<ChainLink>(3), {0, 0, -9.81}), 5, {1, 1, 1}});
  }));
}

CASE("a joint is read in its own unit, and its temperature is the hotter one") {
  DamiaoOptions options = options_for(1);
  options.joints[6].scale = -100.0 / 5.0;
  options.joints[6].offset = 20.0;
  const Bench bench(1, options);
  bench.motor(0).feedback.position = 1.0;
  bench.motor(6).feedback.position = -2.0;
  bench.motor(3).feedback.rotor_celsius = 55.0;
  bench.open();
  MeasuredState state;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK_NEAR(state.positions[0], kDegrees, 25.0 / 65535 * kDegrees);
  CHECK_NEAR(state.positions[6], 60.0, 25.0 / 65535 * 20.0);
  CHECK(state.has_temperatures && !state.has_currents);
  CHECK_EQ(state.temperatures[3], 55.0);
  CHECK_EQ(state.temperatures[2], 31.0);
}

CASE("nothing is known before every motor was heard twice, and the time is the oldest feedback's") {
  const Bench bench(2);
  bench.motor(9).present = false;
  bench.open();
  MeasuredState state;
  CHECK_EQ(bench.port->read(state), PortStatus::no_data);
  bench.motor(9).present = true;
  bench.buses[0]->stamp = monotonic_now() + kMillisecond;
  bench.buses[1]->stamp = bench.buses[0]->stamp - 5000;
  bench.hear();
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK_EQ(state.time, bench.buses[1]->stamp);
}

CASE("a joint that stops answering keeps its old value and the state its old time") {
  const Bench bench(2);
  bench.follow();
  MeasuredState before;
  REQUIRE(bench.port->read(before) == PortStatus::ok);
  const Nanoseconds frozen = bench.port->report().motors[4].time;
  bench.motor(4).present = false;
  for (std::size_t i = 0; i < 2 * kJoints; ++i) bench.motor(i).feedback.position = 0.01;
  for (int i = 0; i < 5; ++i) {
    CHECK_EQ(bench.port->write(command_of(0.0)), PortStatus::ok);
    MeasuredState state;
    CHECK_EQ(bench.port->read(state), PortStatus::ok);
    CHECK_EQ(state.time, frozen);
    CHECK_EQ(state.positions[4], before.positions[4]);
    CHECK(state.positions[5] > before.positions[5]);
  }
  CHECK(bench.port->report().unanswered >= 5);
}

CASE("a write reaches every motor of both buses in one exchange, and its answers are the next state") {
  const Bench bench(2);
  bench.follow();
  const std::size_t sent = bench.buses[0]->sent;
  Command command;
  for (std::size_t i = 0; i < 2 * kJoints; ++i) {
    command.positions[i] = static_cast<double>(i);
    bench.motor(i).feedback.position = 0.001 * static_cast<double>(i);
  }
  CHECK_EQ(bench.port->write(command), PortStatus::ok);
  CHECK_EQ(bench.buses[0]->sent, sent + kJoints);
  MeasuredState state;
  CHECK_EQ(bench.port->read(state), PortStatus::ok);
  CHECK_EQ(bench.buses[0]->sent, sent + kJoints);  // nothing was asked again
  for (std::size_t i = 0; i < 2 * kJoints; ++i) {
    const MitCommand& told = bench.motor(i).last;
    CHECK_NEAR(told.position * kDegrees, static_cast<double>(i), 25.0 / 65535 * kDegrees);
    CHECK_NEAR(told.kp, 80.0, 500.0 / 4095);
    CHECK_NEAR(told.kd, 4.0, 5.0 / 4095);
    CHECK_NEAR(told.torque, 0.0, 20.0 / 4095);
    CHECK_NEAR(state.positions[i], 0.001 * static_cast<double>(i) * kDegrees, 25.0 / 65535 * kDegrees);
  }
  // A loop that only reads asks for itself.
  CHECK_EQ(bench.port->read(state), PortStatus::ok);
  CHECK_EQ(bench.buses[0]->sent, sent + 2 * kJoints);
}

CASE("motors are told nothing but questions until they are to follow, and no target before that is taken") {
  const Bench bench(1);
  bench.open();
  CHECK_EQ(bench.port->write(command_of(1.0)), PortStatus::failed);
  bench.hear();
  CHECK_EQ(bench.motor(0).commanded, 0U);
  CHECK(bench.motor(0).refreshed >= 4);
}

CASE("following begins at the measured pose") {
  const Bench bench(1);
  for (std::size_t i = 0; i < kJoints; ++i)
    bench.motor(i).feedback.position = 0.1 * static_cast<double>(i + 1);
  bench.follow();
  for (std::size_t i = 0; i < kJoints; ++i) {
    CHECK_NEAR(bench.motor(i).last.position, 0.1 * static_cast<double>(i + 1), 2 * 25.0 / 65535);
  }
}

CASE("the stiffness grows from nothing after motors were switched on, the damping is there at once") {
  DamiaoOptions options = options_for(1);
  options.ramp = kHour;
  const Bench bench(1, options);
  bench.follow();
  CHECK_NEAR(bench.motor(2).last.kp, 0.0, 500.0 / 4095);
  CHECK_NEAR(bench.motor(2).last.kd, 4.0, 5.0 / 4095);
  // From hold to follow nothing is let go.
  options.ramp = 0;
  const Bench stiff(1, options);
  stiff.follow();
  REQUIRE(stiff.port->set_mode(DriveMode::hold));
  REQUIRE(stiff.port->set_mode(DriveMode::follow));
  CHECK_NEAR(stiff.motor(2).last.kp, 80.0, 500.0 / 4095);
}

CASE("holding refuses targets and stays near the pose; damping lets go of it") {
  const Bench bench(1);
  bench.follow();
  CHECK_EQ(bench.port->write(command_of(90.0)), PortStatus::ok);
  REQUIRE(bench.port->set_mode(DriveMode::hold));
  CHECK_NEAR(bench.motor(0).last.position, 0.1, 2 * 25.0 / 65535);  // not the target far away
  CHECK_EQ(bench.port->write(command_of(0.0)), PortStatus::failed);
  REQUIRE(bench.port->set_mode(DriveMode::damp));
  CHECK_NEAR(bench.motor(0).last.kp, 0.0, 1e-12);
  CHECK_NEAR(bench.motor(0).last.kd, 4.0, 5.0 / 4095);
}

CASE("a target that is no number is refused, and nothing is sent") {
  const Bench bench(1);
  bench.follow();
  Command command = command_of(0.0);
  command.positions[3] = std::numeric_limits<double>::quiet_NaN();
  const std::size_t sent = bench.buses[0]->sent;
  CHECK_EQ(bench.port->write(command), PortStatus::failed);
  CHECK_EQ(bench.buses[0]->sent, sent);
}

CASE(
    "a motor that switches itself off is latched and fails every write, while the others are told their "
    "targets") {
  const Bench bench(2);
  bench.follow();
  bench.motor(8).feedback.status = MotorStatus::rotor_hot;
  CHECK_EQ(bench.port->write(command_of(1.0)), PortStatus::ok);  // said once: not believed yet
  CHECK_EQ(bench.port->write(command_of(1.0)), PortStatus::failed);
  bench.motor(8).feedback.status = MotorStatus::disabled;  // somebody cleared it
  CHECK_EQ(bench.port->write(command_of(2.0)), PortStatus::failed);
  CHECK_NEAR(bench.motor(0).last.position * kDegrees, 2.0, 25.0 / 65535 * kDegrees);
  const DamiaoReport report = bench.port->report();
  CHECK(report.motors[8].faulted);
  CHECK_EQ(report.motors[8].fault, MotorStatus::rotor_hot);
  CHECK(!report.motors[7].faulted);
  REQUIRE(bench.port->command(8, MotorCommand::enable));
  bench.port->clear_faults();
  CHECK_EQ(bench.port->write(command_of(2.0)), PortStatus::ok);
}

CASE("a motor that lost its power comes back without torque: that is a fault too") {
  const Bench bench(1);
  bench.follow();
  bench.motor(2).feedback.status = MotorStatus::disabled;
  for (int i = 0; i < 8; ++i) bench.port->write(command_of(0.0));
  const DamiaoReport report = bench.port->report();
  CHECK(report.motors[2].faulted);
  CHECK_EQ(report.motors[2].fault, MotorStatus::disabled);
}

CASE("a motor that is switched on while the others are held begins where it stands") {
  DamiaoOptions options = options_for(1);
  options.ramp = kHour;
  const Bench bench(1, options);
  bench.follow();
  bench.motor(1).feedback.status = MotorStatus::link_lost;
  for (int i = 0; i < 3; ++i) bench.port->write(command_of(0.0));
  bench.motor(1).feedback.position = -1.5;  // it sank
  for (int i = 0; i < 3; ++i) bench.port->write(command_of(0.0));
  REQUIRE(bench.port->set_mode(DriveMode::hold));
  REQUIRE(bench.port->command(1, MotorCommand::clear_error));
  REQUIRE(bench.port->command(1, MotorCommand::enable));
  bench.port->clear_faults();
  bench.hear();
  CHECK_NEAR(bench.motor(1).last.position, -1.5, 2 * 25.0 / 65535);
  CHECK_NEAR(bench.motor(1).last.kp, 0.0, 500.0 / 4095);
}

CASE("one garbled feedback changes neither a position nor the state of health") {
  const Bench bench(1);
  bench.follow();
  bench.port->write(command_of(0.0));
  MotorFeedback lie = bench.motor(0).feedback;
  lie.position = 6.0;
  lie.rotor_celsius = 200.0;
  CanFrame frame;
  REQUIRE(encode_feedback(0x11, lie, ScriptedCan::kRanges, frame));
  frame.time = monotonic_now();
  bench.buses[0]->push(frame);
  MeasuredState state;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK_NEAR(state.positions[0], 0.0, 25.0 / 65535 * kDegrees);
  CHECK_EQ(state.temperatures[0], 31.0);
  CHECK(bench.port->report().motors[0].doubted > 0);
  // Of somebody else, and of a motor under a wrong number.
  lie.id = 5;
  REQUIRE(encode_feedback(0x11, lie, ScriptedCan::kRanges, frame));
  bench.buses[0]->push(frame);
  bench.buses[0]->push(frame);
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK_NEAR(state.positions[0], 0.0, 25.0 / 65535 * kDegrees);
}

CASE("a lost bus fails at once, and the other one is still served") {
  const Bench bench(2);
  bench.follow();
  bench.buses[1]->gone.store(true);
  const std::size_t served = bench.motor(0).commanded;
  CHECK_EQ(bench.port->write(command_of(1.0)), PortStatus::failed);
  MeasuredState state;
  CHECK_EQ(bench.port->read(state), PortStatus::failed);
  CHECK_EQ(bench.motor(0).commanded, served + 1);
}

CASE("the weight of the arm is added to what the motors hold, scaled and grown like the stiffness") {
  DamiaoOptions options = options_for(1);
  // A pendulum about the y axis, level at 0: 2 kg at 0.1 m.
  ChainLink link;
  link.axis = {0, 1, 0};
  link.mass = 2.0;
  link.center = {0.1, 0, 0};
  options.weights.push_back({SerialChain({link}, {0, 0, -9.81}), 2, {1.5}});
  const Bench bench(1, options);
  bench.follow();
  bench.port->write(command_of(0.0));
  // Raising it against the weight means turning against +y.
  CHECK_NEAR(bench.motor(2).last.torque, -1.5 * 2.0 * 9.81 * 0.1, 20.0 / 4095);
  CHECK_NEAR(bench.motor(1).last.torque, 0.0, 20.0 / 4095);
  REQUIRE(bench.port->set_mode(DriveMode::damp));
  CHECK_NEAR(bench.motor(2).last.torque, 0.0, 20.0 / 4095);
}

CASE("registers are read, written and saved, and what a motor does not take is told") {
  const Bench bench(2);
  bench.open();
  std::uint32_t value = 0;
  bench.motor(8).registers[9] = 77;
  REQUIRE(bench.port->read_register(8, 9, value));
  CHECK_EQ(value, 77U);
  CHECK(bench.port->write_register(8, 9, 4000));
  CHECK_EQ(bench.motor(8).registers[9], 4000U);
  CHECK_EQ(bench.motor(1).registers[9], 0U);
  CHECK(bench.port->save_register(8, 9));
  bench.motor(8).obeys = false;
  CHECK(!bench.port->write_register(8, 9, 5));
  CHECK(!bench.port->command(8, MotorCommand::enable));
  bench.motor(8).present = false;
  CHECK(!bench.port->read_register(8, 9, value));
  CHECK(!bench.port->command(8, MotorCommand::set_zero));
}

CASE("a register's reply that comes too late is no feedback") {
  const Bench bench(1);
  bench.open();
  for (int i = 0; i < 3; ++i) {
    CanFrame late = register_frame(1, RegisterAction::read, 21, 0);
    late.id = 0x11;
    late.time = monotonic_now();
    bench.buses[0]->push(late);
  }
  MeasuredState state;
  REQUIRE(bench.port->read(state) == PortStatus::ok);
  CHECK_NEAR(state.positions[0], 0.0, 25.0 / 65535 * kDegrees);
  CHECK_EQ(bench.port->report().motors[0].doubted, 1U);  // the first feedback of all
}

CASE("a tick takes no memory and no lock, whatever the motors do") {
  DamiaoOptions options = options_for(2);
  options.weights.push_back(
      {SerialChain(std::vector<ChainLink>(6), {0, 0, -9.81}), 0, std::vector<double>(6, 1.0)});
  const Bench bench(2, options);
  bench.follow();
  begin_counting();
  MeasuredState state;
  for (int i = 0; i < 50; ++i) {
    bench.port->read(state);
    bench.port->write(command_of(0.1));
  }
  bench.motor(3).present = false;
  bench.motor(4).feedback.status = MotorStatus::overload;
  bench.port->read(state);
  bench.port->write(command_of(0.1));
  bench.buses[0]->gone.store(true);
  for (int i = 0; i < 3; ++i) {
    bench.port->read(state);
    bench.port->write(command_of(0.1));
  }
  const Counts counts = end_counting();
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer owns the allocator");
    return;
  }
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
}

// --- the keeper ---

CASE("while no loop runs the keeper repeats the last target, so that the motors do not time out") {
  DamiaoOptions options = options_for(1);
  options.keep_period = kMillisecond;
  const Bench bench(1, options);
  std::string error;
  REQUIRE(bench.port->open(error));
  REQUIRE(eventually([&] { return bench.port->report().motors[6].time != 0; }));
  for (std::size_t i = 0; i < kJoints; ++i) REQUIRE(bench.port->command(i, MotorCommand::enable));
  REQUIRE(bench.port->set_mode(DriveMode::follow));
  const std::uint64_t before = bench.port->report().exchanges;
  CHECK(eventually([&] { return bench.port->report().exchanges > before + 20; }));
  bench.port->close();
  CHECK(bench.motor(0).commanded > 20U);
}

CASE("the keeper opens a lost bus again, and the motors go on") {
  DamiaoOptions options = options_for(2);
  options.keep_period = kMillisecond;
  options.reopen_period = kMillisecond;
  const Bench bench(2, options);
  std::string error;
  REQUIRE(bench.port->open(error));
  bench.buses[1]->gone.store(true);
  REQUIRE(eventually([&] { return !bench.port->buses()[1].error.empty(); }));
  CHECK(bench.port->buses()[0].open);
  CHECK(!bench.port->buses()[1].open);
  CHECK_EQ(bench.port->buses()[1].error, "no such adapter");
  bench.buses[1]->gone.store(false);
  CHECK(eventually([&] { return bench.port->buses()[1].open; }));
  CHECK(bench.port->buses()[1].error.empty());
  CHECK(bench.buses[1]->openings.load() >= 3);
}

CASE("a driven motor that does not answer for too long is latched as silent, one that is not driven is not") {
  DamiaoOptions options = options_for(1);
  options.keep_period = kMillisecond;
  options.silence = 30 * kMillisecond;
  const Bench bench(1, options);
  std::string error;
  REQUIRE(bench.port->open(error));
  REQUIRE(eventually([&] { return bench.port->report().motors[6].time != 0; }));
  bench.motor(5).present = false;
  const std::uint64_t before = bench.port->report().exchanges;
  REQUIRE(eventually([&] { return bench.port->report().exchanges > before + 60; }));
  CHECK(!bench.port->report().motors[5].silent);
  for (std::size_t i = 0; i < kJoints; ++i) bench.port->command(i, MotorCommand::enable);
  REQUIRE(bench.port->set_mode(DriveMode::follow));
  CHECK(eventually([&] { return bench.port->report().motors[5].silent; }));
  CHECK(!bench.port->report().motors[4].silent);
  CHECK(!bench.port->report().motors[5].faulted);
}

CASE("a port whose bus does not open says why and stays closed") {
  const Bench bench(2);
  bench.buses[1]->gone.store(true);
  std::string error;
  CHECK(!bench.port->open(error));
  CHECK_EQ(error, "no such adapter");
  CHECK(!bench.buses[0]->is_open());
  MeasuredState state;
  CHECK_EQ(bench.port->read(state), PortStatus::failed);
}
