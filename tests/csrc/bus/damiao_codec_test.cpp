// The bytes of Damiao motors, against values worked out by hand and by LeRobot 0.4.4's codec.
#include "bus/damiao/damiao_codec.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "bus/damiao/motor_watch.h"
#include "check.h"

using namespace molmoact2::bus;

namespace {

constexpr MitRanges kSmall{12.5, 30.0, 10.0};  // DM4310
constexpr MitRanges kBig{12.5, 10.0, 28.0};    // DM4340

using Bytes = std::array<std::uint8_t, 8>;

CanFrame frame_of(const Bytes& bytes) { return {.id = 1, .length = 8, .data = bytes}; }

}  // namespace

CASE("a MIT frame is what LeRobot packs") {
  CanFrame frame;
  // _encode_mit_packet(DM4310, kp=10, kd=0.5, 45 deg, 0 deg/s, 0 Nm) and (kp=80, kd=5, -30 deg, 60 deg/s, 2.5
  // Nm)
  REQUIRE(encode_mit(5, {0.7853981633974483, 0.0, 10.0, 0.5, 0.0}, kSmall, frame));
  CHECK_EQ(frame.id, 5U);
  CHECK(frame.data == (Bytes{0x88, 0x0A, 0x7F, 0xF0, 0x51, 0x19, 0x97, 0xFF}));
  REQUIRE(encode_mit(1, {-0.5235987755982988, 1.0471975511965976, 80.0, 5.0, 2.5}, kSmall, frame));
  CHECK(frame.data == (Bytes{0x7A, 0xA2, 0x84, 0x62, 0x8F, 0xFF, 0xF9, 0xFF}));
}

CASE("numbers beyond the range become its ends, and what is no number makes no frame") {
  CanFrame frame;
  REQUIRE(encode_mit(1, {1e9, -1e9, 1e9, -1.0, 1e300}, kBig, frame));
  CHECK(frame.data == (Bytes{0xFF, 0xFF, 0x00, 0x0F, 0xFF, 0x00, 0x0F, 0xFF}));
  const CanFrame before = frame;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(!encode_mit(1, {nan, 0, 0, 0, 0}, kBig, frame));
  CHECK(!encode_mit(1, {0, infinity, 0, 0, 0}, kBig, frame));
  CHECK(!encode_mit(1, {0, 0, nan, 0, 0}, kBig, frame));
  CHECK(!encode_mit(1, {0, 0, 0, -infinity, 0}, kBig, frame));
  CHECK(!encode_mit(1, {0, 0, 0, 0, nan}, kBig, frame));
  CHECK(frame.data == before.data);
}

CASE("every MIT frame says within one step of resolution what went into it") {
  std::mt19937 random(3);
  const auto draw = [&random](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    const MitCommand command{draw(-12.5, 12.5), draw(-10, 10), draw(0, 500), draw(0, 5), draw(-28, 28)};
    CanFrame frame;
    MitCommand back;
    REQUIRE(encode_mit(3, command, kBig, frame) && decode_mit(frame, kBig, back));
    CHECK_NEAR(back.position, command.position, 25.0 / 65535);
    CHECK_NEAR(back.velocity, command.velocity, 20.0 / 4095);
    CHECK_NEAR(back.kp, command.kp, 500.0 / 4095);
    CHECK_NEAR(back.kd, command.kd, 5.0 / 4095);
    CHECK_NEAR(back.torque, command.torque, 56.0 / 4095);
  }
}

CASE("a feedback is read as LeRobot reads it, and back") {
  // _decode_motor_state([0x11, 0x88, 0x0A, 0x7F, 0xF8, 0x00, 35, 41], DM4310)
  MotorFeedback feedback;
  REQUIRE(decode_feedback(frame_of({0x11, 0x88, 0x0A, 0x7F, 0xF8, 0x00, 35, 41}), kSmall, feedback));
  CHECK_EQ(feedback.id, 1U);
  CHECK_EQ(feedback.status, MotorStatus::enabled);
  CHECK_NEAR(feedback.position, 0.7852, 2e-4);
  CHECK_NEAR(feedback.velocity, 0.0, 30.0 / 4095 + 1e-9);
  CHECK_NEAR(feedback.torque, 0.0, 10.0 / 4095 + 1e-9);
  CHECK_EQ(feedback.driver_celsius, 35.0);
  CHECK_EQ(feedback.rotor_celsius, 41.0);
  // Within its resolution: a value that was cut off is cut off again.
  CanFrame frame;
  MotorFeedback back;
  REQUIRE(encode_feedback(0x11, feedback, kSmall, frame) && decode_feedback(frame, kSmall, back));
  CHECK_NEAR(back.position, feedback.position, 25.0 / 65535);
  CHECK_EQ(back.status, feedback.status);
}

CASE("every error that a motor has is told, and one that none has makes no feedback") {
  for (int code = 0; code < 16; ++code) {
    MotorFeedback feedback;
    const bool known = code <= 1 || (code >= 8 && code <= 0xE);
    CHECK_EQ(decode_feedback(frame_of({static_cast<std::uint8_t>(code << 4 | 2)}), kSmall, feedback), known);
    if (known) {
      CHECK_EQ(static_cast<int>(feedback.status), code);
      CHECK_EQ(is_error(feedback.status), code >= 8);
    }
  }
  MotorFeedback feedback;
  CHECK(!decode_feedback({.id = 0x11, .length = 7}, kSmall, feedback));
  CHECK(!decode_feedback({.id = 0x11, .remote = true, .length = 8}, kSmall, feedback));
}

