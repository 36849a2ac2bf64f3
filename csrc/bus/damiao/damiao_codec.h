// What Damiao motors say and understand on CAN: MIT control frames, feedback, four commands, and registers.
// Pure functions over eight bytes; sources: Damiao's manual of the DM-J43 series, checked against LeRobot
// 0.4.4's codec.
#pragma once

#include <array>
#include <cstdint>

#include "bus/can/can_link.h"

namespace molmoact2::bus {

// Full scale of a motor's MIT frames: its registers 21 to 23. A wrong one scales every target and every
// reading without any error.
struct MitRanges {
  double position = 12.5;  // rad
  double velocity = 30.0;  // rad/s
  double torque = 10.0;    // Nm
};

inline constexpr double kKpMax = 500.0;  // Nm/rad
inline constexpr double kKdMax = 5.0;    // Nm s/rad
inline constexpr std::uint32_t kRegisterId = 0x7FF;

// torque = kp (position - measured) + kd (velocity - measured) + torque
struct MitCommand {
  double position = 0.0;  // rad
  double velocity = 0.0;  // rad/s
  double kp = 0.0;
  double kd = 0.0;
  double torque = 0.0;  // Nm
};

// The upper half of a feedback's first byte.
enum class MotorStatus : std::uint8_t {
  disabled = 0x0,
  enabled = 0x1,
  over_voltage = 0x8,
  under_voltage = 0x9,
  over_current = 0xA,
  driver_hot = 0xB,
  rotor_hot = 0xC,
  link_lost = 0xD,
  overload = 0xE,
};

// Whether the motor has switched itself off, and stays so until its error is cleared.
constexpr bool is_error(MotorStatus status) noexcept {
  return status != MotorStatus::disabled && status != MotorStatus::enabled;
}
// One clause for a person.
const char* text(MotorStatus status) noexcept;

struct MotorFeedback {
  std::uint8_t id = 0;  // the lower half of the motor's id
  MotorStatus status = MotorStatus::disabled;
  double position = 0.0;  // rad
  double velocity = 0.0;  // rad/s
  double torque = 0.0;    // Nm
  double driver_celsius = 0.0;
  double rotor_celsius = 0.0;
};

enum class MotorCommand : std::uint8_t { clear_error = 0xFB, enable = 0xFC, disable = 0xFD, set_zero = 0xFE };

// False, leaving `frame` alone, where a number is not finite; numbers out of range become the range's ends.
bool encode_mit(std::uint32_t id, const MitCommand& command, const MitRanges& ranges,
                CanFrame& frame) noexcept;
// For motors that are software, and for tests. False where the frame is a command or not of eight bytes.
bool decode_mit(const CanFrame& frame, const MitRanges& ranges, MitCommand& command) noexcept;

bool encode_feedback(std::uint32_t id, const MotorFeedback& feedback, const MitRanges& ranges,
                     CanFrame& frame) noexcept;
// False where the frame cannot be a feedback: not of eight bytes, or a status that motors do not have.
bool decode_feedback(const CanFrame& frame, const MitRanges& ranges, MotorFeedback& feedback) noexcept;

CanFrame command_frame(std::uint32_t id, MotorCommand command) noexcept;

// --- registers: a value is four bytes, little endian, of a float or an unsigned number ---

enum class RegisterAction : std::uint8_t { read = 0x33, write = 0x55, save = 0xAA, refresh = 0xCC };

// To all motors, meant for `id`; `value` counts for writing only. A refresh asks for a feedback.
CanFrame register_frame(std::uint32_t id, RegisterAction action, std::uint8_t address,
                        std::uint32_t value) noexcept;

struct RegisterReply {
  RegisterAction action = RegisterAction::read;
  std::uint8_t address = 0;
  std::uint32_t value = 0;  // of a save's reply: 0
};

// Whether the frame answers such a question to `id`. A feedback can look like a reply only where its motor is
// disabled and stands within 0.3 % of the lower end of its range.
bool decode_register_reply(const CanFrame& frame, std::uint32_t id, RegisterReply& reply) noexcept;

}  // namespace molmoact2::bus
