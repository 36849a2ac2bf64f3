#include "bus/feetech/feetech_port.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace molmoact2::bus::feetech {

using control::JointVector;
using control::MeasuredState;
using control::monotonic_now;
using control::Nanoseconds;
using control::PortStatus;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;
constexpr Nanoseconds kWriteTimeout = 2 * kMillisecond;
// A servo that starts after a loss of power is silent for longer than this, one whose packets are garbled is
// not.
constexpr Nanoseconds kDoubtAfter = 50 * kMillisecond;
// For who has no deadline: long enough for a busy computer, short enough to ask several times.
constexpr Nanoseconds kPatientSlack = 20 * kMillisecond;
constexpr Nanoseconds kIdentifyTimeout = 200 * kMillisecond;
constexpr std::uint8_t kTorqueOn = 1;
// With these a servo lets go by itself, or its position cannot be trusted.
constexpr std::uint8_t kProtective = kOverloadError | kCurrentError | kTemperatureError | kAngleError;
constexpr double kPercentPerLoad = 0.1;
constexpr double kVoltsPerUnit = 0.1;
constexpr double kAmperesPerUnit = 0.0065;
constexpr auto kRelaxed = std::memory_order_relaxed;

const Register& required(const ServoModel& model, std::string_view name) {
  const Register* found = model.find(name);
  // check() has seen to it.
  return found != nullptr ? *found : model.registers.front();
}

constexpr std::array kTickRegisters = {"present_position",    "present_load",      "present_voltage",
                                       "present_temperature", "present_current",   "goal_position",
                                       "torque_enable",       "model_number",      "homing_offset",
                                       "min_position_limit",  "max_position_limit"};

}  // namespace

std::string check(const PortOptions& options) {
  if (options.joints.empty() || options.joints.size() > kMaxServos) {
    return "an arm has 1 to " + std::to_string(kMaxServos) + " joints, got " +
           std::to_string(options.joints.size());
  }
  for (auto joint = options.joints.begin(); joint != options.joints.end(); ++joint) {
    if (joint->servo > kMaxServo) {
      return "a servo's id is 0 to " + std::to_string(kMaxServo) + ", got " + std::to_string(joint->servo);
    }
    if (std::any_of(options.joints.begin(), joint,
                    [joint](const JointServo& other) { return other.servo == joint->servo; })) {
      return "two joints have the servo " + std::to_string(joint->servo);
    }
    if (joint->scale.range_min >= joint->scale.range_max) {
      return "range_min must be below range_max, got " + std::to_string(joint->scale.range_min) + " and " +
             std::to_string(joint->scale.range_max);
    }
  }
  for (const char* name : kTickRegisters) {
    if (options.model->find(name) == nullptr) {
      return std::string(options.model->name) + " has no register " + name;
    }
  }
  const Register& first = *options.model->find("present_position");
  const Register& last = *options.model->find("present_current");
  if (last.address < first.address ||
      last.address + last.size - first.address > static_cast<int>(kMaxBlock)) {
    return std::string(options.model->name) + ": its present values are no block of at most " +
           std::to_string(kMaxBlock) + " bytes";
  }
  if (options.block_every == 0) {
    return "block_every must be at least 1";
  }
  if (options.read_budget <= 0 || options.answer_slack <= 0) {
    return "read_budget and answer_slack must be above 0";
  }
  return {};
}

FeetechPort::Registers::Registers(const ServoModel& model)
    : position(required(model, "present_position")),
      load(required(model, "present_load")),
      voltage(required(model, "present_voltage")),
      temperature(required(model, "present_temperature")),
      current(required(model, "present_current")),
      goal(required(model, "goal_position")),
      torque(required(model, "torque_enable")),
      block_size(static_cast<std::uint8_t>(current.address + current.size - position.address)) {}

FeetechPort::FeetechPort(std::shared_ptr<ServoBus> bus, PortOptions options)
    : bus_(std::move(bus)),
      options_(std::move(options)),
      registers_(*options_.model),
      answers_(options_.joints.size()),
      servos_(options_.joints.size()),
      counters_(std::make_unique<ServoCounters[]>(options_.joints.size())) {
  reset();
}

