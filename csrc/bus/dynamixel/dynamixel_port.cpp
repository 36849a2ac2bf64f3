#include "bus/dynamixel/dynamixel_port.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

namespace molmoact2::bus::dynamixel {

using control::Command;
using control::MeasuredState;
using control::monotonic_now;
using control::Nanoseconds;
using control::PortStatus;

namespace {

constexpr Nanoseconds kAttendPause = 2'000'000;
constexpr Nanoseconds kTurnLimit = 1'000'000'000;

std::uint32_t unsigned_at(const Block& block, BlockField field, std::size_t size) noexcept {
  std::uint32_t value = 0;
  for (std::size_t i = size; i-- > 0;) {
    value = value << 8U | block.data[static_cast<std::size_t>(field) + i];
  }
  return value;
}

double signed_32(const Block& block, BlockField field) noexcept {
  return static_cast<std::int32_t>(unsigned_at(block, field, 4));
}

double signed_16(const Block& block, BlockField field) noexcept {
  return static_cast<std::int16_t>(unsigned_at(block, field, 2));
}

std::uint8_t byte_at(const Block& block, BlockField field) noexcept {
  return block.data[static_cast<std::size_t>(field)];
}

std::int32_t goal_ticks(const ServoJoint& joint, double position) noexcept {
  const double ticks = std::round(position / joint.units_per_tick + joint.zero_ticks);
  return static_cast<std::int32_t>(
      std::clamp(ticks, static_cast<double>(joint.ticks_min), static_cast<double>(joint.ticks_max)));
}

// Gives the turn back at the end of a block.
class Turn {
 public:
  explicit Turn(DynamixelBus& bus) noexcept : bus_(bus), held_(bus.try_turn()) {}
  Turn(DynamixelBus& bus, Nanoseconds deadline) noexcept : bus_(bus), held_(bus.wait_turn(deadline)) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    if (held_) {
      bus_.give_turn();
    }
  }
  bool held() const noexcept { return held_; }

 private:
  DynamixelBus& bus_;
  bool held_;
};

}  // namespace

DynamixelPort::DynamixelPort(std::shared_ptr<DynamixelBus> bus, std::vector<ServoJoint> joints,
                             const PortOptions& options)
    : bus_(std::move(bus)), joints_(std::move(joints)), options_(options) {
  for (std::size_t i = 0; i < joints_.size(); ++i) {
    blocks_[i].id = joints_[i].id;
    blocks_[i].address = joints_[i].block_address;
  }
}

bool DynamixelPort::complete() const noexcept {
  return std::all_of(states_.times.begin(),
                     states_.times.begin() + static_cast<std::ptrdiff_t>(joints_.size()),
                     [](Nanoseconds time) { return time > 0; });
}

void DynamixelPort::suspend(Trouble trouble) noexcept {
  Trouble none = Trouble::none;
  trouble_.compare_exchange_strong(none, trouble, std::memory_order_acq_rel);
}

void DynamixelPort::resume() noexcept {
  const Turn turn(*bus_, monotonic_now() + kTurnLimit);
  if (turn.held()) {
    goals_written_ = false;
    goals_taken_ = true;
  }
  for (std::atomic<std::uint8_t>& errors : hardware_errors_) {
    errors.store(0, std::memory_order_relaxed);
  }
  dismissed_.store(false, std::memory_order_release);
  trouble_.store(Trouble::none, std::memory_order_release);
}

void DynamixelPort::take(std::size_t index, const Block& block) noexcept {
  const ServoJoint& joint = joints_[index];
  // Without its settings the block holds something else, and no word of it counts.
  if (byte_at(block, BlockField::return_level) != kReturnLevel) {
    suspend(Trouble::servo_reset);
    return;
  }
  const std::uint8_t errors = byte_at(block, BlockField::hardware_error);
  hardware_errors_[index].fetch_or(errors, std::memory_order_relaxed);
  if ((errors & joint.fatal_errors) != 0) {
    suspend(Trouble::hardware_error);
  } else if (byte_at(block, BlockField::bus_watchdog) == kWatchdogFired) {
    suspend(Trouble::watchdog_fired);
  }
  if (goals_written_ &&
      unsigned_at(block, BlockField::goal, 2) != (static_cast<std::uint32_t>(goals_[index]) & 0xFFFFU)) {
    goals_taken_ = false;
    lost_goals_.fetch_add(1, std::memory_order_relaxed);
  }
  double ticks = signed_32(block, BlockField::position);
  if (joint.clamp_measured) {
    ticks = std::clamp(ticks, static_cast<double>(joint.ticks_min), static_cast<double>(joint.ticks_max));
  }
  states_.positions[index] = (ticks - joint.zero_ticks) * joint.units_per_tick;
  states_.velocities[index] = signed_32(block, BlockField::velocity) * joint.velocity_per_count;
  states_.currents[index] = signed_16(block, BlockField::current) * joint.amperes_per_count;
  states_.temperatures[index] = byte_at(block, BlockField::temperature);
  states_.hardware_errors[index] = errors;
  states_.times[index] = block.time;
}

