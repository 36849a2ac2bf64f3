#include "bus/feetech/servo_model.h"

#include <algorithm>
#include <array>

namespace molmoact2::bus::feetech {

namespace {

// Feetech's memory table of the STS series, names as LeRobot has them.
constexpr std::array kStsRegisters = {
    Register{"firmware_major_version", 0, 1, Storage::fixed},
    Register{"firmware_minor_version", 1, 1, Storage::fixed},
    Register{"model_number", 3, 2, Storage::fixed},
    Register{"id", 5, 1, Storage::eeprom},
    Register{"baud_rate", 6, 1, Storage::eeprom},
    Register{"return_delay_time", 7, 1, Storage::eeprom},
    Register{"response_status_level", 8, 1, Storage::eeprom},
    Register{"min_position_limit", 9, 2, Storage::eeprom},
    Register{"max_position_limit", 11, 2, Storage::eeprom},
    Register{"max_temperature_limit", 13, 1, Storage::eeprom},
    Register{"max_voltage_limit", 14, 1, Storage::eeprom},
    Register{"min_voltage_limit", 15, 1, Storage::eeprom},
    Register{"max_torque_limit", 16, 2, Storage::eeprom},
    Register{"phase", 18, 1, Storage::eeprom},
    Register{"unloading_condition", 19, 1, Storage::eeprom},
    Register{"led_alarm_condition", 20, 1, Storage::eeprom},
    Register{"p_coefficient", 21, 1, Storage::eeprom},
    Register{"d_coefficient", 22, 1, Storage::eeprom},
    Register{"i_coefficient", 23, 1, Storage::eeprom},
    Register{"minimum_startup_force", 24, 2, Storage::eeprom},
    Register{"cw_dead_zone", 26, 1, Storage::eeprom},
    Register{"ccw_dead_zone", 27, 1, Storage::eeprom},
    Register{"protection_current", 28, 2, Storage::eeprom},
    Register{"angular_resolution", 30, 1, Storage::eeprom},
    Register{"homing_offset", 31, 2, Storage::eeprom, 11},
    Register{"operating_mode", 33, 1, Storage::eeprom},
    Register{"protective_torque", 34, 1, Storage::eeprom},
    Register{"protection_time", 35, 1, Storage::eeprom},
    Register{"overload_torque", 36, 1, Storage::eeprom},
    Register{"velocity_p_coefficient", 37, 1, Storage::eeprom},
    Register{"over_current_protection_time", 38, 1, Storage::eeprom},
    Register{"velocity_i_coefficient", 39, 1, Storage::eeprom},
    Register{"torque_enable", 40, 1, Storage::ram},
    Register{"acceleration", 41, 1, Storage::ram},
    Register{"goal_position", 42, 2, Storage::ram, 15},
    Register{"goal_time", 44, 2, Storage::ram},
    Register{"goal_velocity", 46, 2, Storage::ram, 15},
    Register{"torque_limit", 48, 2, Storage::ram},
    Register{"lock", 55, 1, Storage::ram},
    Register{"present_position", 56, 2, Storage::fixed, 15},
    Register{"present_velocity", 58, 2, Storage::fixed, 15},
    Register{"present_load", 60, 2, Storage::fixed, 10},
    Register{"present_voltage", 62, 1, Storage::fixed},
    Register{"present_temperature", 63, 1, Storage::fixed},
    Register{"status", 65, 1, Storage::fixed},
    Register{"moving", 66, 1, Storage::fixed},
    Register{"present_current", 69, 2, Storage::fixed, 15},
    Register{"maximum_acceleration", 85, 1, Storage::ram},
};

// Sources disagree on the codes from 5 on; these are LeRobot's.
constexpr std::array kStsBauds = {
    BaudCode{1'000'000, 0}, BaudCode{500'000, 1}, BaudCode{250'000, 2}, BaudCode{128'000, 3},
    BaudCode{115'200, 4},   BaudCode{57'600, 5},  BaudCode{38'400, 6},  BaudCode{19'200, 7},
};

constexpr ServoModel kSts3215{"sts3215", 777, 4096, kStsRegisters, kStsBauds};

}  // namespace

std::int32_t Register::decode(std::span<const std::uint8_t> bytes) const noexcept {
  std::uint32_t encoded = 0;
  for (std::size_t i = 0; i < size; ++i) {
    encoded |= static_cast<std::uint32_t>(bytes[i]) << (8U * i);
  }
  return sign_bit == 0 ? static_cast<std::int32_t>(encoded) : decode_sign_magnitude(encoded, sign_bit);
}

void Register::encode(std::int32_t value, std::span<std::uint8_t> bytes) const noexcept {
  const std::int32_t held = std::clamp(value, lowest(), highest());
  const std::uint32_t encoded =
      sign_bit == 0 ? static_cast<std::uint32_t>(held) : encode_sign_magnitude(held, sign_bit);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::uint8_t>(encoded >> (8U * i) & 0xFFU);
  }
}

std::int32_t Register::highest() const noexcept {
  return static_cast<std::int32_t>((1U << (sign_bit == 0 ? 8U * size : sign_bit)) - 1U);
}

std::int32_t Register::lowest() const noexcept { return sign_bit == 0 ? 0 : -highest(); }

const Register* ServoModel::find(std::string_view register_name) const noexcept {
  const auto found = std::ranges::find(registers, register_name, &Register::name);
  return found == registers.end() ? nullptr : &*found;
}

const ServoModel& sts3215() noexcept { return kSts3215; }

const ServoModel* model_of(std::uint16_t number) noexcept {
  return number == kSts3215.number ? &kSts3215 : nullptr;
}

}  // namespace molmoact2::bus::feetech
