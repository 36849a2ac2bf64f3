// The half of the port that may wait: what the driver asks of the motors, and the keeper.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>
#include <utility>

#include "bus/damiao/damiao_port.h"

namespace molmoact2::bus {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr Nanoseconds kAnswerTimeout = 30'000'000;
constexpr int kAttempts = 4;
// A held target is at most this far from the pose: an arm that was kept from its target does not go on
// pushing.
constexpr double kHoldSlack = 0.1;  // rad

}  // namespace

// Waits for the wire: not for the loop's thread.
class DamiaoPort::Wire {
 public:
  explicit Wire(DamiaoPort& port) noexcept : port_(port) {
    while (!port_.try_wire()) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  ~Wire() { port_.release_wire(); }

 private:
  DamiaoPort& port_;
};

bool DamiaoPort::open(std::string& error) {
  close();
  for (const auto& link : links_) {
    if (!link->open(error)) {
      close();
      return false;
    }
  }
  {
    const Wire wire(*this);
    for (MotorWatch& motor : motors_) {
      motor.forget();
    }
    mode_.store(DriveMode::listen, std::memory_order_release);
    report_ = DamiaoReport{};
    found_disabled_.fill(0);
    written_ = false;
  }
  // The keeper leaves the first moments to whoever opened.
  loop_seen_.store(monotonic_now(), std::memory_order_release);
  const std::scoped_lock lock(keeper_mutex_);
  std::ranges::fill(open_errors_, std::string());
  keeping_ = true;
  keeper_ = std::thread([this] { keep(); });
  return true;
}

void DamiaoPort::close() {
  {
    const std::scoped_lock lock(keeper_mutex_);
    keeping_ = false;
  }
  keeper_wakes_.notify_all();
  if (keeper_.joinable()) {
    keeper_.join();
  }
  const Wire wire(*this);
  for (const auto& link : links_) {
    link->close();
  }
}

bool DamiaoPort::set_mode(DriveMode mode) {
  const Wire wire(*this);
  if (drives(mode) && !std::ranges::all_of(motors_, [](const MotorWatch& motor) { return motor.known(); })) {
    return false;
  }
  const DriveMode before = mode_.load(std::memory_order_relaxed);
  const Nanoseconds now = monotonic_now();
  if (!drives(before)) {
    driven_since_.store(now, std::memory_order_release);
    found_disabled_.fill(0);
  }
  if (positions(mode) && !positions(before)) {
    ramp_begin_.fill(now);
    for (std::size_t i = 0; i < joint_count(); ++i) {
      targets_[i] = motors_[i].feedback().position;
    }
  } else if (positions(mode)) {
    for (std::size_t i = 0; i < joint_count(); ++i) {
      const double pose = motors_[i].feedback().position;
      targets_[i] = std::clamp(targets_[i], pose - kHoldSlack, pose + kHoldSlack);
    }
  }
  mode_.store(mode, std::memory_order_release);
  exchange(now);
  return true;
}

bool DamiaoPort::answers(const MotorFeedback& feedback) const noexcept {
  switch (question_.command) {
    case MotorCommand::enable:
      return feedback.status == MotorStatus::enabled;
    case MotorCommand::disable:
      return feedback.status != MotorStatus::enabled;
    case MotorCommand::clear_error:
      return !is_error(feedback.status);
    case MotorCommand::set_zero:
      // Full scale over 16 bits, and a little that the motor may have turned.
      return std::abs(feedback.position) < 0.02;
  }
  return false;
}

bool DamiaoPort::converse(const CanFrame& frame) {
  const std::size_t bus = options_.joints[question_.joint].bus;
  drain();
  question_.answered = false;
  for (int attempt = 0; attempt < kAttempts && !question_.answered; ++attempt) {
    const Nanoseconds deadline = monotonic_now() + kAnswerTimeout;
    if (links_[bus]->send({&frame, 1}, deadline) != LinkStatus::ok) {
      break;
    }
    CanFrame answer;
    while (!question_.answered && monotonic_now() < deadline &&
           links_[bus]->receive(answer, deadline) == LinkStatus::ok) {
      take(bus, answer);
    }
  }
  question_.about = Question::About::nothing;
  publish();
  return question_.answered;
}

bool DamiaoPort::command(std::size_t joint, MotorCommand command) {
  const Wire wire(*this);
  question_ = Question{.about = Question::About::command, .joint = joint, .command = command};
  const bool was_on = motors_[joint].feedback().status == MotorStatus::enabled;
  const bool obeyed = converse(command_frame(options_.joints[joint].id, command));
  if (obeyed && command == MotorCommand::enable && !was_on) {
    targets_[joint] = motors_[joint].feedback().position;
    ramp_begin_[joint] = monotonic_now();
    found_disabled_[joint] = 0;
  }
  return obeyed;
}

bool DamiaoPort::read_register(std::size_t joint, std::uint8_t address, std::uint32_t& value) {
  const Wire wire(*this);
  question_ = Question{.about = Question::About::reg, .joint = joint, .address = address};
  if (!converse(register_frame(options_.joints[joint].id, RegisterAction::read, address, 0))) {
    return false;
  }
  value = question_.value;
  return true;
}

bool DamiaoPort::write_register(std::size_t joint, std::uint8_t address, std::uint32_t value) {
  const Wire wire(*this);
  question_ = Question{
      .about = Question::About::reg, .joint = joint, .action = RegisterAction::write, .address = address};
  return converse(register_frame(options_.joints[joint].id, RegisterAction::write, address, value)) &&
         question_.value == value;
}

bool DamiaoPort::save_register(std::size_t joint, std::uint8_t address) {
  const Wire wire(*this);
  question_ = Question{
      .about = Question::About::reg, .joint = joint, .action = RegisterAction::save, .address = address};
  return converse(register_frame(options_.joints[joint].id, RegisterAction::save, address, 0));
}

void DamiaoPort::clear_faults() {
  const Wire wire(*this);
  driven_since_.store(monotonic_now(), std::memory_order_release);
  found_disabled_.fill(0);
  for (MotorReport& motor : report_.motors) {
    motor.faulted = false;
    motor.silent = false;
    motor.fault = MotorStatus::disabled;
  }
  publish();
}

DamiaoReport DamiaoPort::report() const noexcept {
  DamiaoReport report;
  published_.load(report);
  return report;
}

std::vector<BusReport> DamiaoPort::buses() const {
  std::vector<BusReport> reports;
  const std::scoped_lock lock(keeper_mutex_);
  for (std::size_t bus = 0; bus < links_.size(); ++bus) {
    const CanLink& link = *links_[bus];
    reports.push_back({link.path(), link.is_open(), link.health(), link.malformed(), open_errors_[bus]});
  }
  return reports;
}

// --- the keeper ---

void DamiaoPort::keep() {
  Nanoseconds reopened = 0;
  std::unique_lock lock(keeper_mutex_);
  while (keeping_) {
    lock.unlock();
    const Nanoseconds now = monotonic_now();
    if (!all_open() && now - reopened >= options_.reopen_period) {
      reopen_lost();
      reopened = monotonic_now();
    }
    if (now - loop_seen_.load(std::memory_order_acquire) > 2 * options_.keep_period) {
      const Wire wire(*this);
      // Looked at again: the loop may have begun while the wire was taken.
      const Nanoseconds begun = monotonic_now();
      if (begun - loop_seen_.load(std::memory_order_acquire) > 2 * options_.keep_period) {
        exchange(begun);
        written_ = false;
      }
    }
    note_silence(monotonic_now());
    lock.lock();
    keeper_wakes_.wait_for(lock, std::chrono::nanoseconds(options_.keep_period),
                           [this] { return !keeping_; });
  }
}

// Nobody else touches a link between the moment that it is lost and the end of open().
void DamiaoPort::reopen_lost() {
  for (std::size_t bus = 0; bus < links_.size(); ++bus) {
    if (links_[bus]->is_open()) {
      continue;
    }
    std::string error;
    links_[bus]->open(error);
    const std::scoped_lock lock(keeper_mutex_);
    open_errors_[bus] = error;
  }
}

void DamiaoPort::note_silence(Nanoseconds now) noexcept {
  if (!drives(mode())) {
    return;
  }
  DamiaoReport published;
  if (published_.load(published) == 0) {
    return;
  }
  const Nanoseconds since = driven_since_.load(std::memory_order_acquire);
  const auto is_silent = [&](const MotorReport& motor) {
    return !motor.silent && now - std::max(motor.time, since) > options_.silence;
  };
  if (!std::ranges::any_of(std::span(published.motors).first(joint_count()), is_silent)) {
    return;
  }
  const Wire wire(*this);
  for (std::size_t i = 0; i < joint_count(); ++i) {
    MotorReport& motor = report_.motors[i];
    const Nanoseconds heard = std::max(motors_[i].time(), driven_since_.load(std::memory_order_relaxed));
    motor.silent = motor.silent || (drives(mode()) && now - heard > options_.silence);
  }
  publish();
}

}  // namespace molmoact2::bus
