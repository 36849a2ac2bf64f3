// One or two arms of Damiao motors as the loop sees them: joints in their own units, one or two CAN buses in
// step.
//
// Who may use the wire is one flag. The loop only tries for it, and goes on without where it is taken; a
// thread of the driver's (the keeper) and the driver's requests wait for it. The keeper answers for the
// motors while no loop runs: it repeats the last target before their timeout, keeps the state fresh, and
// opens lost links again.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bus/can/can_link.h"
#include "bus/damiao/damiao_codec.h"
#include "bus/damiao/damiao_options.h"
#include "bus/damiao/motor_watch.h"
#include "control/port.h"
#include "control/seqlock.h"

namespace molmoact2::bus {

enum class DriveMode : std::uint8_t {
  listen,  // motors are asked for their state, nothing else
  follow,  // position control; targets of the loop are taken
  hold,    // position control at the last target; targets are refused
  damp,    // motion is braked, positions are free
};

constexpr bool drives(DriveMode mode) noexcept { return mode != DriveMode::listen; }
constexpr bool positions(DriveMode mode) noexcept {
  return mode == DriveMode::follow || mode == DriveMode::hold;
}

struct MotorReport {
  double position = 0.0;  // in the joint's unit
  double velocity = 0.0;  // units a second
  double torque = 0.0;    // Nm, of the motor
  double driver_celsius = 0.0;
  double rotor_celsius = 0.0;
  control::Nanoseconds time = 0;  // of the feedback; 0: none yet
  std::uint64_t doubted = 0;      // feedbacks that nobody could believe
  MotorStatus status = MotorStatus::disabled;
  bool faulted = false;  // latched: it switched itself off while it was driven, with `fault`
  bool silent = false;   // latched: it did not answer for longer than `silence` while it was driven
  MotorStatus fault = MotorStatus::disabled;
};

struct DamiaoReport {
  DriveMode mode = DriveMode::listen;
  std::uint64_t exchanges = 0;
  std::uint64_t unanswered = 0;  // motors that an exchange ended without
  std::array<MotorReport, control::kMaxJoints> motors{};
};

struct BusReport {
  std::string path;
  bool open = false;
  CanHealth health = CanHealth::active;
  std::uint64_t malformed = 0;
  std::string error;  // why the last attempt to open it failed; empty once it is open
};

class DamiaoPort final : public control::Port {
 public:
  // `options` must pass check() for that many links. Opens nothing.
  DamiaoPort(std::vector<std::unique_ptr<CanLink>> links, DamiaoOptions options);
  DamiaoPort(const DamiaoPort&) = delete;
  DamiaoPort& operator=(const DamiaoPort&) = delete;
  ~DamiaoPort() override;

  // --- the loop's thread ---

  std::size_t joint_count() const noexcept override { return options_.joints.size(); }
  // `failed` where a link is lost. The state's time is the oldest feedback's. Asks the motors itself where
  // nothing was written since the last read.
  control::PortStatus read(control::MeasuredState& state) noexcept override;
  // Sends every motor its target and gathers the answers. `failed` in any mode but follow, where a number is
  // not finite, where a link is lost, and from the moment on when a motor has switched itself off; the others
  // are still told their targets then.
  control::PortStatus write(const control::Command& command) noexcept override;

  // --- threads of the driver: these wait ---

  // Opens every link and starts the keeper. False, and why, where a link does not open; then all are closed.
  bool open(std::string& error);
  // Stops the keeper and closes the links; motors that are driven notice by their own timeout.
  void close();

  // Entering follow or hold keeps the arm where it is: the target is the measured pose, and the stiffness
  // grows from nothing where the motors were free before. False where not every motor has been heard from.
  bool set_mode(DriveMode mode);
  DriveMode mode() const noexcept { return mode_.load(std::memory_order_acquire); }
  // Until the motor says that it did. False where it does not, or does not answer. A motor that is switched
  // on while others are driven keeps its pose, with a stiffness that grows from nothing.
  bool command(std::size_t joint, MotorCommand command);
  bool read_register(std::size_t joint, std::uint8_t address, std::uint32_t& value);
  // False as well where the motor answers with another value.
  bool write_register(std::size_t joint, std::uint8_t address, std::uint32_t value);
  // What was written to the register is kept over a power cycle.
  bool save_register(std::size_t joint, std::uint8_t address);
  // Forgets latched faults; those that are still there are latched anew.
  void clear_faults();

  // --- any thread ---

  // Nothing heard yet: all zero.
  DamiaoReport report() const noexcept;
  std::vector<BusReport> buses() const;

 private:
  using FrameArray = std::array<CanFrame, control::kMaxJoints>;
  class Wire;  // holds the flag

  // What a request of the driver waits for.
  struct Question {
    enum class About : std::uint8_t { nothing, command, reg };
    About about = About::nothing;
    std::size_t joint = 0;
    MotorCommand command = MotorCommand::enable;
    RegisterAction action = RegisterAction::read;
    std::uint8_t address = 0;
    bool answered = false;
    std::uint32_t value = 0;  // of the register
  };

  bool try_wire() noexcept { return !wire_.exchange(true, std::memory_order_acquire); }
  void release_wire() noexcept { wire_.store(false, std::memory_order_release); }

  // These need the wire.
  void exchange(control::Nanoseconds now) noexcept;
  void ask(control::Nanoseconds now) noexcept;
  void gather(control::Nanoseconds deadline) noexcept;
  void drain() noexcept;
  void take(std::size_t bus, const CanFrame& frame) noexcept;
  void judge(std::size_t joint) noexcept;
  void publish() noexcept;
  bool any_fault() const noexcept;
  bool all_open() const noexcept;
  bool answers(const MotorFeedback& feedback) const noexcept;
  // Sends `frame` until what question_ waits for is here; true then.
  bool converse(const CanFrame& frame);

  double to_unit(std::size_t joint, double radians) const noexcept {
    return options_.joints[joint].scale * radians + options_.joints[joint].offset;
  }
  double to_radians(std::size_t joint, double value) const noexcept {
    return (value - options_.joints[joint].offset) / options_.joints[joint].scale;
  }

  void keep();
  void reopen_lost();
  void note_silence(control::Nanoseconds now) noexcept;

  DamiaoOptions options_;
  std::vector<std::unique_ptr<CanLink>> links_;
  std::atomic<bool> wire_{false};
  std::atomic<DriveMode> mode_{DriveMode::listen};  // changed with the wire
  std::atomic<control::Nanoseconds> loop_seen_{0};
  std::atomic<control::Nanoseconds> driven_since_{0};  // or since the faults were cleared

  // With the wire.
  std::vector<MotorWatch> motors_;
  std::array<double, control::kMaxJoints> targets_{};  // rad
  std::array<bool, control::kMaxJoints> awaited_{};
  std::array<std::size_t, kMaxBuses> pending_{};
  std::array<int, control::kMaxJoints> found_disabled_{};  // feedbacks in a row
  std::array<FrameArray, kMaxBuses> frames_{};
  std::array<control::Nanoseconds, control::kMaxJoints> ramp_begin_{};
  bool written_ = false;  // since the last read
  DamiaoReport report_;
  Question question_;

  control::Seqlock<DamiaoReport> published_;

  mutable std::mutex keeper_mutex_;
  std::condition_variable keeper_wakes_;
  bool keeping_ = false;
  std::vector<std::string> open_errors_;  // of each bus
  std::thread keeper_;
};

}  // namespace molmoact2::bus