std::size_t FeetechPort::joint_of(std::uint8_t servo) const noexcept {
  const auto joint = std::ranges::find(options_.joints, servo, &JointServo::servo);
  return static_cast<std::size_t>(joint - options_.joints.begin());
}

// --- trouble ---

TroubleReport FeetechPort::trouble() const noexcept {
  const std::uint32_t packed = trouble_.load(std::memory_order_acquire);
  return {static_cast<Trouble>(packed & 0xFFU), static_cast<std::uint8_t>(packed >> 8U & 0xFFU),
          static_cast<std::uint8_t>(packed >> 16U & 0xFFU)};
}

void FeetechPort::report(TroubleReport report) noexcept {
  std::uint32_t none = 0;
  const std::uint32_t packed = static_cast<std::uint32_t>(report.kind) |
                               static_cast<std::uint32_t>(report.joint) << 8U |
                               static_cast<std::uint32_t>(report.errors) << 16U;
  trouble_.compare_exchange_strong(none, packed, std::memory_order_acq_rel);
}

void FeetechPort::reset() noexcept {
  const BusTurn turn(*bus_);
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < servos_.size(); ++i) {
    answers_[i] = Answer{};
    answers_[i].servo = options_.joints[i].servo;
    servos_[i] = Servo{};
    counters_[i].errors.store(0, kRelaxed);
  }
  state_ = ArmState{};
  for (JointVector* values :
       {&state_.measured.temperatures, &state_.measured.currents, &state_.loads, &state_.voltages}) {
    values->fill(kUnknown);
  }
  trouble_.store(0, std::memory_order_release);
  lost_.store(!bus_->is_open(), std::memory_order_release);
}

// --- reading ---

void FeetechPort::take(std::size_t joint, const Answer& answer, bool block) noexcept {
  Servo& servo = servos_[joint];
  const std::span<const std::uint8_t> data = answer.data;
  servo.ticks = registers_.position.decode(data);
  servo.time = answer.time;
  state_.measured.positions[joint] = options_.joints[joint].scale.position_of(servo.ticks);
  if (block) {
    const auto value = [&](const Register& where) {
      return static_cast<double>(
          where.decode(data.subspan(static_cast<std::size_t>(where.address - registers_.position.address))));
    };
    state_.measured.temperatures[joint] = value(registers_.temperature);
    state_.measured.currents[joint] = value(registers_.current) * kAmperesPerUnit;
    state_.loads[joint] = value(registers_.load) * kPercentPerLoad;
    state_.voltages[joint] = value(registers_.voltage) * kVoltsPerUnit;
  }
  ServoCounters& counters = counters_[joint];
  counters.answers.fetch_add(1, kRelaxed);
  counters.last_answer.store(answer.time, kRelaxed);
  // One answer alone may be noise that fits its checksum.
  const auto lasting = static_cast<std::uint8_t>(answer.error & servo.errors);
  servo.errors = answer.error;
  if (lasting != 0) {
    counters.errors.fetch_or(lasting, kRelaxed);
  }
  if ((lasting & kProtective) != 0) {
    report({Trouble::protection, static_cast<std::uint8_t>(joint), lasting});
  }
}

void FeetechPort::miss(std::size_t joint, Nanoseconds now) noexcept {
  counters_[joint].misses.fetch_add(1, kRelaxed);
  Servo& servo = servos_[joint];
  servo.doubtful = servo.doubtful || (servo.time != 0 && now - servo.time > kDoubtAfter);
}

void FeetechPort::clear_doubt(std::size_t joint, Nanoseconds deadline) noexcept {
  std::int32_t torque = 0;
  if (follows()) {
    if (read_register(options_.joints[joint].servo, registers_.torque, torque, deadline) != LinkStatus::ok) {
      return;  // the next tick looks again
    }
    if (torque != kTorqueOn) {
      report({Trouble::torque_lost, static_cast<std::uint8_t>(joint), 0});
      return;
    }
  }
  servos_[joint].doubtful = false;
}

