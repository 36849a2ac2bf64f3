#include "bus/damiao/damiao_port.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

namespace molmoact2::bus {

using control::Command;
using control::kMaxJoints;
using control::MeasuredState;
using control::monotonic_now;
using control::Nanoseconds;
using control::PortStatus;

namespace {

// How long one bus is waited for while another one may have something as well.
constexpr Nanoseconds kTurn = 200'000;
constexpr Nanoseconds kAnswerTimeout = 30'000'000;
constexpr int kAttempts = 4;
// A held target is at most this far from the pose: an arm that was kept from its target does not go on
// pushing.
constexpr double kHoldSlack = 0.1;  // rad
// Feedbacks in a row after which a driven motor counts as switched off; one may have been under way for long.
constexpr int kFoundDisabled = 3;
// Frames that one drain takes; more are left for the next.
constexpr int kDrainFrames = 256;

bool drives(DriveMode mode) noexcept { return mode != DriveMode::listen; }
bool positions(DriveMode mode) noexcept { return mode == DriveMode::follow || mode == DriveMode::hold; }

}  // namespace

std::string check(const DamiaoOptions& options, std::size_t buses) {
  if (options.joints.empty() || options.joints.size() > kMaxJoints) {
    return "1 to " + std::to_string(kMaxJoints) + " joints are possible, got " +
           std::to_string(options.joints.size());
  }
  if (buses < 1 || buses > kMaxBuses) {
    return "1 to " + std::to_string(kMaxBuses) + " buses are possible, got " + std::to_string(buses);
  }
  for (std::size_t i = 0; i < options.joints.size(); ++i) {
    const DamiaoJoint& joint = options.joints[i];
    const std::string which = "joint " + std::to_string(i) + ": ";
    if (joint.bus >= buses) {
      return which + "there is no bus " + std::to_string(joint.bus);
    }
    if (joint.id < 1 || joint.id >= kRegisterId || joint.feedback_id >= kRegisterId ||
        joint.id == joint.feedback_id) {
      return which + "ids must differ and be below 0x7FF, got " + std::to_string(joint.id) + " and " +
             std::to_string(joint.feedback_id);
    }
    const auto above_zero = [](double value) { return value > 0.0 && std::isfinite(value); };
    if (!above_zero(joint.ranges.position) || !above_zero(joint.ranges.velocity) ||
        !above_zero(joint.ranges.torque)) {
      return which + "the ranges must be above 0";
    }
    if (!(joint.kp >= 0.0 && joint.kp <= kKpMax) || !(joint.kd >= 0.0 && joint.kd <= kKdMax)) {
      return which + "kp is 0 to 500 and kd 0 to 5, got " + std::to_string(joint.kp) + " and " +
             std::to_string(joint.kd);
    }
    if (!std::isfinite(joint.offset) || !std::isfinite(joint.scale) || joint.scale == 0.0) {
      return which + "scale must be finite and not 0, offset finite";
    }
    for (std::size_t other = 0; other < i; ++other) {
      const DamiaoJoint& before = options.joints[other];
      if (before.bus == joint.bus && (before.id == joint.id || before.feedback_id == joint.feedback_id)) {
        return which + "its ids are those of joint " + std::to_string(other) + " on the same bus";
      }
    }
  }
  for (const ArmWeight& weight : options.weights) {
    if (weight.first_joint + weight.chain.joint_count() > options.joints.size() ||
        weight.factors.size() != weight.chain.joint_count()) {
      return "a weight must lie within the joints and have a factor for each of its links";
    }
  }
  if (options.exchange_timeout <= 0 || options.ramp < 0 || options.silence <= 0 || options.keep_period <= 0 ||
      options.reopen_period <= 0) {
    return "times must be above 0";
  }
  return {};
}

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

DamiaoPort::DamiaoPort(std::vector<std::unique_ptr<CanLink>> links, DamiaoOptions options)
    : options_(std::move(options)), links_(std::move(links)), open_errors_(links_.size()) {
  motors_.reserve(options_.joints.size());
  for (const DamiaoJoint& joint : options_.joints) {
    motors_.emplace_back(joint.ranges);
  }
}

DamiaoPort::~DamiaoPort() { close(); }

// --- the exchange with the motors ---

// Every motor is told its target, or asked for its state, and the answers are gathered.
void DamiaoPort::exchange(Nanoseconds now) noexcept {
  drain();
  ask(now);
  gather(now + options_.exchange_timeout);
  ++report_.exchanges;
  publish();
}

void DamiaoPort::ask(Nanoseconds now) noexcept {
  const DriveMode mode = mode_.load(std::memory_order_relaxed);
  std::array<double, kMaxJoints> weight{};
  if (positions(mode)) {
    for (const ArmWeight& arm : options_.weights) {
      std::array<double, kMaxLinks> angles{};
      std::array<double, kMaxLinks> torques{};
      const std::size_t count = arm.chain.joint_count();
      for (std::size_t i = 0; i < count; ++i) {
        angles[i] = motors_[arm.first_joint + i].feedback().position;
      }
      arm.chain.torques({angles.data(), count}, {torques.data(), count});
      for (std::size_t i = 0; i < count; ++i) {
        weight[arm.first_joint + i] = torques[i] * arm.factors[i];
      }
    }
  }
  std::array<std::size_t, kMaxBuses> counts{};
  for (std::size_t i = 0; i < options_.joints.size(); ++i) {
    const DamiaoJoint& joint = options_.joints[i];
    CanFrame& frame = frames_[joint.bus][counts[joint.bus]++];
    MitCommand command;
    command.position = targets_[i];
    command.kd = joint.kd;
    if (positions(mode)) {
      const double ramped =
          options_.ramp == 0 ? 1.0
                             : static_cast<double>(now - ramp_begin_[i]) / static_cast<double>(options_.ramp);
      const double share = std::clamp(ramped, 0.0, 1.0);
      command.kp = joint.kp * share;
      command.torque = weight[i] * share;
    }
    if (!drives(mode) || !encode_mit(joint.id, command, joint.ranges, frame)) {
      frame = register_frame(joint.id, RegisterAction::refresh, 0, 0);
    }
    awaited_[i] = true;
  }
  for (std::size_t bus = 0; bus < links_.size(); ++bus) {
    const LinkStatus sent =
        links_[bus]->send({frames_[bus].data(), counts[bus]}, now + options_.exchange_timeout);
    pending_[bus] = sent == LinkStatus::ok ? counts[bus] : 0;
  }
}

void DamiaoPort::gather(Nanoseconds deadline) noexcept {
  while (true) {
    const auto waiting = static_cast<std::size_t>(
        std::count_if(pending_.begin(), pending_.end(), [](std::size_t count) { return count > 0; }));
    const Nanoseconds now = monotonic_now();
    if (waiting == 0 || now >= deadline) {
      break;
    }
    const Nanoseconds turn = waiting > 1 ? std::min(deadline, now + kTurn) : deadline;
    for (std::size_t bus = 0; bus < links_.size(); ++bus) {
      CanFrame frame;
      LinkStatus status = LinkStatus::ok;
      while (pending_[bus] > 0 && status == LinkStatus::ok) {
        status = links_[bus]->receive(frame, turn);
        if (status == LinkStatus::ok) {
          take(bus, frame);
        }
        if (monotonic_now() >= deadline) {
          break;
        }
      }
      if (status == LinkStatus::lost) {
        pending_[bus] = 0;
      }
    }
  }
  for (std::size_t i = 0; i < options_.joints.size(); ++i) {
    report_.unanswered += awaited_[i] ? 1 : 0;
    awaited_[i] = false;
  }
}

// What came in between; nobody waits for it.
void DamiaoPort::drain() noexcept {
  for (std::size_t bus = 0; bus < links_.size(); ++bus) {
    CanFrame frame;
    for (int i = 0; i < kDrainFrames && links_[bus]->receive(frame, 0) == LinkStatus::ok; ++i) {
      take(bus, frame);
    }
  }
}

void DamiaoPort::take(std::size_t bus, const CanFrame& frame) noexcept {
  for (std::size_t i = 0; i < options_.joints.size(); ++i) {
    const DamiaoJoint& joint = options_.joints[i];
    if (joint.bus != bus || joint.feedback_id != frame.id || frame.extended) {
      continue;
    }
    const bool asked =
        question_.about != Question::About::nothing && question_.joint == i && !question_.answered;
    RegisterReply reply;
    if (asked && question_.about == Question::About::reg && decode_register_reply(frame, joint.id, reply) &&
        reply.action == question_.action &&
        (reply.action == RegisterAction::save || reply.address == question_.address)) {
      question_.answered = true;
      question_.value = reply.value;
      return;
    }
    MotorFeedback feedback;
    if (!decode_feedback(frame, joint.ranges, feedback) || feedback.id != (joint.id & 0xFU)) {
      return;
    }
    if (asked && question_.about == Question::About::command && answers(feedback)) {
      question_.answered = true;
      motors_[i].accept(feedback, frame.time);
      return;
    }
    if (awaited_[i]) {
      awaited_[i] = false;
      if (pending_[bus] > 0) {
        --pending_[bus];
      }
    }
    if (motors_[i].take(feedback, frame.time)) {
      judge(i);
    }
    return;
  }
}

// Latches what a driven motor says about itself.
void DamiaoPort::judge(std::size_t joint) noexcept {
  const MotorStatus status = motors_[joint].feedback().status;
  MotorReport& report = report_.motors[joint];
  const bool driven = drives(mode_.load(std::memory_order_relaxed));
  found_disabled_[joint] = status == MotorStatus::disabled ? found_disabled_[joint] + 1 : 0;
  const bool found_off = driven && found_disabled_[joint] >= kFoundDisabled;
  if (!report.faulted && (is_error(status) || found_off)) {
    report.faulted = true;
    report.fault = status;
  }
}

void DamiaoPort::publish() noexcept {
  report_.mode = mode_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < options_.joints.size(); ++i) {
    const MotorFeedback& feedback = motors_[i].feedback();
    MotorReport& report = report_.motors[i];
    report.position = to_unit(i, feedback.position);
    report.velocity = options_.joints[i].scale * feedback.velocity;
    report.torque = feedback.torque;
    report.driver_celsius = feedback.driver_celsius;
    report.rotor_celsius = feedback.rotor_celsius;
    report.time = motors_[i].time();
    report.doubted = motors_[i].doubted();
    report.status = feedback.status;
  }
  published_.store(report_);
}