CASE("commands are seven FF and their byte, and are no MIT frames") {
  for (const MotorCommand command :
       {MotorCommand::enable, MotorCommand::disable, MotorCommand::set_zero, MotorCommand::clear_error}) {
    const CanFrame frame = command_frame(4, command);
    CHECK(frame.data ==
          (Bytes{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, static_cast<std::uint8_t>(command)}));
    CHECK_EQ(frame.id, 4U);
    MitCommand read;
    CHECK(!decode_mit(frame, kSmall, read));
  }
}

CASE("registers are asked, written, saved and refreshed through 0x7FF") {
  CHECK(register_frame(0x02, RegisterAction::read, 21, 99).data == (Bytes{2, 0, 0x33, 21, 0, 0, 0, 0}));
  CHECK(register_frame(0x102, RegisterAction::write, 9, 4000).data ==
        (Bytes{2, 1, 0x55, 9, 0xA0, 0x0F, 0, 0}));
  CHECK(register_frame(0x02, RegisterAction::save, 9, 0).data == (Bytes{2, 0, 0xAA, 9, 0, 0, 0, 0}));
  CHECK(register_frame(0x02, RegisterAction::refresh, 9, 5).data == (Bytes{2, 0, 0xCC, 0, 0, 0, 0, 0}));
  CHECK_EQ(register_frame(0x02, RegisterAction::read, 21, 0).id, 0x7FFU);
}

CASE("a register's reply is the answer to that question alone") {
  RegisterReply reply;
  REQUIRE(decode_register_reply(frame_of({2, 0, 0x33, 21, 0x00, 0x00, 0x48, 0x41}), 2, reply));  // 12.5f
  CHECK_EQ(reply.address, 21U);
  CHECK_EQ(reply.value, 0x41480000U);
  CHECK_EQ(reply.action, RegisterAction::read);
  CHECK(!decode_register_reply(frame_of({2, 0, 0x33, 21, 0, 0, 0, 0}), 3, reply));
  CHECK(!decode_register_reply(frame_of({2, 1, 0x33, 21, 0, 0, 0, 0}), 2, reply));
  CHECK(!decode_register_reply(frame_of({2, 0, 0x34, 21, 0, 0, 0, 0}), 2, reply));
  CHECK(!decode_register_reply({.id = 0x12, .length = 4, .data = {2, 0, 0x33, 21}}, 2, reply));
  REQUIRE(decode_register_reply({.id = 0x12, .length = 4, .data = {2, 0, 0xAA, 1}}, 2, reply));
  CHECK_EQ(reply.action, RegisterAction::save);
}

// --- what of it is believed ---

CASE("a feedback that no motor can give is believed when it is said twice") {
  MotorWatch watch(kSmall);
  const auto at = [](double position, MotorStatus status = MotorStatus::enabled, double celsius = 30.0) {
    return MotorFeedback{1, status, position, 0.0, 0.0, celsius, celsius};
  };
  CHECK(!watch.take(at(0.1), 1'000'000));
  CHECK(!watch.known());
  CHECK(watch.take(at(0.1), 5'000'000));
  CHECK(watch.take(at(0.15), 9'000'000));
  // 30 rad/s in 4 ms is 0.12 rad, and 0.05 to spare.
  CHECK(!watch.take(at(0.15 + 0.18), 13'000'000));
  CHECK_NEAR(watch.feedback().position, 0.15, 0.0);
  CHECK_EQ(watch.time(), 9'000'000);
  CHECK(watch.take(at(0.16), 17'000'000));
  // A flipped bit in the status or in a temperature.
  CHECK(!watch.take(at(0.16, MotorStatus::overload), 21'000'000));
  CHECK_EQ(watch.feedback().status, MotorStatus::enabled);
  CHECK(!watch.take(at(0.16, MotorStatus::enabled, 94.0), 25'000'000));
  CHECK(watch.take(at(0.16), 29'000'000));
  CHECK_EQ(watch.doubted(), 4U);
  // What stays is true.
  CHECK(!watch.take(at(0.16, MotorStatus::overload), 33'000'000));
  CHECK(watch.take(at(0.16, MotorStatus::overload), 37'000'000));
  CHECK_EQ(watch.feedback().status, MotorStatus::overload);
  // Two lies that differ are two lies.
  CHECK(!watch.take(at(5.0, MotorStatus::overload), 41'000'000));
  CHECK(!watch.take(at(-5.0, MotorStatus::overload), 45'000'000));
  CHECK(watch.take(at(0.16, MotorStatus::overload), 49'000'000));
}

CASE("after a silence a motor may be as far as it can turn in that time") {
  MotorWatch watch(kBig);
  watch.accept({1, MotorStatus::enabled, 0.0, 0, 0, 30, 30}, 1'000'000'000);
  CHECK(watch.take({1, MotorStatus::enabled, 1.0, 0, 0, 30, 30}, 1'100'000'000));
  CHECK(!watch.take({1, MotorStatus::enabled, 3.0, 0, 0, 30, 30}, 1'200'000'000));
}
