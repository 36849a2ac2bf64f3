#include "control/control_cycle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace molmoact2::control {

namespace {

// A minimum-jerk move peaks at 15/8 of its mean velocity.
constexpr double kMinimumJerkPeak = 15.0 / 8.0;

double minimum_jerk(double s) noexcept { return s * s * s * (10.0 + s * (6.0 * s - 15.0)); }

}  // namespace

std::string check(const CycleOptions& options) {
  std::string wrong = check(options.limits);
  if (!wrong.empty()) {
    return wrong;
  }
  if (!(options.rate_hz >= 10.0 && options.rate_hz <= 1000.0)) {
    return "rate_hz must be 10 to 1000, got " + std::to_string(options.rate_hz);
  }
  if (options.chunks.action_dim != options.limits.joint_count) {
    return "action_dim must equal the number of joints";
  }
  if (!(options.chunks.actions_per_step > 0.0 && options.chunks.actions_per_step <= 1.0)) {
    return "chunk_rate_hz must be above 0 and at most rate_hz";
  }
  if (options.chunks.capacity == 0 || options.chunks.blend_steps < 0 || options.telemetry_capacity == 0) {
    return "capacities must be at least 1 and blend_steps at least 0";
  }
  if (!(options.silence_hold > 0 && options.silence_fault >= options.silence_hold)) {
    return "silence_hold_s must be above 0 and silence_fault_s at least as long";
  }
  if (!(options.start_speed > 0.0 && options.start_speed <= 1.0)) {
    return "start_speed must be above 0 and at most 1, got " + std::to_string(options.start_speed);
  }
  for (std::size_t i = 0; i < options.limits.joint_count; ++i) {
    if (!(options.start_distance_max[i] > 0.0)) {
      return "start_distance_max of joint " + std::to_string(i) + " must be above 0";
    }
  }
  return {};
}

ControlCycle::ControlCycle(std::shared_ptr<Port> port, const CycleOptions& options)
    : port_(std::move(port)),
      options_(options),
      period_s_(1.0 / options.rate_hz),
      gate_(options.limits, period_s_),
      chunks_(options.chunks),
      telemetry_(options.telemetry_capacity) {}

void ControlCycle::begin(Clock& clock) noexcept {
  clock_ = &clock;
  const std::uint32_t run = run_.load(std::memory_order_relaxed) + 1;
  chunks_.clear(run);
  gate_ = SafetyGate(options_.limits, period_s_);
  phase_ = Phase::without_pose;
  step_ = 0;
  first_tick_ = true;
  last_reason_ = Reason::none;
  measured_ = MeasuredState{};
  begun_ = clock.now();
  last_write_ = begun_;
  stop_reason_.store(Reason::none, std::memory_order_relaxed);
  run_.store(run, std::memory_order_release);
}

void ControlCycle::request_stop(Reason reason) noexcept {
  Reason none = Reason::none;
  stop_reason_.compare_exchange_strong(none, reason, std::memory_order_acq_rel);
}

std::uint64_t ControlCycle::push(const double* actions, std::size_t rows, std::int64_t observed_step,
                                 std::uint32_t run, Nanoseconds observed_time) noexcept {
  return chunks_.push(actions, rows, observed_step, run, observed_time);
}

bool ControlCycle::finished() const noexcept {
  if (stop_reason_.load(std::memory_order_acquire) == Reason::none) {
    return false;
  }
  const State state = gate_.last().state;
  return state == State::idle || (state == State::fault && gate_.at_rest());
}

void ControlCycle::tick(Nanoseconds deadline) noexcept {
  const Nanoseconds wakeup = clock_->now();
  record_ = TickRecord{};
  record_.run = run_.load(std::memory_order_relaxed);
  record_.deadline = deadline;
  record_.wakeup = wakeup;
  record_.period = first_tick_ ? 0 : wakeup - last_wakeup_;
  first_tick_ = false;
  last_wakeup_ = wakeup;

  read_port();
  if (phase_ == Phase::without_pose) {
    take_first_pose();
  }
  const Reason stop = stop_reason_.load(std::memory_order_acquire);
  if (stop != Reason::none) {
    gate_.stop(stop);
  }

  JointVector target{};
  ChunkInfo info;
  const bool has_target = chunks_.next(step_, target, info);
  record_.chunk = info.chunk;
  record_.observed_time = info.observed_time;
  record_.action = info.action;
  record_.remaining_steps = info.remaining_steps;
  record_.rejected_chunk = info.rejected;
  if (info.switched) {
    LoopStatistics::add(statistics_.chunks_taken);
  }
  gate_target(has_target, target, info.reason);
  write_port();
}

