#include "bus/dynamixel/dynamixel_port.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bus/dynamixel/dynamixel_bus.h"
#include "bus/dynamixel_servos.h"
#include "bus/serial_terminal.h"
#include "check.h"
#include "counters.h"

using namespace molmoact2::bus;
using namespace molmoact2::bus::dynamixel;
using namespace molmoact2::control;

namespace {

constexpr int kBaud = 1'000'000;
constexpr double kSlack = 0.05;  // s; generous, so that a busy machine fails no test
constexpr std::uint16_t kBlockAt = 200;
constexpr double kDegreesPerTick = 360.0 / 4095.0;
constexpr Nanoseconds kSecond = 1'000'000'000;

Nanoseconds soon() { return monotonic_now() + kSecond; }

std::shared_ptr<DynamixelBus> opened(const SerialTerminal& terminal) {
  auto bus = std::make_shared<DynamixelBus>(terminal.path(), kBaud, kSlack);
  std::string error;
  REQUIRE(bus->link().open(error));
  return bus;
}

// Three servos whose block lies at kBlockAt, and the port to them.
struct Arm {
  SerialTerminal terminal;
  FakeServos servos{terminal, {1, 2, 3}};
  std::shared_ptr<DynamixelBus> bus = opened(terminal);
  DynamixelPort port;

  explicit Arm(BlockRead way = BlockRead::sync, double slack_limit_s = 0.3)
      : port(bus, joints(), {way, static_cast<Nanoseconds>(slack_limit_s * 1e9), kSecond / 10}) {
    servos.goal_seen_at = kBlockAt + static_cast<int>(BlockField::goal);
    for (const std::uint8_t id : Bytes{1, 2, 3}) {
      stand(id, 2048 + 10 * id);
    }
  }

  static std::vector<ServoJoint> joints() {
    std::vector<ServoJoint> joints;
    for (const std::uint8_t id : Bytes{1, 2, 3}) {
      ServoJoint joint;
      joint.id = id;
      joint.block_address = kBlockAt;
      joint.zero_ticks = 2047.5;
      joint.units_per_tick = kDegreesPerTick;
      joint.ticks_min = 1000;
      joint.ticks_max = 3000;
      joint.velocity_per_count = 0.229 * 6.0;
      joint.amperes_per_count = id == 3 ? std::numeric_limits<double>::quiet_NaN() : 0.001;
      joint.fatal_errors = 0x34;
      joints.push_back(joint);
    }
    return joints;
  }

  void field(std::uint8_t id, BlockField field, std::uint32_t value, std::size_t size) {
    servos.put(id, kBlockAt + static_cast<std::size_t>(field), value, size);
  }
  void stand(std::uint8_t id, int ticks) {
    field(id, BlockField::position, static_cast<std::uint32_t>(ticks), 4);
    field(id, BlockField::velocity, static_cast<std::uint32_t>(-5), 4);
    field(id, BlockField::current, 250, 2);
    field(id, BlockField::temperature, 31, 1);
    field(id, BlockField::return_level, kReturnLevel, 1);
  }
};

Command command(double position) {
  Command command;
  command.positions.fill(position);
  return command;
}

}  // namespace

CASE("one servo is asked, told, refused and missed") {
  SerialTerminal terminal;
  FakeServos servos(terminal, {5});
  const auto bus = opened(terminal);
  servos.put(5, 0, 1060, 2);
  std::array<std::uint8_t, 3> data{};
  const Answer ping = bus->exchange(5, Instruction::ping, {}, data, soon());
  CHECK(ping.status == ExchangeStatus::ok);
  CHECK_EQ(data[0] | data[1] << 8U, 1060U);

  const std::array<std::uint8_t, 3> torque{64, 0, 1};
  CHECK(bus->exchange(5, Instruction::write, torque, {}, soon()).status == ExchangeStatus::ok);
  CHECK_EQ(servos.get(5, 64, 1), 1U);

  servos.error = 0x87;
  const Answer refused = bus->exchange(5, Instruction::write, torque, {}, soon());
  CHECK(refused.status == ExchangeStatus::refused);
  CHECK_EQ(refused.error, 0x87);

  const Nanoseconds before = monotonic_now();
  const Answer missed = bus->exchange(9, Instruction::ping, {}, data, before + kSecond / 50);
  CHECK(missed.status == ExchangeStatus::timed_out);
  CHECK(monotonic_now() >= before + kSecond / 50);
}

