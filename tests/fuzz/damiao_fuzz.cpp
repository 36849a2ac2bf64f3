// Damiao's eight bytes: whatever comes is read within the ranges, and what is read is written again as it
// was.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "bus/damiao/damiao_codec.h"
#include "bus/damiao/motor_watch.h"
#include "fuzz_check.h"

using namespace molmoact2::bus;

namespace {

using Input = std::span<const std::uint8_t>;

constexpr MitRanges kRanges{12.5, 10.0, 28.0};

CanFrame frame_of(Input input) {
  CanFrame frame;
  frame.length = static_cast<std::uint8_t>(input.empty() ? 0 : input[0] % 9);
  frame.extended = !input.empty() && input[0] >= 0xF0;
  frame.remote = !input.empty() && input[0] >= 0xE0 && input[0] < 0xF0;
  const Input rest = input.subspan(std::min<std::size_t>(1, input.size()));
  std::copy_n(rest.begin(), std::min<std::size_t>(rest.size(), frame.length), frame.data.begin());
  return frame;
}

double number_of(Input input, std::size_t at) {
  double number = 0.0;
  if (input.size() >= 8 * (at + 1)) {
    std::memcpy(&number, input.data() + 8 * at, sizeof(number));
  }
  return number;
}

bool within(double value, double full) { return std::abs(value) <= full * (1 + 1e-9); }

void read_anything(Input input) {
  const CanFrame frame = frame_of(input);
  MitCommand command;
  if (decode_mit(frame, kRanges, command)) {
    FUZZ_CHECK(within(command.position, kRanges.position) && within(command.velocity, kRanges.velocity));
    FUZZ_CHECK(within(command.torque, kRanges.torque));
    FUZZ_CHECK(command.kp >= 0 && within(command.kp, kKpMax) && command.kd >= 0 &&
               within(command.kd, kKdMax));
    CanFrame again;
    FUZZ_CHECK(encode_mit(1, command, kRanges, again));
    MitCommand back;
    // A MIT frame that is all ones but for the last byte is a command to the motor, when it is cut off again.
    if (decode_mit(again, kRanges, back)) {
      FUZZ_CHECK(std::abs(back.position - command.position) <= 2 * kRanges.position / 65535);
      FUZZ_CHECK(std::abs(back.kp - command.kp) <= kKpMax / 4095 &&
                 std::abs(back.kd - command.kd) <= kKdMax / 4095);
    }
  }
  MotorFeedback feedback;
  if (decode_feedback(frame, kRanges, feedback)) {
    FUZZ_CHECK(feedback.id <= 15 && within(feedback.position, kRanges.position));
    FUZZ_CHECK(within(feedback.velocity, kRanges.velocity) && within(feedback.torque, kRanges.torque));
    FUZZ_CHECK(feedback.driver_celsius >= 0 && feedback.driver_celsius <= 255);
    FUZZ_CHECK(text(feedback.status)[0] != '\0');
    CanFrame again;
    FUZZ_CHECK(encode_feedback(1, feedback, kRanges, again));
    FUZZ_CHECK(again.data[0] == frame.data[0] && again.data[6] == frame.data[6] &&
               again.data[7] == frame.data[7]);
  }
  RegisterReply reply;
  const std::uint32_t id =
      static_cast<std::uint32_t>(frame.data[0]) | static_cast<std::uint32_t>(frame.data[1]) << 8U;
  if (decode_register_reply(frame, id, reply) && reply.action == RegisterAction::write) {
    const CanFrame asked = register_frame(id, RegisterAction::write, reply.address, reply.value);
    FUZZ_CHECK(asked.data == frame.data);
  }
  FUZZ_CHECK(!decode_register_reply(frame, id ^ 1U, reply));
}

void write_anything(Input input) {
  const MitCommand command{number_of(input, 0), number_of(input, 1), number_of(input, 2), number_of(input, 3),
                           number_of(input, 4)};
  const bool finite = std::isfinite(command.position) && std::isfinite(command.velocity) &&
                      std::isfinite(command.kp) && std::isfinite(command.kd) && std::isfinite(command.torque);
  CanFrame frame;
  FUZZ_CHECK(encode_mit(7, command, kRanges, frame) == finite);
  MitCommand back;
  if (finite && decode_mit(frame, kRanges, back)) {
    const double wanted = std::clamp(command.position, -kRanges.position, kRanges.position);
    FUZZ_CHECK(std::abs(back.position - wanted) <= 2 * kRanges.position / 65535 * (1 + 1e-9));
  }
  MotorFeedback feedback;
  feedback.id = input.empty() ? 0 : input[0];
  feedback.position = number_of(input, 0);
  feedback.velocity = number_of(input, 1);
  feedback.torque = number_of(input, 2);
  feedback.driver_celsius = number_of(input, 3);
  feedback.rotor_celsius = number_of(input, 4);
  if (encode_feedback(0x11, feedback, kRanges, frame)) {
    MotorFeedback read;
    FUZZ_CHECK(decode_feedback(frame, kRanges, read));
    FUZZ_CHECK(read.id == (feedback.id & 0xFU));
  }
}

// A stream of feedbacks: time never runs backwards, and nothing is believed that is new twice over.
void watch_anything(Input input) {
  MotorWatch watch(kRanges);
  molmoact2::control::Nanoseconds time = 1;
  while (input.size() >= 10) {
    const molmoact2::control::Nanoseconds before = watch.time();
    const MotorFeedback known = watch.feedback();
    time += static_cast<molmoact2::control::Nanoseconds>(input[9]) * 100'000;
    MotorFeedback feedback;
    if (decode_feedback(frame_of(input.first(9)), kRanges, feedback)) {
      const bool was_known = watch.known();
      const bool believed = watch.take(feedback, time);
      FUZZ_CHECK(watch.time() >= before);
      FUZZ_CHECK(believed || !was_known || watch.feedback().position == known.position);
      FUZZ_CHECK(!believed || watch.feedback().position == feedback.position);
    }
    input = input.subspan(10);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) {
    return 0;
  }
  const Input input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      read_anything(input);
      break;
    case 1:
      write_anything(input);
      break;
    default:
      watch_anything(input);
  }
  return 0;
}