void ControlCycle::read_port() noexcept {
  const Nanoseconds before = clock_->now();
  MeasuredState state = measured_;
  const PortStatus status = port_->read(state);
  const Nanoseconds after = clock_->now();
  record_.read_duration = after - before;
  // A measurement from before this run says nothing about where the arm was put since.
  if (status == PortStatus::ok && state.time >= begun_) {
    measured_ = state;
  } else if (status == PortStatus::failed) {
    LoopStatistics::add(statistics_.read_failures);
  }
  record_.measured = measured_.positions;
  record_.measured_time = measured_.time;
}

void ControlCycle::take_first_pose() noexcept {
  if (measured_.time == 0) {
    if (record_.wakeup - begun_ > options_.silence_fault) {
      gate_.fault(Reason::state_missing);
    }
    return;
  }
  const std::size_t count = options_.limits.joint_count;
  if (!std::all_of(measured_.positions.begin(),
                   measured_.positions.begin() + static_cast<std::ptrdiff_t>(count),
                   [](double position) { return std::isfinite(position); })) {
    return;
  }
  gate_.reset(measured_.positions.data());
  last_write_ = record_.wakeup;
  phase_ = Phase::without_target;
}

// Whether the bus was silent for too long, in either direction.
Reason ControlCycle::silence() const noexcept {
  if (record_.wakeup - measured_.time > options_.silence_hold) {
    return Reason::state_stale;
  }
  if (record_.wakeup - last_write_ > options_.silence_hold) {
    return Reason::bus_write_failed;
  }
  return Reason::none;
}

void ControlCycle::plan_approach(const JointVector& first) noexcept {
  start_ = gate_.last().command;
  approach_tick_ = 0;
  approach_ticks_ = 0;
  for (std::size_t i = 0; i < options_.limits.joint_count; ++i) {
    const double speed = options_.limits.velocity_max[i] * options_.start_speed;
    const double seconds = kMinimumJerkPeak * std::abs(first[i] - start_[i]) / speed;
    approach_ticks_ = std::max(approach_ticks_, static_cast<std::int64_t>(std::ceil(seconds / period_s_)));
  }
}

void ControlCycle::approach(JointVector& target) const noexcept {
  const double share = static_cast<double>(approach_tick_ + 1) / static_cast<double>(approach_ticks_);
  const double along = minimum_jerk(std::min(share, 1.0));
  for (std::size_t i = 0; i < options_.limits.joint_count; ++i) {
    target[i] = start_[i] + (target[i] - start_[i]) * along;
  }
}

void ControlCycle::gate_target(bool has_target, JointVector& target, Reason absence) noexcept {
  const std::size_t count = options_.limits.joint_count;
  if (phase_ == Phase::without_pose) {
    record_.state = gate_.last().state;
    if (record_.state == State::fault) {
      record_.reason = gate_.last().reason;
    } else {
      record_.reason = measured_.time == 0 ? Reason::state_missing : Reason::measured_not_finite;
    }
    return;
  }
  const auto last = static_cast<std::ptrdiff_t>(count);
  const bool finite = has_target && std::all_of(target.begin(), target.begin() + last,
                                                [](double value) { return std::isfinite(value); });
  // The way to the first target starts once there is one; what is not finite is left to the gate to refuse.
  if (finite && (phase_ == Phase::without_target || phase_ == Phase::approaching)) {
    if (phase_ == Phase::without_target) {
      plan_approach(target);
      phase_ = approach_ticks_ > 1 ? Phase::approaching : Phase::following;
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (std::abs(target[i] - start_[i]) > options_.start_distance_max[i]) {
        gate_.fault(Reason::start_too_far);
      }
    }
    if (phase_ == Phase::approaching) {
      approach(target);
    }
  }

  const Reason silent = silence();
  if (record_.wakeup - measured_.time > options_.silence_fault) {
    gate_.fault(Reason::state_lost);
  } else if (record_.wakeup - last_write_ > options_.silence_fault) {
    gate_.fault(Reason::bus_write_failed);
  }
  GateInput input;
  if (has_target && silent == Reason::none) {
    input.target = target.data();
  }
  input.absence = silent == Reason::none ? absence : silent;
  input.measured = silent == Reason::state_stale ? nullptr : measured_.positions.data();
  const GateResult& result = gate_.step(input);

  if (has_target) {
    record_.target = target;
  }
  record_.state = result.state;
  record_.reason = result.reason;
  record_.limited_joints = result.limited_joints;
  if (result.followed && phase_ == Phase::approaching) {
    // Not yet an action of the chunk: the step that is due stays due.
    record_.reason = result.reason == Reason::none ? Reason::starting : result.reason;
    if (++approach_tick_ >= approach_ticks_) {
      phase_ = Phase::following;
    }
  } else if (result.followed) {
    record_.followed = true;
    ++step_;
  }
}

