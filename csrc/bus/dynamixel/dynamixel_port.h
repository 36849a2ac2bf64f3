// The control loop's way to an arm of Dynamixel X servos: one block read of all of them, one write of all
// goals.
//
// The driver sets every servo's indirect addresses so that `kBlockBytes` lie together (see BlockField), and
// keeps a thread in attend(): the loop's thread only says that something is wrong, mending it takes time that
// it has not.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bus/dynamixel/dynamixel_bus.h"
#include "control/port.h"
#include "control/seqlock.h"

namespace molmoact2::bus::dynamixel {

// Offsets in the block that is read of each servo.
enum class BlockField : std::uint8_t {
  position = 0,         // 4 bytes, signed
  velocity = 4,         // 4 bytes, signed
  current = 8,          // 2 bytes, signed; in some models the load instead
  temperature = 10,     // degrees Celsius
  hardware_error = 11,  // bits
  bus_watchdog = 12,    // 255: it has fired, and the servo takes no goals
  return_level = 13,    // another one than kReturnLevel: its indirect addresses are not those that were set
  goal = 14,            // the low 2 bytes of the goal position: whether the last one was taken
};
inline constexpr std::size_t kBlockBytes = 16;
inline constexpr std::uint8_t kWatchdogFired = 0xFF;
// Answers to everything. The driver sets it; where a servo has lost its settings, 0 stands in the block
// instead.
inline constexpr std::uint8_t kReturnLevel = 2;
inline constexpr std::uint16_t kGoalPositionAddress = 116;  // in every X servo

struct ServoJoint {
  std::uint8_t id = 0;
  std::uint16_t block_address = 0;  // where its block lies
  double zero_ticks = 0.0;          // the raw position of 0
  double units_per_tick = 0.0;      // not 0
  std::int32_t ticks_min = 0;       // goals beyond are moved to the nearest
  std::int32_t ticks_max = 0;
  bool clamp_measured = false;      // measured positions too, as LeRobot does with a gripper
  double velocity_per_count = 0.0;  // of the joint's unit a second
  double amperes_per_count = 0.0;   // NaN: it measures no current
  std::uint8_t fatal_errors = 0;    // bits of the hardware error with which it lets go
};

struct PortOptions {
  BlockRead way = BlockRead::sync;
  control::Nanoseconds read_limit = 0;   // for reading in a tick, retries included
  control::Nanoseconds write_limit = 0;  // for handing a command to the kernel
};

// What the loop's thread cannot mend. Each but the last two ends reading and writing until resume().
enum class Trouble : std::uint8_t {
  none,
  link_lost,
  servo_reset,     // it lost power, and with it its settings and its torque
  hardware_error,  // one with which it lets go
  watchdog_fired,  // nobody spoke to it for too long: it stands still and takes no goals
  silent,          // some servo has not answered for too long; the port goes on asking
  dismissed,       // nobody needs attend() any more
};

// The newest of each joint.
struct ServoStates {
  control::JointVector positions{};
  control::JointVector velocities{};
  control::JointVector currents{};  // NaN where there is no such sensor
  control::JointVector temperatures{};
  std::array<control::Nanoseconds, control::kMaxJoints> times{};  // 0: never read
  std::array<std::uint8_t, control::kMaxJoints> hardware_errors{};
};

class DynamixelPort final : public control::Port {
 public:
  // 1 to kMaxServos joints with different ids.
  DynamixelPort(std::shared_ptr<DynamixelBus> bus, std::vector<ServoJoint> joints,
                const PortOptions& options);

  // --- the loop's thread ---

  std::size_t joint_count() const noexcept override { return joints_.size(); }
  // Retries at once while the time allows it, asking only those that did not answer. The state's time is that
  // of the joint heard longest ago.
  control::PortStatus read(control::MeasuredState& state) noexcept override;
  // Not answered by the servos: `failed` also where the last read showed that the goals before were not
  // taken.
  control::PortStatus write(const control::Command& command) noexcept override;

  // --- any other thread ---

  // What was read last; false where some joint never was.
  bool latest(ServoStates& states) const noexcept;
  // Reads unless that has been done within `age_max`. May wait.
  bool refresh(ServoStates& states, control::Nanoseconds age_max) noexcept;

  // Waits until something is wrong or dismiss() is called. Where nobody reads for `idle_max` it does so
  // itself, so that the servos' watchdogs are fed while no loop runs; `silence_max` is how long a servo may
  // be silent.
  Trouble attend(control::Nanoseconds idle_max, control::Nanoseconds silence_max) noexcept;
  void dismiss() noexcept { dismissed_.store(true, std::memory_order_release); }

  Trouble trouble() const noexcept { return trouble_.load(std::memory_order_acquire); }
  // Ends reading and writing. The first trouble stays.
  void suspend(Trouble trouble) noexcept;
  // After all is mended: the goals that count are those written from now on.
  void resume() noexcept;

  // Bits seen since the last resume(), also those that are no trouble. `joint` is below joint_count().
  std::uint8_t hardware_errors(std::size_t joint) const noexcept {
    return hardware_errors_[joint].load(std::memory_order_relaxed);
  }
  // Times that a goal turned out not to have been taken by a servo.
  std::uint64_t lost_goals() const noexcept { return lost_goals_.load(std::memory_order_relaxed); }
  const std::vector<ServoJoint>& joints() const noexcept { return joints_; }
  DynamixelBus& bus() noexcept { return *bus_; }

 private:
  // With the turn: reads all blocks within `limit`; true when any came.
  bool read_all(control::Nanoseconds limit) noexcept;
  void take(std::size_t index, const Block& block) noexcept;
  bool complete() const noexcept;

  std::shared_ptr<DynamixelBus> bus_;
  std::vector<ServoJoint> joints_;
  PortOptions options_;

  // Whoever has the turn.
  std::array<Block, kMaxServos> blocks_{};
  ServoStates states_;
  std::array<std::int32_t, kMaxServos> goals_{};
  bool goals_written_ = false;
  bool goals_taken_ = true;

  control::Seqlock<ServoStates> published_;
  std::atomic<control::Nanoseconds> last_read_{0};
  std::atomic<Trouble> trouble_{Trouble::none};
  std::atomic<bool> dismissed_{false};
  std::atomic<std::uint64_t> lost_goals_{0};
  std::array<std::atomic<std::uint8_t>, kMaxServos> hardware_errors_{};
};

}  // namespace molmoact2::bus::dynamixel