bool DamiaoPort::any_fault() const noexcept {
  return std::any_of(report_.motors.begin(),
                     report_.motors.begin() + static_cast<std::ptrdiff_t>(joint_count()),
                     [](const MotorReport& motor) { return motor.faulted; });
}

bool DamiaoPort::all_open() const noexcept {
  return std::all_of(links_.begin(), links_.end(), [](const auto& link) { return link->is_open(); });
}

// --- the loop's thread ---

PortStatus DamiaoPort::read(MeasuredState& state) noexcept {
  const Nanoseconds now = monotonic_now();
  loop_seen_.store(now, std::memory_order_release);
  DamiaoReport report;
  if (try_wire()) {
    if (written_) {
      drain();
      publish();
    } else {
      exchange(now);
    }
    written_ = false;
    report = report_;
    release_wire();
  } else if (published_.load(report) == 0) {
    return PortStatus::no_data;
  }
  if (!all_open()) {
    return PortStatus::failed;
  }
  MeasuredState measured;
  measured.time = std::numeric_limits<Nanoseconds>::max();
  measured.has_temperatures = true;
  for (std::size_t i = 0; i < joint_count(); ++i) {
    const MotorReport& motor = report.motors[i];
    if (motor.time == 0) {
      return PortStatus::no_data;
    }
    measured.positions[i] = motor.position;
    measured.temperatures[i] = std::max(motor.driver_celsius, motor.rotor_celsius);
    measured.time = std::min(measured.time, motor.time);
  }
  state = measured;
  return PortStatus::ok;
}