void ControlCycle::write_port() noexcept {
  record_.step = step_;
  if (phase_ == Phase::without_pose) {
    return;
  }
  record_.command = gate_.last().command;
  Command command;
  command.positions = record_.command;
  command.sequence = ++writes_;
  command.time = clock_->now();
  const PortStatus status = port_->write(command);
  const Nanoseconds after = clock_->now();
  record_.write_duration = after - command.time;
  if (status == PortStatus::ok) {
    record_.write_time = after;
    last_write_ = command.time;
  } else {
    LoopStatistics::add(statistics_.write_failures);
  }
}

void ControlCycle::finish_tick(std::int64_t skipped_periods) noexcept {
  record_.busy = clock_->now() - record_.wakeup;
  record_.skipped_periods = skipped_periods;
  record_.tick = statistics_.ticks.load(std::memory_order_relaxed) + 1;
  count();
  telemetry_.push(record_);
}

void ControlCycle::count() noexcept {
  LoopStatistics::add(statistics_.ticks);
  if (record_.period > 0) {
    statistics_.period.record(record_.period);
  }
  statistics_.wakeup_latency.record(record_.wakeup - record_.deadline);
  statistics_.bus.record(record_.read_duration + record_.write_duration);
  statistics_.busy.record(record_.busy);
  if (record_.measured_time > 0) {
    statistics_.state_age.record(record_.wakeup - record_.measured_time);
  }
  if (record_.followed) {
    LoopStatistics::add(statistics_.executed_steps);
    count_observation();
  }
  if (record_.skipped_periods > 0) {
    LoopStatistics::add(statistics_.overruns);
    LoopStatistics::add(statistics_.skipped_periods, static_cast<std::uint64_t>(record_.skipped_periods));
  }
  const auto reason = static_cast<std::size_t>(record_.reason);
  LoopStatistics::add(statistics_.reason_ticks[reason]);
  LoopStatistics::add(statistics_.state_ticks[static_cast<std::size_t>(record_.state)]);
  if (record_.reason != last_reason_) {
    LoopStatistics::add(statistics_.reason_events[reason]);
    last_reason_ = record_.reason;
  }
  if (record_.rejected_chunk != Reason::none) {
    LoopStatistics::add(statistics_.rejected_chunks[static_cast<std::size_t>(record_.rejected_chunk)]);
  }
}

void ControlCycle::count_observation() noexcept {
  if (record_.observed_time == 0 || record_.write_time == 0) {
    return;
  }
  const Nanoseconds age = record_.write_time - record_.observed_time;
  statistics_.observation_age.record(age);
  if (record_.chunk != acted_chunk_) {
    statistics_.observation_to_action.record(age);
    acted_chunk_ = record_.chunk;
  }
}

bool ControlCycle::observation_at(Nanoseconds time, Observation& observation) const noexcept {
  const std::uint32_t run = this->run();
  const std::uint64_t newest = telemetry_.written();
  TickRecord record;
  for (std::uint64_t position = newest; position > 0 && telemetry_.read(position, record); --position) {
    if (record.run != run || record.measured_time == 0) {
      return false;
    }
    if (record.wakeup <= time) {
      observation.run = record.run;
      observation.step = record.step;
      observation.measured = {record.measured, record.measured_time};
      return true;
    }
  }
  return false;
}

}  // namespace molmoact2::control
