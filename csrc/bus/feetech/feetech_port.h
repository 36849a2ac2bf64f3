// The control thread's face of an arm of Feetech servos: one sync read and one sync write a tick.
//
// Two threads have to do with it: the loop's, which reads and writes and never waits for the other, and the
// driver's (or the one that finds a replugged device), which may do so in between. Whoever has the bus's turn
// owns everything here that is not atomic.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bus/feetech/joint_scale.h"
#include "bus/feetech/servo_bus.h"
#include "bus/feetech/servo_model.h"
#include "control/port.h"
#include "control/seqlock.h"

namespace molmoact2::bus::feetech {

// One joint of the arm: the servo that moves it, and what its registers hold once the driver has configured
// it.
struct JointServo {
  std::uint8_t servo = 1;
  JointScale scale;
  int homing_offset = 0;
};

struct PortOptions {
  std::vector<JointServo> joints;
  const ServoModel* model = &sts3215();
  // Every so many reads ask for velocity, load, voltage, temperature and current as well.
  std::uint32_t block_every = 5;
  // What one read may take with its retries; less than the loop's period.
  control::Nanoseconds read_budget = 6'000'000;
  control::Nanoseconds answer_slack = kAnswerSlack;
};

// Empty where it is usable, otherwise what is wrong.
std::string check(const PortOptions& options);

// Why the arm takes no targets, until the driver has dealt with it.
enum class Trouble : std::uint8_t {
  none,
  unplugged,       // the device went away and did not come back
  protection,      // a servo reports an error with which it drops its torque
  torque_lost,     // a servo was away and came back without torque
  other_servos,    // what was plugged in again is not the arm that went away
  servos_missing,  // the device came back, a servo did not
};

struct TroubleReport {
  Trouble kind = Trouble::none;
  std::uint8_t joint = 0;  // place in PortOptions::joints, where one is to blame
  std::uint8_t errors = 0;
};

// A measurement with everything that the servos tell.
struct ArmState {
  control::MeasuredState measured;
  control::JointVector loads{};     // per cent of the greatest torque, signed
  control::JointVector voltages{};  // volts
};

struct ServoCounters {
  std::atomic<std::uint64_t> answers{0};
  std::atomic<std::uint64_t> misses{0};
  std::atomic<control::Nanoseconds> last_answer{0};
  std::atomic<std::uint8_t> errors{0};  // bits that were ever set, until cleared
};

class FeetechPort final : public control::Port {
 public:
  // `options` must pass check().
  FeetechPort(std::shared_ptr<ServoBus> bus, PortOptions options);

  std::size_t joint_count() const noexcept override { return options_.joints.size(); }

  // --- the loop's thread ---

  // `failed`: the device is gone, or no servo answered. Joints that did not answer keep their position, and
  // the state the time of the joint that was silent for longest.
  control::PortStatus read(control::MeasuredState& state) noexcept override;
  // `failed`: not following, in trouble, a target that is not finite, or the bus is another thread's just
  // now. Nothing was written then.
  control::PortStatus write(const control::Command& command) noexcept override;

  // --- other threads ---

  // From here on commands are written: torque is on and holds the present pose. And no more.
  void follow(bool commands) noexcept { following_.store(commands, std::memory_order_release); }
  bool follows() const noexcept { return following_.load(std::memory_order_acquire); }

  // A measurement of its own, with everything, within `timeout`. False: not every servo has answered.
  bool measure(ArmState& state, control::Nanoseconds timeout) noexcept;
  // Writes targets once, whatever follow() said. False: the device did not take them.
  bool send_targets(const control::JointVector& positions) noexcept;

  bool lost() const noexcept { return lost_.load(std::memory_order_acquire); }
  TroubleReport trouble() const noexcept;
  // Keeps the first trouble.
  void report(TroubleReport report) noexcept;
  // Forgets trouble, errors, and what was measured: the driver has checked every servo.
  void reset() noexcept;

  // Opens a device that went away, and takes it back where all its servos are the same and kept their torque.
  // True: there is nothing more to try (it works, or there is trouble). False: `missing` says what is not
  // there yet. Waits.
  bool reopen(TroubleReport& missing) noexcept;

  const ServoCounters& counters(std::size_t joint) const noexcept { return counters_[joint]; }
  std::uint64_t reconnections() const noexcept { return reconnections_.load(std::memory_order_relaxed); }
  const PortOptions& options() const noexcept { return options_; }
  ServoBus& bus() noexcept { return *bus_; }

 private:
  struct Servo {
    int ticks = 0;
    control::Nanoseconds time = 0;  // of `ticks`; 0: never measured
    std::uint8_t errors = 0;        // of its last answer
    // Was away for so long that it may have been without power. It is sent no goals until its torque was
    // looked at.
    bool doubtful = false;
  };

  // The registers that ticks use, of the model's table.
  struct Registers {
    explicit Registers(const ServoModel& model);
    Register position, load, voltage, temperature, current, goal, torque;
    std::uint8_t block_size;  // from the position to the current
  };

  LinkStatus read_servos(bool block, control::Nanoseconds slack, control::Nanoseconds deadline) noexcept;
  void take(std::size_t joint, const Answer& answer, bool block) noexcept;
  void miss(std::size_t joint, control::Nanoseconds now) noexcept;
  void clear_doubt(std::size_t joint, control::Nanoseconds deadline) noexcept;
  std::size_t joint_of(std::uint8_t servo) const noexcept;
  bool finite(const control::JointVector& positions) const noexcept;
  LinkStatus write_goals(const control::JointVector& positions) noexcept;
  void lose() noexcept { lost_.store(true, std::memory_order_release); }
  LinkStatus read_register(std::uint8_t servo, const Register& where, std::int32_t& value,
                           control::Nanoseconds deadline) noexcept;
  LinkStatus recognize(TroubleReport& found) noexcept;

  std::shared_ptr<ServoBus> bus_;
  PortOptions options_;
  Registers registers_;

  // Owned by whoever has the bus's turn.
  std::vector<Answer> answers_;  // one a servo, in the order in which they are asked
  std::vector<Servo> servos_;
  ArmState state_;
  std::uint32_t reads_ = 0;

  std::unique_ptr<ServoCounters[]> counters_;
  control::Seqlock<control::MeasuredState> published_;
  std::atomic<std::uint64_t> reconnections_{0};
  std::atomic<std::uint32_t> trouble_{0};
  std::atomic<bool> following_{false};
  std::atomic<bool> lost_{false};
};

}  // namespace molmoact2::bus::feetech
