#include "bus/damiao/damiao_codec.h"

#include <algorithm>
#include <cmath>

namespace molmoact2::bus {

namespace {

constexpr unsigned kPositionBits = 16;
constexpr unsigned kBits = 12;
constexpr std::size_t kCommandFill = 7;  // bytes of 0xFF in front of a command

// Motors and their libraries cut off, they do not round: bit for bit the same wants the same.
std::uint32_t to_code(double value, double low, double high, unsigned bits) noexcept {
  const double clamped = std::max(low, std::min(high, value));
  const double share = (clamped - low) / (high - low);
  return static_cast<std::uint32_t>(share * static_cast<double>((1U << bits) - 1U));
}

double from_code(std::uint32_t code, double low, double high, unsigned bits) noexcept {
  return static_cast<double>(code) / static_cast<double>((1U << bits) - 1U) * (high - low) + low;
}

std::uint8_t byte_of(std::uint32_t value, unsigned shift) noexcept {
  return static_cast<std::uint8_t>(value >> shift & 0xFFU);
}

bool is_plain(const CanFrame& frame) noexcept {
  return !frame.extended && !frame.remote && frame.length == kCanDataBytes;
}

bool is_status(std::uint8_t code) noexcept { return code <= 0x1 || (code >= 0x8 && code <= 0xE); }

}  // namespace

const char* text(MotorStatus status) noexcept {
  switch (status) {
    case MotorStatus::disabled:
      return "disabled";
    case MotorStatus::enabled:
      return "enabled";
    case MotorStatus::over_voltage:
      return "the supply's voltage is too high";
    case MotorStatus::under_voltage:
      return "the supply's voltage is too low";
    case MotorStatus::over_current:
      return "it draws too much current";
    case MotorStatus::driver_hot:
      return "its driver is too hot";
    case MotorStatus::rotor_hot:
      return "its rotor is too hot";
    case MotorStatus::link_lost:
      return "it got no commands for longer than its timeout";
    case MotorStatus::overload:
      return "it is overloaded";
  }
  return "unknown status";
}

bool encode_mit(std::uint32_t id, const MitCommand& command, const MitRanges& ranges,
                CanFrame& frame) noexcept {
  if (!std::isfinite(command.position) || !std::isfinite(command.velocity) || !std::isfinite(command.kp) ||
      !std::isfinite(command.kd) || !std::isfinite(command.torque)) {
    return false;
  }
  const std::uint32_t position = to_code(command.position, -ranges.position, ranges.position, kPositionBits);
  const std::uint32_t velocity = to_code(command.velocity, -ranges.velocity, ranges.velocity, kBits);
  const std::uint32_t kp = to_code(command.kp, 0.0, kKpMax, kBits);
  const std::uint32_t kd = to_code(command.kd, 0.0, kKdMax, kBits);
  const std::uint32_t torque = to_code(command.torque, -ranges.torque, ranges.torque, kBits);
  frame = CanFrame{};
  frame.id = id;
  frame.length = kCanDataBytes;
  frame.data = {byte_of(position, 8),
                byte_of(position, 0),
                byte_of(velocity, 4),
                byte_of(velocity << 4U | kp >> 8U, 0),
                byte_of(kp, 0),
                byte_of(kd, 4),
                byte_of(kd << 4U | torque >> 8U, 0),
                byte_of(torque, 0)};
  return true;
}

bool decode_mit(const CanFrame& frame, const MitRanges& ranges, MitCommand& command) noexcept {
  const auto& data = frame.data;
  const bool all_ones =
      std::all_of(data.begin(), data.begin() + kCommandFill, [](auto byte) { return byte == 0xFF; });
  if (!is_plain(frame) ||
      (all_ones && data[kCommandFill] >= static_cast<std::uint8_t>(MotorCommand::clear_error) &&
       data[kCommandFill] <= static_cast<std::uint8_t>(MotorCommand::set_zero))) {
    return false;
  }
  const auto at = [&data](std::size_t i) { return static_cast<std::uint32_t>(data[i]); };
  command.position = from_code(at(0) << 8U | at(1), -ranges.position, ranges.position, kPositionBits);
  command.velocity = from_code(at(2) << 4U | at(3) >> 4U, -ranges.velocity, ranges.velocity, kBits);
  command.kp = from_code((at(3) & 0xFU) << 8U | at(4), 0.0, kKpMax, kBits);
  command.kd = from_code(at(5) << 4U | at(6) >> 4U, 0.0, kKdMax, kBits);
  command.torque = from_code((at(6) & 0xFU) << 8U | at(7), -ranges.torque, ranges.torque, kBits);
  return true;
}

bool encode_feedback(std::uint32_t id, const MotorFeedback& feedback, const MitRanges& ranges,
                     CanFrame& frame) noexcept {
  if (!std::isfinite(feedback.position) || !std::isfinite(feedback.velocity) ||
      !std::isfinite(feedback.torque) || !std::isfinite(feedback.driver_celsius) ||
      !std::isfinite(feedback.rotor_celsius)) {
    return false;
  }
  const std::uint32_t position = to_code(feedback.position, -ranges.position, ranges.position, kPositionBits);
  const std::uint32_t velocity = to_code(feedback.velocity, -ranges.velocity, ranges.velocity, kBits);
  const std::uint32_t torque = to_code(feedback.torque, -ranges.torque, ranges.torque, kBits);
  const auto celsius = [](double value) { return static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0)); };
  frame = CanFrame{};
  frame.id = id;
  frame.length = kCanDataBytes;
  frame.data = {byte_of(static_cast<std::uint32_t>(feedback.status) << 4U | (feedback.id & 0xFU), 0),
                byte_of(position, 8),
                byte_of(position, 0),
                byte_of(velocity, 4),
                byte_of(velocity << 4U | torque >> 8U, 0),
                byte_of(torque, 0),
                celsius(feedback.driver_celsius),
                celsius(feedback.rotor_celsius)};
  return true;
}

