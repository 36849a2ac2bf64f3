// The door to CAN and to Damiao motors. What is wrong with options is refused with ValueError; calls that
// wait for the bus let other Python threads run.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/joint_arrays.h"
#include "bus/can/slcan_codec.h"
#include "bus/can/slcan_link.h"
#include "bus/can/socketcan_link.h"
#include "bus/damiao/damiao_port.h"

namespace py = pybind11;

namespace molmoact2::bindings {

namespace {

using namespace bus;

using Ranges = std::tuple<double, double, double>;

MitRanges ranges_of(const Ranges& values) {
  const MitRanges ranges{std::get<0>(values), std::get<1>(values), std::get<2>(values)};
  for (const double value : {ranges.position, ranges.velocity, ranges.torque}) {
    if (!(value > 0.0) || !std::isfinite(value)) {
      throw py::value_error("ranges are the full scales of position, velocity and torque, all above 0");
    }
  }
  return ranges;
}

CanFrame frame_of(std::uint32_t id, const std::string& data, bool extended, bool remote) {
  if (data.size() > kCanDataBytes) {
    throw py::value_error("a frame has at most 8 bytes, got " + std::to_string(data.size()));
  }
  CanFrame frame;
  frame.id = id;
  frame.extended = extended;
  frame.remote = remote;
  frame.length = static_cast<std::uint8_t>(data.size());
  std::ranges::copy(data, frame.data.begin());
  return frame;
}

py::bytes bytes_of(const CanFrame& frame) {
  return {reinterpret_cast<const char*>(frame.data.data()), frame.length};
}

// --- codecs ---

const char* name(SlcanEvent event) {
  switch (event) {
    case SlcanEvent::none:
      return "none";
    case SlcanEvent::frame:
      return "frame";
    case SlcanEvent::answer:
      return "answer";
    case SlcanEvent::refusal:
      return "refusal";
    case SlcanEvent::malformed:
      return "malformed";
  }
  return "unknown";
}

py::list feed(SlcanParser& parser, const std::string& bytes) {
  py::list events;
  for (const char byte : bytes) {
    CanFrame frame;
    const SlcanEvent event = parser.take(static_cast<std::uint8_t>(byte), frame);
    if (event == SlcanEvent::frame) {
      events.append(py::make_tuple(name(event), frame.id, bytes_of(frame), frame.extended, frame.remote));
    } else if (event != SlcanEvent::none) {
      events.append(py::make_tuple(name(event)));
    }
  }
  return events;
}

void bind_codecs(py::module_& module) {
  module.def(
      "encode_slcan",
      [](std::uint32_t id, const std::string& data, bool extended, bool remote) {
        std::array<std::uint8_t, kSlcanLineBytes> line{};
        const std::size_t size = encode_slcan(frame_of(id, data, extended, remote), line);
        if (size == 0) {
          throw py::value_error("id " + std::to_string(id) + " is too large for its kind of frame");
        }
        return py::bytes(reinterpret_cast<const char*>(line.data()), size);
      },
      py::arg("can_id"), py::arg("data"), py::arg("extended") = false, py::arg("remote") = false);
  py::class_<SlcanParser>(module, "SlcanParser").def(py::init<>()).def("feed", &feed, py::arg("data"));
  module.def(
      "encode_mit",
      [](double position, double velocity, double kp, double kd, double torque, const Ranges& ranges) {
        CanFrame frame;
        if (!encode_mit(1, {position, velocity, kp, kd, torque}, ranges_of(ranges), frame)) {
          throw py::value_error("every number of a MIT frame must be finite");
        }
        return bytes_of(frame);
      },
      py::arg("position"), py::arg("velocity"), py::arg("kp"), py::arg("kd"), py::arg("torque"),
      py::arg("ranges"));
  module.def(
      "decode_mit",
      [](const std::string& data, const Ranges& ranges) -> py::object {
        MitCommand command;
        if (!decode_mit(frame_of(1, data, false, false), ranges_of(ranges), command)) {
          return py::none();
        }
        return py::make_tuple(command.position, command.velocity, command.kp, command.kd, command.torque);
      },
      py::arg("data"), py::arg("ranges"));
  module.def(
      "decode_feedback",
      [](const std::string& data, const Ranges& ranges) -> py::object {
        MotorFeedback feedback;
        if (!decode_feedback(frame_of(1, data, false, false), ranges_of(ranges), feedback)) {
          return py::none();
        }
        return py::make_tuple(feedback.id, static_cast<int>(feedback.status), feedback.position,
                              feedback.velocity, feedback.torque, feedback.driver_celsius,
                              feedback.rotor_celsius);
      },
      py::arg("data"), py::arg("ranges"));
  module.def(
      "status_text", [](int status) { return text(static_cast<MotorStatus>(status)); }, py::arg("status"));
}

// --- weight ---

SerialChain chain_of(const std::vector<ChainLink>& links, const std::array<double, 3>& gravity) {
  const std::string wrong = check(links);
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  return {links, gravity};
}

void bind_chain(py::module_& module) {
  py::class_<ChainLink>(module, "ChainLink")
      .def(py::init([](const std::array<double, 3>& position, const std::array<double, 4>& rotation,
                       const std::array<double, 3>& axis, double mass, const std::array<double, 3>& center) {
             return ChainLink{position, rotation, axis, mass, center};
           }),
           py::kw_only(), py::arg("position"), py::arg("rotation"), py::arg("axis"), py::arg("mass"),
           py::arg("center"));
  py::class_<SerialChain>(module, "SerialChain")
      .def(py::init(&chain_of), py::arg("links"), py::arg("gravity"))
      .def_property_readonly("joint_count", &SerialChain::joint_count)
      .def(
          "torques",
          [](const SerialChain& chain, const JointArray& angles) {
            require_joints(angles, chain.joint_count(), "angles");
            py::array_t<double> torques(static_cast<py::ssize_t>(chain.joint_count()));
            chain.torques({angles.data(), chain.joint_count()},
                          {torques.mutable_data(), chain.joint_count()});
            return torques;
          },
          py::arg("angles"));
  py::class_<ArmWeight>(module, "ArmWeight")
      .def(py::init([](const SerialChain& chain, std::size_t first_joint, std::vector<double> factors) {
             return ArmWeight{chain, first_joint, std::move(factors)};
           }),
           py::kw_only(), py::arg("chain"), py::arg("first_joint"), py::arg("factors"));
}

// --- port ---

// Which link a bus is, still unopened.
struct BusPath {
  std::string path;
  std::optional<int> baud;  // none: an interface of the kernel
  int bitrate = 1'000'000;
};

std::shared_ptr<DamiaoPort> make_port(const std::vector<BusPath>& buses,
                                      const std::vector<DamiaoJoint>& joints,
                                      const std::vector<ArmWeight>& weights, double exchange_timeout_s,
                                      double ramp_s, double silence_s, double keep_period_s) {
  DamiaoOptions options;
  options.joints = joints;
  options.weights = weights;
  options.exchange_timeout = nanoseconds(exchange_timeout_s, "exchange_timeout_s");
  options.ramp = nanoseconds(ramp_s, "ramp_s");
  options.silence = nanoseconds(silence_s, "silence_s");
  options.keep_period = nanoseconds(keep_period_s, "keep_period_s");
  const std::string wrong = check(options, buses.size());
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  std::vector<std::unique_ptr<CanLink>> links;
  for (std::size_t i = 0; i < buses.size(); ++i) {
    const BusPath& bus = buses[i];
    if (bus.baud) {
      links.push_back(std::make_unique<SlcanLink>(bus.path, *bus.baud, bus.bitrate));
      continue;
    }
    std::vector<std::uint32_t> accepted;
    for (const DamiaoJoint& joint : joints) {
      if (joint.bus == i) {
        accepted.push_back(joint.feedback_id);
      }
    }
    links.push_back(std::make_unique<SocketCanLink>(bus.path, accepted));
  }
  return std::make_shared<DamiaoPort>(std::move(links), std::move(options));
}

DriveMode mode_of(const std::string& mode) {
  if (mode == "listen") {
    return DriveMode::listen;
  }
  if (mode == "follow") {
    return DriveMode::follow;
  }
  if (mode == "hold") {
    return DriveMode::hold;
  }
  if (mode == "damp") {
    return DriveMode::damp;
  }
  throw py::value_error("mode must be 'listen', 'follow', 'hold' or 'damp', got '" + mode + "'");
}

const char* name(DriveMode mode) {
  switch (mode) {
    case DriveMode::listen:
      return "listen";
    case DriveMode::follow:
      return "follow";
    case DriveMode::hold:
      return "hold";
    case DriveMode::damp:
      return "damp";
  }
  return "unknown";
}

MotorCommand command_of(const std::string& command) {
  if (command == "enable") {
    return MotorCommand::enable;
  }
  if (command == "disable") {
    return MotorCommand::disable;
  }
  if (command == "set_zero") {
    return MotorCommand::set_zero;
  }
  if (command == "clear_error") {
    return MotorCommand::clear_error;
  }
  throw py::value_error("command must be 'enable', 'disable', 'set_zero' or 'clear_error', got '" + command +
                        "'");
}

std::size_t checked_joint(const DamiaoPort& port, std::size_t joint) {
  if (joint >= port.joint_count()) {
    throw py::value_error("there is no joint " + std::to_string(joint) + " of " +
                          std::to_string(port.joint_count()));
  }
  return joint;
}

py::dict report_dict(const DamiaoPort& port) {
  const DamiaoReport report = port.report();
  py::list motors;
  for (std::size_t i = 0; i < port.joint_count(); ++i) {
    const MotorReport& motor = report.motors[i];
    py::dict facts;
    facts["position"] = motor.position;
    facts["velocity"] = motor.velocity;
    facts["torque"] = motor.torque;
    facts["driver_celsius"] = motor.driver_celsius;
    facts["rotor_celsius"] = motor.rotor_celsius;
    facts["time_ns"] = motor.time;
    facts["status"] = static_cast<int>(motor.status);
    facts["fault"] = motor.faulted ? py::cast(static_cast<int>(motor.fault)) : py::none();
    facts["silent"] = motor.silent;
    facts["doubted"] = motor.doubted;
    motors.append(facts);
  }
  py::list buses;
  for (const BusReport& bus : port.buses()) {
    py::dict facts;
    facts["path"] = bus.path;
    facts["open"] = bus.open;
    facts["health"] = name(bus.health);
    facts["malformed"] = bus.malformed;
    facts["error"] = bus.error;
    buses.append(facts);
  }
  py::dict result;
  result["mode"] = name(report.mode);
  result["exchanges"] = report.exchanges;
  result["unanswered"] = report.unanswered;
  result["motors"] = motors;
  result["buses"] = buses;
  return result;
}

void bind_port(py::module_& module) {
  py::class_<BusPath>(module, "CanBus")
      .def_static(
          "slcan",
          [](std::string path, int baud, int bitrate) {
            const std::string wrong = check_slcan_bitrate(bitrate);
            if (!wrong.empty()) {
              throw py::value_error(wrong);
            }
            return BusPath{std::move(path), baud, bitrate};
          },
          py::arg("path"), py::arg("baud"), py::arg("bitrate"))
      .def_static(
          "socketcan", [](std::string interface) { return BusPath{std::move(interface), std::nullopt}; },
          py::arg("interface"));
  py::class_<DamiaoJoint>(module, "DamiaoJoint")
      .def(py::init([](std::size_t bus, std::uint32_t id, std::uint32_t feedback_id, const Ranges& ranges,
                       double kp, double kd, double scale, double offset) {
             return DamiaoJoint{bus, id, feedback_id, ranges_of(ranges), kp, kd, scale, offset};
           }),
           py::kw_only(), py::arg("bus"), py::arg("motor_id"), py::arg("feedback_id"), py::arg("ranges"),
           py::arg("kp"), py::arg("kd"), py::arg("scale"), py::arg("offset"));
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<DamiaoPort, control::Port, std::shared_ptr<DamiaoPort>>(module, "DamiaoPort")
      .def(py::init(&make_port), py::kw_only(), py::arg("buses"), py::arg("joints"), py::arg("weights"),
           py::arg("exchange_timeout_s"), py::arg("ramp_s"), py::arg("silence_s"), py::arg("keep_period_s"))
      .def(
          "open",
          [](DamiaoPort& port) -> std::optional<std::string> {
            std::string error;
            return port.open(error) ? std::nullopt : std::optional(error);
          },
          unlocked)
      .def("close", &DamiaoPort::close, unlocked)
      .def(
          "set_mode",
          [](DamiaoPort& port, const std::string& mode) {
            const DriveMode wanted = mode_of(mode);
            const py::gil_scoped_release release;
            return port.set_mode(wanted);
          },
          py::arg("mode"))
      .def(
          "command",
          [](DamiaoPort& port, std::size_t joint, const std::string& command) {
            checked_joint(port, joint);
            const MotorCommand wanted = command_of(command);
            const py::gil_scoped_release release;
            return port.command(joint, wanted);
          },
          py::arg("joint"), py::arg("command"))
      .def(
          "read_register",
          [](DamiaoPort& port, std::size_t joint, std::uint8_t address) -> std::optional<std::uint32_t> {
            checked_joint(port, joint);
            std::uint32_t value = 0;
            const py::gil_scoped_release release;
            return port.read_register(joint, address, value) ? std::optional(value) : std::nullopt;
          },
          py::arg("joint"), py::arg("address"))
      .def(
          "write_register",
          [](DamiaoPort& port, std::size_t joint, std::uint8_t address, std::uint32_t value) {
            checked_joint(port, joint);
            const py::gil_scoped_release release;
            return port.write_register(joint, address, value);
          },
          py::arg("joint"), py::arg("address"), py::arg("value"))
      .def(
          "save_register",
          [](DamiaoPort& port, std::size_t joint, std::uint8_t address) {
            checked_joint(port, joint);
            const py::gil_scoped_release release;
            return port.save_register(joint, address);
          },
          py::arg("joint"), py::arg("address"))
      .def("clear_faults", &DamiaoPort::clear_faults, unlocked)
      .def("report", &report_dict)
      .def("read",
           [](DamiaoPort& port) -> py::object {
             control::MeasuredState state;
             control::PortStatus status{};
             {
               const py::gil_scoped_release release;
               status = port.read(state);
             }
             if (status != control::PortStatus::ok) {
               return py::none();
             }
             return py::make_tuple(to_array(state.positions, port.joint_count()), state.time,
                                   to_array(state.temperatures, port.joint_count()));
           })
      .def(
          "write",
          [](DamiaoPort& port, const JointArray& positions) {
            control::Command command;
            command.positions = joints_from(positions, port.joint_count(), "positions");
            const py::gil_scoped_release release;
            return port.write(command) == control::PortStatus::ok;
          },
          py::arg("positions"));
}

}  // namespace

void bind_damiao(py::module_& parent) {
  py::module_ module = parent.def_submodule("damiao", "CAN links, and arms of Damiao motors.");
  bind_codecs(module);
  bind_chain(module);
  bind_port(module);
}

}  // namespace molmoact2::bindings
