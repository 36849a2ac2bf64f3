// A servo model is a table: where its registers lie, how wide they are, how they write a negative number.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "bus/feetech/packet.h"

namespace molmoact2::bus::feetech {

enum class Storage : std::uint8_t {
  fixed,   // cannot be written
  eeprom,  // kept without power where `lock` is 0; written with the torque off
  ram,     // lost without power
};

struct Register {
  std::string_view name;
  std::uint8_t address;
  std::uint8_t size;  // bytes, little endian
  Storage storage;
  std::uint8_t sign_bit = 0;  // 0: never negative

  std::int32_t decode(std::span<const std::uint8_t> bytes) const noexcept;
  // `bytes` has `size` of them. A value that the register cannot hold saturates.
  void encode(std::int32_t value, std::span<std::uint8_t> bytes) const noexcept;
  std::int32_t lowest() const noexcept;
  std::int32_t highest() const noexcept;
};

struct BaudCode {
  int baud;
  std::uint8_t code;
};

struct ServoModel {
  std::string_view name;
  std::uint16_t number;
  int resolution;  // ticks a turn
  std::span<const Register> registers;
  std::span<const BaudCode> bauds;  // fastest first

  // nullptr: this model has none of that name.
  const Register* find(std::string_view register_name) const noexcept;
};

// STS3215, of which the SO-100 and the SO-101 have six.
const ServoModel& sts3215() noexcept;

// nullptr: not known here.
const ServoModel* model_of(std::uint16_t number) noexcept;

}  // namespace molmoact2::bus::feetech