LinkStatus FeetechPort::read_servos(bool block, Nanoseconds slack, Nanoseconds deadline) noexcept {
  for (Answer& answer : answers_) {
    answer.arrived = false;
  }
  const std::size_t size = block ? registers_.block_size : registers_.position.size;
  const LinkStatus status = bus_->read_block(registers_.position.address, size, answers_, slack, deadline);
  const Nanoseconds now = monotonic_now();
  for (const Answer& answer : answers_) {
    const std::size_t joint = joint_of(answer.servo);
    if (answer.arrived) {
      take(joint, answer, block);
    } else {
      miss(joint, now);
    }
  }
  MeasuredState& measured = state_.measured;
  measured.has_temperatures = measured.has_temperatures || block;
  measured.has_currents = measured.has_currents || block;
  measured.time = std::ranges::min_element(servos_, {}, &Servo::time)->time;
  if (measured.time != 0) {
    published_.store(measured);
  }
  if (status == LinkStatus::lost) {
    lose();
    return status;
  }
  for (const Answer& answer : answers_) {
    const std::size_t joint = joint_of(answer.servo);
    if (answer.arrived && servos_[joint].doubtful) {
      clear_doubt(joint, deadline);
    }
  }
  return lost() ? LinkStatus::lost : status;
}

PortStatus FeetechPort::read(MeasuredState& state) noexcept {
  if (lost()) {
    return PortStatus::failed;
  }
  if (!bus_->try_acquire()) {
    // Another thread exchanges a packet just now: what is known keeps its time.
    return published_.load(state) != 0 ? PortStatus::ok : PortStatus::no_data;
  }
  const bool block = reads_++ % options_.block_every == 0;
  const LinkStatus status = read_servos(block, options_.answer_slack, monotonic_now() + options_.read_budget);
  const bool answered = std::ranges::any_of(answers_, &Answer::arrived);
  const bool known = state_.measured.time != 0;
  PortStatus result = PortStatus::failed;
  if (status != LinkStatus::lost && answered) {
    result = known ? PortStatus::ok : PortStatus::no_data;
  }
  if (result == PortStatus::ok) {
    state = state_.measured;
  }
  bus_->release();
  return result;
}

bool FeetechPort::measure(ArmState& state, Nanoseconds timeout) noexcept {
  const BusTurn turn(*bus_);
  if (lost()) {
    return false;
  }
  const Nanoseconds slack = std::max(options_.answer_slack, kPatientSlack);
  const LinkStatus status = read_servos(true, slack, monotonic_now() + timeout);
  state = state_;
  return status == LinkStatus::ok;
}

// --- writing ---

bool FeetechPort::finite(const JointVector& positions) const noexcept {
  return std::all_of(positions.begin(), positions.begin() + static_cast<std::ptrdiff_t>(joint_count()),
                     [](double position) { return std::isfinite(position); });
}

LinkStatus FeetechPort::write_goals(const JointVector& positions) noexcept {
  std::array<std::uint8_t, kMaxServos> servos{};
  std::array<std::uint8_t, 4 * kMaxServos> goals{};
  std::size_t count = 0;
  for (std::size_t i = 0; i < servos_.size(); ++i) {
    if (!servos_[i].doubtful) {
      const JointServo& joint = options_.joints[i];
      servos[count] = joint.servo;
      registers_.goal.encode(joint.scale.ticks_of(positions[i]),
                             std::span(goals).subspan(count * registers_.goal.size, registers_.goal.size));
      ++count;
    }
  }
  if (count == 0) {
    return LinkStatus::timed_out;
  }
  const LinkStatus status = bus_->send(
      sync_write_packet(registers_.goal.address, registers_.goal.size, std::span(servos).first(count),
                        std::span(goals).first(count * registers_.goal.size)),
      monotonic_now() + kWriteTimeout);
  if (status == LinkStatus::lost) {
    lose();
  }
  return status;
}