CASE("everybody is found by one ping") {
  SerialTerminal terminal;
  FakeServos servos(terminal, {1, 2, 252});
  const auto bus = opened(terminal);
  servos.put(252, 0, 1200, 2);
  servos.put(252, 6, 52, 1);
  std::vector<int> ids;
  const ExchangeStatus status = bus->broadcast_ping(
      monotonic_now() + kSecond / 5, [&](std::uint8_t id, unsigned model, std::uint8_t firmware) {
        ids.push_back(id);
        CHECK_EQ(model, id == 252 ? 1200U : 0U);
        CHECK_EQ(firmware, id == 252 ? 52U : 0U);
      });
  CHECK(status == ExchangeStatus::ok);
  CHECK(ids == (std::vector<int>{1, 2, 252}));
}

CASE("every way of reading blocks gives the same state, in the joints' units") {
  for (const BlockRead way : {BlockRead::sync, BlockRead::fast_sync, BlockRead::bulk, BlockRead::fast_bulk}) {
    Arm arm(way);
    const Nanoseconds before = monotonic_now();
    MeasuredState state;
    REQUIRE(arm.port.read(state) == PortStatus::ok);
    for (std::size_t joint = 0; joint < 3; ++joint) {
      const double ticks = 2048.0 + 10.0 * static_cast<double>(joint + 1);
      CHECK_NEAR(state.positions[joint], (ticks - 2047.5) * kDegreesPerTick, 1e-9);
      CHECK_EQ(state.temperatures[joint], 31.0);
    }
    CHECK(state.has_currents && state.has_temperatures);
    CHECK_NEAR(state.currents[0], 0.25, 1e-12);
    CHECK(std::isnan(state.currents[2]));
    CHECK(state.time > before - arm.bus->wire_time(200) && state.time <= monotonic_now());
    ServoStates states;
    REQUIRE(arm.port.latest(states));
    CHECK_NEAR(states.velocities[1], -5.0 * 0.229 * 6.0, 1e-9);
  }
}

CASE("positions below zero and beyond a turn are numbers with a sign") {
  Arm arm;
  arm.stand(2, -300);
  MeasuredState state;
  REQUIRE(arm.port.read(state) == PortStatus::ok);
  CHECK_NEAR(state.positions[1], (-300.0 - 2047.5) * kDegreesPerTick, 1e-9);
}

CASE("goals are the nearest tick within the calibrated range") {
  Arm arm;
  CHECK(arm.port.write(command(10.0)) == PortStatus::ok);
  MeasuredState state;
  arm.port.read(state);  // the answer to it comes after the goals were taken
  CHECK_EQ(arm.servos.get(1, kGoalPositionAddress, 4), 2161U);  // 10 / 360 * 4095 + 2047.5 = 2161.25
  arm.port.write(command(-1000.0));
  arm.port.read(state);
  CHECK_EQ(arm.servos.get(2, kGoalPositionAddress, 4), 1000U);
  CHECK(arm.port.write(command(std::numeric_limits<double>::quiet_NaN())) == PortStatus::failed);
  arm.port.read(state);
  CHECK_EQ(arm.servos.get(2, kGoalPositionAddress, 4), 1000U);
}

