// A port whose robot is software in this process: the simulator, an emulator, a driver written in Python.
#pragma once

#include <atomic>

#include "control/port.h"
#include "control/seqlock.h"

namespace molmoact2::control {

class MailboxPort final : public Port {
 public:
  explicit MailboxPort(std::size_t joint_count) noexcept : joint_count_(joint_count) {}

  std::size_t joint_count() const noexcept override { return joint_count_; }

  // The loop's side.
  PortStatus read(MeasuredState& state) noexcept override {
    const std::uint64_t publication = state_.load(state);
    if (publication != 0) {
      received_ = true;
      return PortStatus::ok;
    }
    // A write caught half-way is no failure: the loop keeps the state before it and judges its age.
    return received_ ? PortStatus::ok : PortStatus::no_data;
  }
  PortStatus write(const Command& command) noexcept override {
    if (!accepting_.load(std::memory_order_acquire)) {
      return PortStatus::failed;
    }
    command_.store(command);
    return PortStatus::ok;
  }

  // The robot's side: one thread publishes, one takes.
  void publish_state(const MeasuredState& state) noexcept { state_.store(state); }
  // False: its wire is down, so that the loop's commands are lost, and the loop is told so.
  void accept(bool accepting) noexcept { accepting_.store(accepting, std::memory_order_release); }
  // True when a command was written since the last one taken; the newest is taken, older ones are dropped.
  bool take_command(Command& command) noexcept {
    Command newest;
    const std::uint64_t publication = command_.load(newest);
    if (publication == 0 || publication == taken_) {
      return false;
    }
    taken_ = publication;
    command = newest;
    return true;
  }

 private:
  std::size_t joint_count_;
  Seqlock<MeasuredState> state_;
  Seqlock<Command> command_;
  std::atomic<bool> accepting_{true};
  bool received_ = false;    // loop side only
  std::uint64_t taken_ = 0;  // robot side only
};

}  // namespace molmoact2::control