PortStatus DamiaoPort::write(const Command& command) noexcept {
  const Nanoseconds now = monotonic_now();
  loop_seen_.store(now, std::memory_order_release);
  if (!std::all_of(command.positions.begin(),
                   command.positions.begin() + static_cast<std::ptrdiff_t>(joint_count()),
                   [](double position) { return std::isfinite(position); }) ||
      !try_wire()) {
    return PortStatus::failed;
  }
  PortStatus status = PortStatus::failed;
  if (mode_.load(std::memory_order_relaxed) == DriveMode::follow) {
    for (std::size_t i = 0; i < joint_count(); ++i) {
      targets_[i] = to_radians(i, command.positions[i]);
    }
    exchange(now);
    written_ = true;
    status = all_open() && !any_fault() ? PortStatus::ok : PortStatus::failed;
  }
  release_wire();
  return status;
}

// --- the driver's requests ---

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
  const std::lock_guard lock(keeper_mutex_);
  std::fill(open_errors_.begin(), open_errors_.end(), std::string());
  keeping_ = true;
  keeper_ = std::thread([this] { keep(); });
  return true;
}

void DamiaoPort::close() {
  {
    const std::lock_guard lock(keeper_mutex_);
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
  if (drives(mode) &&
      !std::all_of(motors_.begin(), motors_.end(), [](const MotorWatch& motor) { return motor.known(); })) {
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
  const std::lock_guard lock(keeper_mutex_);
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
    const std::lock_guard lock(keeper_mutex_);
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
  const auto end = published.motors.begin() + static_cast<std::ptrdiff_t>(joint_count());
  if (!std::any_of(published.motors.begin(), end, is_silent)) {
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