CASE("a damaged or lost answer is asked for again in the same tick") {
  for (const BlockRead way : {BlockRead::sync, BlockRead::fast_sync}) {
    Arm arm(way);
    MeasuredState state;
    arm.servos.damaged_answers = 1;
    CHECK(arm.port.read(state) == PortStatus::ok);
    CHECK(arm.bus->counters().retries > 0);
    CHECK(arm.bus->counters().damaged > 0);
    arm.servos.dropped_requests = 1;
    CHECK(arm.port.read(state) == PortStatus::ok);
    CHECK(arm.bus->counters().timeouts > 0);
  }
}

CASE("a servo that is missing leaves the state its old time, and the tick its limit") {
  Arm arm(BlockRead::sync, 0.12);
  MeasuredState state;
  REQUIRE(arm.port.read(state) == PortStatus::ok);
  const Nanoseconds heard = monotonic_now();
  arm.servos.absent = 2;
  arm.stand(1, 2500);
  REQUIRE(arm.port.read(state) == PortStatus::ok);
  CHECK(state.time <= heard);
  CHECK_NEAR(state.positions[0], (2500.0 - 2047.5) * kDegreesPerTick,
             1e-9);  // those that answer are still heard
  arm.servos.absent = -1;
  REQUIRE(arm.port.read(state) == PortStatus::ok);
  CHECK(state.time > heard);
  // Where nobody answers there is nothing new at all.
  arm.servos.absent = 1;
  const Nanoseconds before = state.time;
  CHECK(arm.port.read(state) == PortStatus::failed);
  CHECK_EQ(state.time, before);
}

CASE("a joint that was never heard is no state") {
  Arm arm(BlockRead::sync, 0.12);
  arm.servos.absent = 3;
  MeasuredState state;
  CHECK(arm.port.read(state) == PortStatus::no_data);
  CHECK_EQ(state.time, 0);
  ServoStates states;
  CHECK(!arm.port.latest(states));
}

CASE("goals that the servos did not take are noticed by their echo") {
  Arm arm;
  MeasuredState state;
  for (const double position : {5.0, -7.0}) {
    CHECK(arm.port.write(command(position)) == PortStatus::ok);
    CHECK(arm.port.read(state) == PortStatus::ok);
  }
  CHECK_EQ(arm.port.lost_goals(), 0U);
  arm.servos.refuses_writes = true;
  CHECK(arm.port.write(command(9.0)) == PortStatus::ok);  // nobody knows yet
  CHECK(arm.port.read(state) == PortStatus::ok);
  CHECK_EQ(arm.port.lost_goals(), 3U);
  CHECK(arm.port.write(command(9.0)) == PortStatus::failed);
  arm.servos.refuses_writes = false;
  arm.port.write(command(9.0));
  CHECK(arm.port.read(state) == PortStatus::ok);
  CHECK(arm.port.write(command(9.0)) == PortStatus::ok);
}

CASE("what the loop cannot mend ends reading and writing until resume()") {
  const struct {
    BlockField field;
    std::uint32_t value;
    Trouble trouble;
  } cases[] = {{BlockField::return_level, 0, Trouble::servo_reset},
               {BlockField::hardware_error, 0x20, Trouble::hardware_error},
               {BlockField::bus_watchdog, 0xFF, Trouble::watchdog_fired}};
  for (const auto& one : cases) {
    Arm arm;
    MeasuredState state;
    REQUIRE(arm.port.read(state) == PortStatus::ok);
    const double before = state.positions[1];
    arm.stand(2, 2900);
    arm.field(2, one.field, one.value, 1);
    CHECK(arm.port.read(state) == PortStatus::failed);
    CHECK_EQ(state.positions[1], before);
    CHECK(arm.port.trouble() == one.trouble);
    const int asked = arm.servos.requests(Instruction::sync_read);
    CHECK(arm.port.read(state) == PortStatus::failed);
    CHECK(arm.port.write(command(0.0)) == PortStatus::failed);
    CHECK_EQ(arm.servos.requests(Instruction::sync_read), asked);
    arm.stand(2, 2900);
    arm.field(2, BlockField::hardware_error, 0, 1);
    arm.field(2, BlockField::bus_watchdog, 10, 1);
    arm.port.resume();
    CHECK(arm.port.read(state) == PortStatus::ok);
  }
}