bool decode_feedback(const CanFrame& frame, const MitRanges& ranges, MotorFeedback& feedback) noexcept {
  const auto status = static_cast<std::uint8_t>(frame.data[0] >> 4U);
  if (!is_plain(frame) || !is_status(status)) {
    return false;
  }
  const auto at = [&frame](std::size_t i) { return static_cast<std::uint32_t>(frame.data[i]); };
  feedback.id = frame.data[0] & 0xFU;
  feedback.status = static_cast<MotorStatus>(status);
  feedback.position = from_code(at(1) << 8U | at(2), -ranges.position, ranges.position, kPositionBits);
  feedback.velocity = from_code(at(3) << 4U | at(4) >> 4U, -ranges.velocity, ranges.velocity, kBits);
  feedback.torque = from_code((at(4) & 0xFU) << 8U | at(5), -ranges.torque, ranges.torque, kBits);
  feedback.driver_celsius = at(6);
  feedback.rotor_celsius = at(7);
  return true;
}

CanFrame command_frame(std::uint32_t id, MotorCommand command) noexcept {
  CanFrame frame;
  frame.id = id;
  frame.length = kCanDataBytes;
  frame.data.fill(0xFF);
  frame.data[kCommandFill] = static_cast<std::uint8_t>(command);
  return frame;
}

CanFrame register_frame(std::uint32_t id, RegisterAction action, std::uint8_t address,
                        std::uint32_t value) noexcept {
  CanFrame frame;
  frame.id = kRegisterId;
  frame.length = kCanDataBytes;
  frame.data[0] = byte_of(id, 0);
  frame.data[1] = byte_of(id, 8);
  frame.data[2] = static_cast<std::uint8_t>(action);
  if (action != RegisterAction::refresh) {
    frame.data[3] = address;
  }
  if (action == RegisterAction::write) {
    for (unsigned i = 0; i < 4; ++i) {
      frame.data[4 + i] = byte_of(value, 8 * i);
    }
  }
  return frame;
}

bool decode_register_reply(const CanFrame& frame, std::uint32_t id, RegisterReply& reply) noexcept {
  const auto& data = frame.data;
  // A save is answered with fewer bytes.
  const bool is_save = data[2] == static_cast<std::uint8_t>(RegisterAction::save);
  if (frame.extended || frame.remote || frame.length < (is_save ? 3 : kCanDataBytes) ||
      data[0] != byte_of(id, 0) || data[1] != byte_of(id, 8)) {
    return false;
  }
  if (!is_save && data[2] != static_cast<std::uint8_t>(RegisterAction::read) &&
      data[2] != static_cast<std::uint8_t>(RegisterAction::write)) {
    return false;
  }
  reply.action = static_cast<RegisterAction>(data[2]);
  reply.address = is_save ? 0 : data[3];
  reply.value = 0;
  if (!is_save) {
    for (unsigned i = 0; i < 4; ++i) {
      reply.value |= static_cast<std::uint32_t>(data[4 + i]) << (8 * i);
    }
  }
  return true;
}

}  // namespace molmoact2::bus
