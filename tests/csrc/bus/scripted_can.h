// A CAN bus with motors that do what a test says; it takes no memory and no time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "bus/can/can_link.h"
#include "bus/damiao/damiao_codec.h"

namespace molmoact2::bus {

struct ScriptedMotor {
  std::atomic<bool> present{true};
  bool obeys = true;  // commands
  MotorFeedback feedback;
  MitCommand last;            // the last MIT frame's, as the motor decodes it
  std::size_t commanded = 0;  // MIT frames
  std::size_t refreshed = 0;
  std::array<std::uint32_t, 64> registers{};
};

// Motors 1 to 7 with the ranges of a DM4310; each answers at once, under its id + 0x10.
class ScriptedCan final : public CanLink {
 public:
  static constexpr MitRanges kRanges{12.5, 30.0, 10.0};
  static constexpr std::size_t kMotors = 7;

  ScriptedCan() {
    for (std::size_t i = 0; i < kMotors; ++i) {
      motors[i].feedback.id = static_cast<std::uint8_t>(i + 1);
      motors[i].feedback.driver_celsius = 30.0;
      motors[i].feedback.rotor_celsius = 31.0;
    }
  }

  bool open(std::string& error) noexcept override {
    ++openings;
    if (gone.load()) {
      error = "no such adapter";
      return false;
    }
    open_.store(true);
    return true;
  }
  void close() noexcept override { open_.store(false); }
  bool is_open() const noexcept override { return open_.load(); }

  LinkStatus send(std::span<const CanFrame> frames, control::Nanoseconds) noexcept override {
    if (!usable()) return LinkStatus::lost;
    for (const CanFrame& frame : frames) {
      ++sent;
      answer(frame);
    }
    return LinkStatus::ok;
  }

  LinkStatus receive(CanFrame& frame, control::Nanoseconds) noexcept override {
    if (!usable()) return LinkStatus::lost;
    if (begin_ == end_) return LinkStatus::timed_out;
    frame = queue_[begin_++ % queue_.size()];
    return LinkStatus::ok;
  }

  CanHealth health() const noexcept override { return CanHealth::active; }
  std::uint64_t malformed() const noexcept override { return 0; }
  const std::string& path() const noexcept override { return path_; }

  void push(const CanFrame& frame) noexcept { queue_[end_++ % queue_.size()] = frame; }

  std::array<ScriptedMotor, kMotors> motors;
  control::Nanoseconds stamp = 0;  // of answers; 0: now
  std::atomic<bool> gone{false};
  std::atomic<int> openings{0};
  std::size_t sent = 0;

 private:
  bool usable() noexcept {
    if (gone.load()) open_.store(false);
    return open_.load();
  }

  void answer(const CanFrame& frame) noexcept {
    const bool about_register = frame.id == kRegisterId;
    const std::uint32_t id = about_register ? frame.data[0] : frame.id;
    if (id < 1 || id > kMotors || !motors[id - 1].present) return;
    ScriptedMotor& motor = motors[id - 1];
    const auto action = static_cast<RegisterAction>(frame.data[2]);
    if (about_register && action != RegisterAction::refresh) {
      answer_register(motor, id, frame, action);
      return;
    }
    if (about_register) {
      ++motor.refreshed;
    } else if (decode_mit(frame, kRanges, motor.last)) {
      ++motor.commanded;
    } else if (motor.obeys) {
      obey(motor, static_cast<MotorCommand>(frame.data[7]));
    }
    CanFrame feedback;
    encode_feedback(id + 0x10, motor.feedback, kRanges, feedback);
    feedback.time = stamp != 0 ? stamp : control::monotonic_now();
    push(feedback);
  }

  void answer_register(ScriptedMotor& motor, std::uint32_t id, const CanFrame& frame,
                       RegisterAction action) noexcept {
    CanFrame reply = frame;
    reply.id = id + 0x10;
    std::uint32_t& value = motor.registers[frame.data[3]];
    if (action == RegisterAction::save) {
      reply.length = 4;
    } else if (action == RegisterAction::write && motor.obeys) {
      value = static_cast<std::uint32_t>(frame.data[4]) | static_cast<std::uint32_t>(frame.data[5]) << 8U |
              static_cast<std::uint32_t>(frame.data[6]) << 16U |
              static_cast<std::uint32_t>(frame.data[7]) << 24U;
    }
    for (unsigned i = 0; i < 4 && action != RegisterAction::save; ++i) {
      reply.data[4 + i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
    push(reply);
  }

  static void obey(ScriptedMotor& motor, MotorCommand command) noexcept {
    MotorStatus& status = motor.feedback.status;
    if (command == MotorCommand::enable && status == MotorStatus::disabled) status = MotorStatus::enabled;
    if (command == MotorCommand::disable && status == MotorStatus::enabled) status = MotorStatus::disabled;
    if (command == MotorCommand::clear_error && is_error(status)) status = MotorStatus::disabled;
    if (command == MotorCommand::set_zero) motor.feedback.position = 0.0;
  }

  std::atomic<bool> open_{false};
  std::array<CanFrame, 256> queue_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::string path_ = "scripted";
};

}  // namespace molmoact2::bus