CASE("an error with which the servo does not let go is remembered, and no trouble") {
  Arm arm;
  arm.field(3, BlockField::hardware_error, 0x01, 1);
  MeasuredState state;
  CHECK(arm.port.read(state) == PortStatus::ok);
  arm.field(3, BlockField::hardware_error, 0, 1);
  CHECK(arm.port.read(state) == PortStatus::ok);
  CHECK_EQ(arm.port.hardware_errors(2), 0x01);
  CHECK(arm.port.trouble() == Trouble::none);
}

CASE("an unplugged line is failed at once, and found again when it is opened anew") {
  auto terminal = std::make_unique<SerialTerminal>();
  auto servos = std::make_unique<FakeServos>(*terminal, std::initializer_list<std::uint8_t>{1});
  const auto bus = opened(*terminal);
  std::vector<ServoJoint> joints = Arm::joints();
  joints.resize(1);
  DynamixelPort port(bus, joints, {BlockRead::sync, kSecond, kSecond});
  servos->put(1, kBlockAt + static_cast<std::size_t>(BlockField::return_level), kReturnLevel, 1);
  MeasuredState state;
  REQUIRE(port.read(state) == PortStatus::ok);
  servos.reset();  // it reads what is about to be closed
  terminal->unplug();
  const Nanoseconds before = monotonic_now();
  CHECK(port.read(state) == PortStatus::failed);
  CHECK(monotonic_now() - before < kSecond / 2);
  CHECK(port.trouble() == Trouble::link_lost);
  CHECK(port.attend(kSecond, kSecond) == Trouble::link_lost);
}

CASE("attend() feeds the servos while nobody reads, says who is silent, and is dismissed") {
  Arm arm(BlockRead::sync, 0.12);
  Trouble trouble = Trouble::none;
  std::thread attendant([&] { trouble = arm.port.attend(kSecond / 100, 60 * kSecond); });
  while (arm.servos.requests(Instruction::sync_read) < 5) {
    std::this_thread::yield();
  }
  arm.port.dismiss();
  attendant.join();
  CHECK(trouble == Trouble::dismissed);
  arm.port.resume();
  arm.servos.absent = 1;
  CHECK(arm.port.attend(kSecond / 100, kSecond / 10) == Trouble::silent);
  CHECK(arm.port.trouble() == Trouble::none);  // it goes on asking
}

CASE("while another thread has the turn, the loop's thread does not wait for it") {
  Arm arm;
  MeasuredState state;
  REQUIRE(arm.port.read(state) == PortStatus::ok);
  REQUIRE(arm.bus->try_turn());
  CHECK(arm.port.read(state) == PortStatus::no_data);
  CHECK(arm.port.write(command(0.0)) == PortStatus::failed);
  arm.bus->give_turn();
  CHECK(arm.port.read(state) == PortStatus::ok);
}

CASE("reading and writing take no memory and no lock, whatever goes wrong") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has the functions that would be counted");
    return;
  }
  for (const BlockRead way : {BlockRead::sync, BlockRead::fast_sync, BlockRead::bulk}) {
    Arm arm(way, 0.12);
    MeasuredState state;
    begin_counting();
    for (int round = 0; round < 6; ++round) {
      arm.servos.damaged_answers.store(round == 2 ? 1 : 0);
      arm.servos.absent.store(round == 4 ? 2 : -1);
      arm.port.read(state);
      arm.port.write(command(1.0));
    }
    const Counts counts = end_counting();
    CHECK_EQ(counts.allocations, 0);
    CHECK_EQ(counts.locks, 0);
  }
}