PortStatus FeetechPort::write(const control::Command& command) noexcept {
  if (!follows() || lost() || trouble().kind != Trouble::none || !finite(command.positions) ||
      !bus_->try_acquire()) {
    return PortStatus::failed;
  }
  const LinkStatus status = write_goals(command.positions);
  bus_->release();
  return status == LinkStatus::ok ? PortStatus::ok : PortStatus::failed;
}

bool FeetechPort::send_targets(const JointVector& positions) noexcept {
  if (!finite(positions)) {
    return false;
  }
  const BusTurn turn(*bus_);
  return !lost() && write_goals(positions) == LinkStatus::ok;
}

// --- after the cable was pulled ---

LinkStatus FeetechPort::read_register(std::uint8_t servo, const Register& where, std::int32_t& value,
                                      Nanoseconds deadline) noexcept {
  std::array<Answer, 1> answer{};
  answer[0].servo = servo;
  const Packet request = read_packet(servo, where.address, where.size);
  const LinkStatus status = bus_->exchange(request, where.size, answer, options_.answer_slack, deadline);
  if (status == LinkStatus::ok) {
    value = where.decode(answer[0].data);
  } else if (status == LinkStatus::lost) {
    lose();
  }
  return status;
}

// Whether the servos are those that were there before; `found` is what is wrong with them, if anything.
LinkStatus FeetechPort::recognize(TroubleReport& found) noexcept {
  const ServoModel& model = *options_.model;
  const Nanoseconds deadline = monotonic_now() + kIdentifyTimeout;
  for (std::size_t i = 0; i < servos_.size(); ++i) {
    const JointServo& joint = options_.joints[i];
    const std::array<std::pair<const Register*, int>, 4> expected = {
        std::pair{model.find("model_number"), static_cast<int>(model.number)},
        std::pair{model.find("homing_offset"), joint.homing_offset},
        std::pair{model.find("min_position_limit"), joint.scale.range_min},
        std::pair{model.find("max_position_limit"), joint.scale.range_max}};
    const auto read = [&](const Register& where, std::int32_t& value) {
      LinkStatus status = read_register(joint.servo, where, value, deadline);
      while (status == LinkStatus::timed_out && monotonic_now() < deadline) {
        bus_->count_retry();
        status = read_register(joint.servo, where, value, deadline);
      }
      return status;
    };
    std::int32_t value = 0;
    found.joint = static_cast<std::uint8_t>(i);
    for (const auto& [where, wanted] : expected) {
      const LinkStatus status = read(*where, value);
      if (status != LinkStatus::ok) {
        return status;
      }
      if (value != wanted) {
        found.kind = Trouble::other_servos;
        return LinkStatus::ok;
      }
    }
    const LinkStatus status = read(registers_.torque, value);
    if (status != LinkStatus::ok) {
      return status;
    }
    if (follows() && value != kTorqueOn) {
      found.kind = Trouble::torque_lost;
      return LinkStatus::ok;
    }
  }
  return LinkStatus::ok;
}

bool FeetechPort::reopen(TroubleReport& missing) noexcept {
  if (!lost()) {
    return true;
  }
  const BusTurn turn(*bus_);
  std::string error;
  missing = {Trouble::unplugged, 0, 0};
  if (!bus_->is_open() && !bus_->open(error)) {
    return false;
  }
  TroubleReport found;
  const LinkStatus status = recognize(found);
  if (status != LinkStatus::ok) {
    if (status == LinkStatus::lost) {
      bus_->close();
    } else {
      missing = {Trouble::servos_missing, found.joint, 0};
    }
    return false;
  }
  if (found.kind != Trouble::none) {
    report(found);
  }
  if (found.kind == Trouble::other_servos) {
    return true;
  }
  for (Servo& servo : servos_) {
    servo.doubtful = false;
    servo.errors = 0;
  }
  reconnections_.fetch_add(1, kRelaxed);
  lost_.store(false, std::memory_order_release);
  return true;
}

}  // namespace molmoact2::bus::feetech