bool DynamixelPort::read_all(Nanoseconds limit) noexcept {
  const std::span<Block> blocks = std::span(blocks_).first(joints_.size());
  for (Block& block : blocks) {
    block.received = false;
  }
  goals_taken_ = true;
  ExchangeStatus status = ExchangeStatus::timed_out;
  std::size_t missing = blocks.size();
  while (true) {
    const Nanoseconds needed = bus_->block_time(options_.way, missing, kBlockBytes);
    status = bus_->read_blocks(options_.way, blocks, kBlockBytes,
                               std::min(limit, monotonic_now() + needed + bus_->slack()));
    missing = missing_blocks(blocks);
    if (status == ExchangeStatus::lost || missing == 0 ||
        monotonic_now() + bus_->block_time(options_.way, missing, kBlockBytes) >= limit) {
      break;
    }
    bus_->count_retry();
  }
  if (status == ExchangeStatus::lost) {
    suspend(Trouble::link_lost);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].received) {
      take(i, blocks[i]);
    }
  }
  last_read_.store(monotonic_now(), std::memory_order_release);
  if (complete()) {
    published_.store(states_);
  }
  return missing < blocks.size();
}

PortStatus DynamixelPort::read(MeasuredState& state) noexcept {
  if (trouble() != Trouble::none) {
    return PortStatus::failed;
  }
  const Turn turn(*bus_);
  if (!turn.held()) {
    return PortStatus::no_data;
  }
  const bool heard = read_all(monotonic_now() + options_.read_limit);
  if (!heard || trouble() != Trouble::none) {
    return PortStatus::failed;
  }
  if (!complete()) {
    return PortStatus::no_data;
  }
  state.positions = states_.positions;
  state.has_temperatures = true;
  state.temperatures = states_.temperatures;
  state.has_currents = true;
  state.currents = states_.currents;
  state.time = *std::min_element(states_.times.begin(),
                                 states_.times.begin() + static_cast<std::ptrdiff_t>(joints_.size()));
  return PortStatus::ok;
}

PortStatus DynamixelPort::write(const Command& command) noexcept {
  if (trouble() != Trouble::none) {
    return PortStatus::failed;
  }
  const Turn turn(*bus_);
  if (!turn.held()) {
    return PortStatus::failed;
  }
  constexpr std::size_t kGoalBytes = 4;
  std::array<std::uint8_t, kMaxServos * (1 + kGoalBytes)> parameters;
  std::size_t size = 0;
  for (std::size_t i = 0; i < joints_.size(); ++i) {
    if (!std::isfinite(command.positions[i])) {
      return PortStatus::failed;
    }
    goals_[i] = goal_ticks(joints_[i], command.positions[i]);
    const auto bits = static_cast<std::uint32_t>(goals_[i]);
    parameters[size++] = joints_[i].id;
    for (std::size_t byte = 0; byte < kGoalBytes; ++byte) {
      parameters[size++] = static_cast<std::uint8_t>(bits >> (8U * byte) & 0xFFU);
    }
  }
  const ExchangeStatus sent =
      bus_->sync_write(kGoalPositionAddress, kGoalBytes, std::span(parameters).first(size),
                       monotonic_now() + options_.write_limit);
  if (sent == ExchangeStatus::lost) {
    suspend(Trouble::link_lost);
  }
  goals_written_ = sent == ExchangeStatus::ok;
  return sent == ExchangeStatus::ok && goals_taken_ ? PortStatus::ok : PortStatus::failed;
}

bool DynamixelPort::latest(ServoStates& states) const noexcept { return published_.load(states) != 0; }

bool DynamixelPort::refresh(ServoStates& states, Nanoseconds age_max) noexcept {
  if (trouble() == Trouble::none && monotonic_now() - last_read_.load(std::memory_order_acquire) > age_max) {
    const Turn turn(*bus_, monotonic_now() + kTurnLimit);
    if (turn.held()) {
      read_all(monotonic_now() + options_.read_limit);
    }
  }
  return latest(states);
}

Trouble DynamixelPort::attend(Nanoseconds idle_max, Nanoseconds silence_max) noexcept {
  control::MonotonicClock clock;
  const Nanoseconds began = clock.now();
  while (true) {
    if (dismissed_.load(std::memory_order_acquire)) {
      return Trouble::dismissed;
    }
    if (trouble() != Trouble::none) {
      return trouble();
    }
    ServoStates states;
    Nanoseconds heard = began;
    if (refresh(states, idle_max)) {
      heard = std::max(heard,
                       *std::min_element(states.times.begin(),
                                         states.times.begin() + static_cast<std::ptrdiff_t>(joints_.size())));
    }
    if (clock.now() - heard > silence_max) {
      return Trouble::silent;
    }
    clock.sleep_until(clock.now() + kAttendPause);
  }
}

}  // namespace molmoact2::bus::dynamixel
