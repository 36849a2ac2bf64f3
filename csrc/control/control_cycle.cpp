#include "control/control_cycle.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace molmoact2::control {

namespace {

// The command has come back to where the arm was, as a fraction of the jump limit.
constexpr double kRebased = 0.01;

}  // namespace

std::string check(const CycleOptions& options) {
  if (!(options.rate_hz >= 10.0 && options.rate_hz <= 1000.0)) {
    return "rate_hz must be 10 to 1000, got " + std::to_string(options.rate_hz);
  }
  for (const std::string& wrong : {check(options.limits, 1.0 / options.rate_hz), check(options.chunks),
                                   check(options.watchdogs, options.limits.joint_count)}) {
    if (!wrong.empty()) {
      return wrong;
    }
  }
  // From one write to the next a period passes, and a little more on most computers: that is no silence yet.
  if (static_cast<double>(options.watchdogs.silence_hold) < 2e9 / options.rate_hz) {
    return "silence_hold_s must be at least two periods of the loop, " +
           std::to_string(2.0 / options.rate_hz);
  }
  if (options.chunks.action_dim != options.limits.joint_count) {
    return "action_dim must equal the number of joints";
  }
  if (!(options.frozen_tolerance >= 0.0)) {
    return "frozen_tolerance must be at least 0, got " + std::to_string(options.frozen_tolerance);
  }
  if (options.telemetry_capacity == 0) {
    return "telemetry_capacity must be at least 1";
  }
  if (!(options.start.speed > 0.0 && options.start.speed <= 1.0)) {
    return "start_speed must be above 0 and at most 1, got " + std::to_string(options.start.speed);
  }
  for (std::size_t i = 0; i < options.limits.joint_count; ++i) {
    if (!(options.start.distance_max[i] > 0.0)) {
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
      planned_(options.chunks),
      watchdogs_(options.watchdogs, options.limits.joint_count, frames_),
      approach_(options.limits, period_s_, options.start),
      telemetry_(options.telemetry_capacity) {}

void ControlCycle::begin(Clock& clock) noexcept {
  clock_ = &clock;
  const std::uint32_t run = run_.load(std::memory_order_relaxed) + 1;
  chunks_.clear(run);
  planned_.executing(0);
  gate_.forget();
  phase_ = Phase::without_pose;
  step_ = 0;
  first_tick_ = true;
  last_reason_ = Reason::none;
  measured_ = MeasuredState{};
  begun_ = clock.now();
  last_write_ = begun_;
  lost_writes_ = 0;
  watchdogs_.begin(begun_);
  stop_reason_.store(Reason::none, std::memory_order_relaxed);
  run_.store(run, std::memory_order_release);
}

void ControlCycle::request_stop(Reason reason) noexcept {
  Reason none = Reason::none;
  stop_reason_.compare_exchange_strong(none, reason, std::memory_order_acq_rel);
}

void ControlCycle::latch_stop(Reason reason) noexcept {
  Reason none = Reason::none;
  latched_stop_.compare_exchange_strong(none, reason, std::memory_order_acq_rel);
  request_stop(reason);
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
  // Once it was a fault that no pose came, a pose that comes is too late: faults last until the next run.
  if (phase_ == Phase::without_pose && gate_.last().state != State::fault) {
    take_first_pose();
  }
  // A latched stop is looked at every time: one that came while this run began must not be lost.
  const Reason latched = latched_stop();
  if (latched != Reason::none) {
    request_stop(latched);
  }
  const Reason stop = stop_reason_.load(std::memory_order_acquire);
  if (stop != Reason::none) {
    gate_.stop(stop);
  }
  if (phase_ != Phase::without_pose) {
    rebase();
  }

  JointVector target{};
  ChunkInfo info;
  const bool has_target = chunks_.next(step_, target, info);
  record_chunk(info);
  gate_target(has_target, target, info);
  write_port();
}

void ControlCycle::record_chunk(const ChunkInfo& info) noexcept {
  record_.chunk = info.chunk;
  record_.observed_time = info.observed_time;
  record_.action = info.action;
  record_.remaining_steps = info.remaining_steps;
  record_.rejected_chunk = info.rejected;
  if (!info.switched) {
    return;
  }
  planned_.executing(info.chunk);
  record_.frozen_error = info.frozen_error;
  record_.unfrozen_steps = info.unfrozen_steps;
  LoopStatistics::add(statistics_.chunks_taken);
  if (info.frozen_error > options_.frozen_tolerance) {
    LoopStatistics::add(statistics_.chunks_not_continuing);
  }
  if (info.unfrozen_steps > 0) {
    LoopStatistics::add(statistics_.chunks_beyond_frozen);
  }
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
    if (record_.wakeup - begun_ > options_.watchdogs.silence_fault) {
      gate_.fault(Reason::state_missing);
    }
    return;
  }
  if (!measured_finite()) {
    if (record_.wakeup - begun_ > options_.watchdogs.silence_fault) {
      gate_.fault(Reason::measured_not_finite);
    }
    return;
  }
  gate_.reset(measured_.positions.data());
  if (gate_.last().state == State::fault) {
    return;  // outside the limits: the gate's command is not where the arm is, so nothing is written
  }
  last_write_ = record_.wakeup;
  phase_ = Phase::without_target;
}

// Whether the arm can be where the command is. Where it cannot, the command must not go on from there: what
// the arm does next would be a jump at the servos' own speed.
void ControlCycle::rebase() noexcept {
  if (writes_lost()) {
    phase_ = Phase::rebasing;
    rebase_pose_ = gate_.last().command;
    // None of these commands arrives, so that they need not continue each other: the first that does is where
    // the arm stands.
    if (pose_known_since(lost_since_)) {
      if (!gate_.rebase(measured_.positions.data())) {
        phase_ = Phase::without_pose;
      }
      rebase_pose_ = gate_.last().command;
    }
    return;
  }
  if (phase_ == Phase::rebasing && !rebased()) {
    return;
  }
  if (pose_known_since(begun_) && astray()) {
    phase_ = Phase::rebasing;
    for (std::size_t i = 0; i < options_.limits.joint_count; ++i) {
      rebase_pose_[i] = std::min(std::max(measured_.positions[i], options_.limits.position_min[i]),
                                 options_.limits.position_max[i]);
    }
  } else if (phase_ == Phase::rebasing) {
    phase_ = Phase::without_target;
  }
}

bool ControlCycle::measured_finite() const noexcept {
  return std::all_of(measured_.positions.begin(),
                     measured_.positions.begin() + static_cast<std::ptrdiff_t>(options_.limits.joint_count),
                     [](double position) { return std::isfinite(position); });
}

bool ControlCycle::pose_known_since(Nanoseconds time) const noexcept {
  const Nanoseconds age = record_.wakeup - measured_.time;
  return measured_finite() && measured_.time >= time && std::abs(age) <= options_.watchdogs.silence_hold;
}

bool ControlCycle::astray() const noexcept {
  const JointVector& command = gate_.last().command;
  for (std::size_t i = 0; i < options_.limits.joint_count; ++i) {
    if (std::abs(command[i] - measured_.positions[i]) > options_.limits.jump_max[i]) {
      return true;
    }
  }
  return false;
}

bool ControlCycle::rebased() const noexcept {
  const JointVector& command = gate_.last().command;
  for (std::size_t i = 0; i < options_.limits.joint_count; ++i) {
    if (std::abs(command[i] - rebase_pose_[i]) > kRebased * options_.limits.jump_max[i]) {
      return false;
    }
  }
  return true;
}

void ControlCycle::gate_target(bool has_target, JointVector& target, const ChunkInfo& info) noexcept {
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
      phase_ = approach_.plan(gate_.last().command, target) ? Phase::approaching : Phase::following;
    }
    if (!approach_.reachable(target)) {
      gate_.fault(Reason::start_too_far);
    }
    if (phase_ == Phase::approaching) {
      approach_.replace(target);
    }
  }

  // On its way to the first target the arm executes no action, so no observation is too old for that.
  const bool executes = has_target && phase_ == Phase::following;
  const Verdict verdict =
      watchdogs_.judge({record_.wakeup, &measured_, last_write_, executes, info.observed_time});
  if (verdict.fault != Reason::none) {
    gate_.fault(verdict.fault);
  }
  Reason hold = verdict.hold;
  GateInput input;
  if (phase_ == Phase::rebasing && hold == Reason::none) {
    hold = writes_lost() ? Reason::bus_write_failed : Reason::arm_not_following;
    input.rest_at = writes_lost() ? nullptr : rebase_pose_.data();
  }
  if (has_target && hold == Reason::none) {
    input.target = target.data();
  }
  input.absence = hold == Reason::none ? info.reason : hold;
  input.measured = verdict.hold == Reason::state_stale ? nullptr : measured_.positions.data();
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
    if (approach_.advance()) {
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
  if (writes_lost() && !pose_known_since(lost_since_)) {
    return;  // should it arrive, nobody could tell how far the arm would jump
  }
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
    lost_writes_ = 0;
  } else {
    if (lost_writes_ == 0) {
      lost_since_ = command.time;
    }
    ++lost_writes_;
    LoopStatistics::add(statistics_.write_failures);
  }
}

void ControlCycle::finish_tick(std::int64_t skipped_periods) noexcept {
  record_.busy = clock_->now() - record_.wakeup;
  record_.skipped_periods = skipped_periods;
  if (skipped_periods > 0) {
    watchdogs_.overrun(clock_->now());
  }
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
