#include "bus/damiao/damiao_port.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
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
// Feedbacks in a row after which a driven motor counts as switched off; one may have been under way for long.
constexpr int kFoundDisabled = 3;
// Frames that one drain takes; more are left for the next.
constexpr int kDrainFrames = 256;

}  // namespace

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
        std::ranges::count_if(pending_, [](std::size_t count) { return count > 0; }));
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
    if (decode_register_reply(frame, joint.id, reply)) {
      // Also one that nobody waits for any more: as a feedback it would be a motor at the end of its range.
      if (asked && question_.about == Question::About::reg && reply.action == question_.action &&
          (reply.action == RegisterAction::save || reply.address == question_.address)) {
        question_.answered = true;
        question_.value = reply.value;
      }
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
  return std::ranges::any_of(std::span(report_.motors).first(joint_count()),
                             [](const MotorReport& motor) { return motor.faulted; });
}

bool DamiaoPort::all_open() const noexcept {
  return std::ranges::all_of(links_, [](const auto& link) { return link->is_open(); });
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
  if (!std::ranges::all_of(std::span(command.positions).first(joint_count()),
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

}  // namespace molmoact2::bus
