// The door to csrc/bus/feetech: the codec and the table for tests, tools and drivers, the bus for their
// packets, the port for the loop. Calls that wait for the wire let other Python threads run.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/joint_arrays.h"
#include "bus/feetech/feetech_port.h"
#include "bus/feetech/joint_scale.h"
#include "bus/feetech/packet.h"
#include "bus/feetech/reconnector.h"
#include "bus/feetech/servo_bus.h"
#include "bus/feetech/servo_model.h"

namespace py = pybind11;

namespace molmoact2::bindings {

using namespace bus::feetech;
using bus::LinkStatus;
using control::Command;
using control::JointVector;
using control::MeasuredState;
using control::monotonic_now;
using control::Nanoseconds;
using control::Port;
using control::PortStatus;

namespace {

using Bytes = std::vector<std::uint8_t>;

std::span<const std::uint8_t> view(const py::bytes& bytes) {
  const std::string_view text = bytes;
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

py::bytes to_bytes(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::bytes packet_bytes(const Packet& packet) {
  if (packet.empty()) {
    throw py::value_error("a packet holds at most " + std::to_string(kMaxParameters) +
                          " bytes of parameters, and `size` bytes of data for each servo");
  }
  return to_bytes(packet.bytes());
}

// --- codec ---

class PyParser {
 public:
  PyParser(std::size_t data_size, const py::bytes& echo) {
    if (data_size > kMaxParameters) {
      throw py::value_error("data_size is at most " + std::to_string(kMaxParameters) + ", got " +
                            std::to_string(data_size));
    }
    parser_.expect(data_size, view(echo));
  }

  std::vector<std::tuple<int, int, py::bytes>> feed(const py::bytes& stream) {
    std::vector<std::tuple<int, int, py::bytes>> packets;
    std::span<const std::uint8_t> left = view(stream);
    Status status;
    do {
      const std::span<std::uint8_t> space = parser_.space();
      const std::size_t count = std::min(space.size(), left.size());
      std::copy_n(left.begin(), count, space.begin());
      parser_.take(count);
      left = left.subspan(count);
      while (parser_.next(status)) {
        packets.emplace_back(status.servo, status.error, to_bytes(std::span(status.data).first(status.size)));
      }
    } while (!left.empty());
    return packets;
  }

  py::dict counts() const {
    py::dict counts;
    counts["checksum_errors"] = parser_.counts().checksum_errors;
    counts["wrong_lengths"] = parser_.counts().wrong_lengths;
    counts["garbage"] = parser_.counts().garbage;
    return counts;
  }

 private:
  StatusParser parser_;
};

unsigned checked_sign_bit(unsigned bit) {
  if (bit < 1 || bit > 15) {
    throw py::value_error("sign_bit is 1 to 15, got " + std::to_string(bit));
  }
  return bit;
}

void bind_codec(py::module_& module) {
  module.attr("BROADCAST") = kBroadcast;
  module.attr("MAX_SERVO") = kMaxServo;
  py::dict errors;
  errors["voltage"] = kVoltageError;
  errors["angle"] = kAngleError;
  errors["temperature"] = kTemperatureError;
  errors["current"] = kCurrentError;
  errors["overload"] = kOverloadError;
  module.attr("ERROR_BITS") = errors;
  module.def(
      "instruction_packet",
      [](std::uint8_t servo, std::uint8_t instruction, const py::bytes& parameters) {
        return packet_bytes(
            instruction_packet(servo, static_cast<Instruction>(instruction), view(parameters)));
      },
      py::arg("servo"), py::arg("instruction"), py::arg("parameters"));
  module.def(
      "ping_packet", [](std::uint8_t servo) { return packet_bytes(ping_packet(servo)); }, py::arg("servo"));
  module.def(
      "read_packet",
      [](std::uint8_t servo, std::uint8_t address, std::uint8_t size) {
        return packet_bytes(read_packet(servo, address, size));
      },
      py::arg("servo"), py::arg("address"), py::arg("size"));
  module.def(
      "write_packet",
      [](std::uint8_t servo, std::uint8_t address, const py::bytes& data) {
        return packet_bytes(write_packet(servo, address, view(data)));
      },
      py::arg("servo"), py::arg("address"), py::arg("data"));
  module.def(
      "reg_write_packet",
      [](std::uint8_t servo, std::uint8_t address, const py::bytes& data) {
        return packet_bytes(reg_write_packet(servo, address, view(data)));
      },
      py::arg("servo"), py::arg("address"), py::arg("data"));
  module.def("action_packet", [] { return packet_bytes(action_packet()); });
  module.def(
      "sync_read_packet",
      [](std::uint8_t address, std::uint8_t size, const Bytes& servos) {
        return packet_bytes(sync_read_packet(address, size, servos));
      },
      py::arg("address"), py::arg("size"), py::arg("servos"));
  module.def(
      "sync_write_packet",
      [](std::uint8_t address, std::uint8_t size, const Bytes& servos, const py::bytes& data) {
        return packet_bytes(sync_write_packet(address, size, servos, view(data)));
      },
      py::arg("address"), py::arg("size"), py::arg("servos"), py::arg("data"));
  module.def(
      "encode_sign_magnitude",
      [](std::int32_t value, unsigned sign_bit) {
        return encode_sign_magnitude(value, checked_sign_bit(sign_bit));
      },
      py::arg("value"), py::arg("sign_bit"));
  module.def(
      "decode_sign_magnitude",
      [](std::uint32_t encoded, unsigned sign_bit) {
        return decode_sign_magnitude(encoded, checked_sign_bit(sign_bit));
      },
      py::arg("encoded"), py::arg("sign_bit"));
  py::class_<PyParser>(module, "StatusParser")
      .def(py::init<std::size_t, const py::bytes&>(), py::arg("data_size"), py::arg("echo") = py::bytes())
      .def("feed", &PyParser::feed, py::arg("stream"))
      .def_property_readonly("counts", &PyParser::counts);
}

// --- tables ---

void bind_models(py::module_& module) {
  py::class_<Register>(module, "Register")
      .def_property_readonly("name", [](const Register& r) { return std::string(r.name); })
      .def_readonly("address", &Register::address)
      .def_readonly("size", &Register::size)
      .def_readonly("sign_bit", &Register::sign_bit)
      .def_property_readonly("eeprom", [](const Register& r) { return r.storage == Storage::eeprom; })
      .def_property_readonly("read_only", [](const Register& r) { return r.storage == Storage::fixed; })
      .def_property_readonly("lowest", &Register::lowest)
      .def_property_readonly("highest", &Register::highest)
      .def(
          "decode",
          [](const Register& r, const py::bytes& data) {
            if (view(data).size() != r.size) {
              throw py::value_error(std::string(r.name) + " has " + std::to_string(r.size) + " bytes, got " +
                                    std::to_string(view(data).size()));
            }
            return r.decode(view(data));
          },
          py::arg("data"))
      .def(
          "encode",
          [](const Register& r, std::int32_t value) {
            if (value < r.lowest() || value > r.highest()) {
              throw py::value_error(std::string(r.name) + " holds " + std::to_string(r.lowest()) + " to " +
                                    std::to_string(r.highest()) + ", got " + std::to_string(value));
            }
            std::array<std::uint8_t, 4> bytes{};
            r.encode(value, bytes);
            return to_bytes(std::span(bytes).first(r.size));
          },
          py::arg("value"));

  py::class_<ServoModel, std::unique_ptr<ServoModel, py::nodelete>>(module, "ServoModel")
      .def_property_readonly("name", [](const ServoModel& m) { return std::string(m.name); })
      .def_readonly("number", &ServoModel::number)
      .def_readonly("resolution", &ServoModel::resolution)
      .def_property_readonly("registers",
                             [](const ServoModel& m) {
                               py::dict registers;
                               for (const Register& r : m.registers) {
                                 registers[py::str(std::string(r.name))] = r;
                               }
                               return registers;
                             })
      .def_property_readonly("baud_codes", [](const ServoModel& m) {
        py::dict codes;
        for (const BaudCode& code : m.bauds) {
          codes[py::int_(code.baud)] = code.code;
        }
        return codes;
      });
  module.attr("STS3215") = py::cast(&sts3215(), py::return_value_policy::reference);

  py::class_<JointScale>(module, "JointScale")
      .def(py::init([](int range_min, int range_max, bool percent, bool inverted) {
             if (range_min >= range_max) {
               throw py::value_error("range_min must be below range_max, got " + std::to_string(range_min) +
                                     " and " + std::to_string(range_max));
             }
             return JointScale{range_min, range_max, percent ? JointUnit::percent : JointUnit::degrees,
                               inverted};
           }),
           py::arg("range_min"), py::arg("range_max"), py::arg("percent"), py::arg("inverted"))
      .def("position_of", &JointScale::position_of, py::arg("ticks"))
      .def(
          "ticks_of",
          [](const JointScale& scale, double position) {
            if (!std::isfinite(position)) {
              throw py::value_error("a position is finite, got " + std::to_string(position));
            }
            return scale.ticks_of(position);
          },
          py::arg("position"));
}

// --- bus ---

std::vector<Answer> answers_from(const Bytes& servos) {
  if (servos.empty() || servos.size() > kMaxServos) {
    throw py::value_error("one request is for 1 to " + std::to_string(kMaxServos) + " servos, got " +
                          std::to_string(servos.size()));
  }
  std::vector<Answer> answers(servos.size());
  for (std::size_t i = 0; i < servos.size(); ++i) {
    answers[i].servo = servos[i];
  }
  return answers;
}

void require_block(std::size_t size) {
  if (size == 0 || size > kMaxBlock) {
    throw py::value_error("one answer holds 1 to " + std::to_string(kMaxBlock) + " bytes, got " +
                          std::to_string(size));
  }
}

// Data and error bits of one servo's answer; None where none came in any of `tries`.
std::optional<std::pair<py::bytes, int>> transact(ServoBus& bus, const Packet& request, std::size_t data_size,
                                                  std::uint8_t servo, double timeout_s, int tries) {
  if (request.empty()) {
    throw py::value_error("the data do not fit a packet");
  }
  const Nanoseconds timeout = nanoseconds(timeout_s, "timeout_s");
  std::array<Answer, 1> answer{};
  answer[0].servo = servo;
  {
    const py::gil_scoped_release release;
    for (int attempt = 0; attempt < tries && !answer[0].arrived; ++attempt) {
      // One turn an attempt: a loop that runs beside goes in between.
      const BusTurn turn(bus);
      if (attempt > 0) {
        bus.count_retry();
      }
      if (bus.exchange(request, data_size, answer, timeout, monotonic_now() + 20 * timeout) ==
          LinkStatus::lost) {
        break;
      }
    }
  }
  if (!answer[0].arrived) {
    return std::nullopt;
  }
  return std::pair(to_bytes(std::span(answer[0].data).first(data_size)), int{answer[0].error});
}

py::dict statistics(const ServoBus& bus) {
  const BusCounters& counters = bus.counters();
  py::dict statistics;
  statistics["exchanges"] = counters.exchanges.load();
  statistics["retries"] = counters.retries.load();
  statistics["timeouts"] = counters.timeouts.load();
  statistics["checksum_errors"] = counters.checksum_errors.load();
  statistics["wrong_lengths"] = counters.wrong_lengths.load();
  statistics["garbage_bytes"] = counters.garbage.load();
  statistics["foreign_packets"] = counters.foreign.load();
  return statistics;
}

void bind_bus(py::module_& module) {
  py::class_<ServoBus, std::shared_ptr<ServoBus>>(module, "ServoBus")
      .def(py::init([](std::string path, int baud) {
             if (baud <= 0) {
               throw py::value_error("baud must be above 0, got " + std::to_string(baud));
             }
             return std::make_shared<ServoBus>(std::move(path), baud);
           }),
           py::arg("path"), py::arg("baud"))
      .def("open",
           [](ServoBus& bus) {
             std::string error;
             bool opened = false;
             {
               const py::gil_scoped_release release;
               const BusTurn turn(bus);
               opened = bus.open(error);
             }
             if (!opened) {
               throw std::runtime_error(error);
             }
           })
      .def("close",
           [](ServoBus& bus) {
             const py::gil_scoped_release release;
             const BusTurn turn(bus);
             bus.close();
           })
      .def_property_readonly("is_open", &ServoBus::is_open)
      .def_property_readonly("echoes", &ServoBus::echoes)
      .def_property_readonly("path", &ServoBus::path)
      .def_property_readonly("baud", &ServoBus::baud)
      .def(
          "ping",
          [](ServoBus& bus, std::uint8_t servo, double timeout_s, int tries) -> std::optional<int> {
            const auto answer = transact(bus, ping_packet(servo), 0, servo, timeout_s, tries);
            return answer ? std::optional(answer->second) : std::nullopt;
          },
          py::arg("servo"), py::arg("timeout_s"), py::arg("tries"))
      .def(
          "read",
          [](ServoBus& bus, std::uint8_t servo, std::uint8_t address, std::uint8_t size, double timeout_s,
             int tries) {
            require_block(size);
            return transact(bus, read_packet(servo, address, size), size, servo, timeout_s, tries);
          },
          py::arg("servo"), py::arg("address"), py::arg("size"), py::arg("timeout_s"), py::arg("tries"))
      .def(
          "write",
          [](ServoBus& bus, std::uint8_t servo, std::uint8_t address, const py::bytes& data, double timeout_s,
             int tries) -> std::optional<int> {
            const auto answer =
                transact(bus, write_packet(servo, address, view(data)), 0, servo, timeout_s, tries);
            return answer ? std::optional(answer->second) : std::nullopt;
          },
          py::arg("servo"), py::arg("address"), py::arg("data"), py::arg("timeout_s"), py::arg("tries"))
      .def(
          "sync_read",
          [](ServoBus& bus, const Bytes& servos, std::uint8_t address, std::uint8_t size, double timeout_s) {
            require_block(size);
            std::vector<Answer> answers = answers_from(servos);
            const Nanoseconds timeout = nanoseconds(timeout_s, "timeout_s");
            {
              const py::gil_scoped_release release;
              const BusTurn turn(bus);
              bus.read_block(address, size, answers, kAnswerSlack, monotonic_now() + timeout);
            }
            py::dict data;
            for (const Answer& answer : answers) {
              if (answer.arrived) {
                data[py::int_(answer.servo)] =
                    py::make_tuple(to_bytes(std::span(answer.data).first(size)), int{answer.error});
              }
            }
            return data;
          },
          py::arg("servos"), py::arg("address"), py::arg("size"), py::arg("timeout_s"))
      .def(
          "sync_write",
          [](ServoBus& bus, const Bytes& servos, std::uint8_t address, std::uint8_t size,
             const py::bytes& data, double timeout_s) {
            const Packet packet = sync_write_packet(address, size, servos, view(data));
            if (packet.empty()) {
              throw py::value_error("data must be `size` bytes for each servo, and fit a packet");
            }
            const Nanoseconds timeout = nanoseconds(timeout_s, "timeout_s");
            const py::gil_scoped_release release;
            const BusTurn turn(bus);
            return bus.send(packet, monotonic_now() + timeout) == LinkStatus::ok;
          },
          py::arg("servos"), py::arg("address"), py::arg("size"), py::arg("data"), py::arg("timeout_s"))
      .def("statistics", &statistics);
}

// --- port ---

const char* name(Trouble trouble) {
  switch (trouble) {
    case Trouble::none:
      return "none";
    case Trouble::unplugged:
      return "unplugged";
    case Trouble::protection:
      return "protection";
    case Trouble::torque_lost:
      return "torque_lost";
    case Trouble::other_servos:
      return "other_servos";
    case Trouble::servos_missing:
      return "servos_missing";
  }
  return "unknown";
}

const char* name(PortStatus status) {
  switch (status) {
    case PortStatus::ok:
      return "ok";
    case PortStatus::no_data:
      return "no_data";
    case PortStatus::failed:
      return "failed";
  }
  return "unknown";
}

std::shared_ptr<FeetechPort> make_port(std::shared_ptr<ServoBus> bus, const Bytes& servos,
                                       const std::vector<JointScale>& scales,
                                       const std::vector<int>& homing_offsets, std::uint32_t block_every,
                                       double read_budget_s, double answer_slack_s) {
  if (scales.size() != servos.size() || homing_offsets.size() != servos.size()) {
    throw py::value_error("servos, scales and homing_offsets must have the same length");
  }
  PortOptions options;
  for (std::size_t i = 0; i < servos.size(); ++i) {
    options.joints.push_back({servos[i], scales[i], homing_offsets[i]});
  }
  options.block_every = block_every;
  options.read_budget = nanoseconds(read_budget_s, "read_budget_s");
  options.answer_slack = nanoseconds(answer_slack_s, "answer_slack_s");
  const std::string wrong = check(options);
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  return std::make_shared<FeetechPort>(std::move(bus), std::move(options));
}

py::object measured_tuple(const FeetechPort& port, const ArmState& state) {
  const std::size_t count = port.joint_count();
  return py::make_tuple(to_array(state.measured.positions, count), state.measured.time,
                        to_array(state.measured.temperatures, count),
                        to_array(state.measured.currents, count), to_array(state.loads, count),
                        to_array(state.voltages, count));
}

py::dict port_statistics(FeetechPort& port) {
  py::dict result = statistics(port.bus());
  result["reconnections"] = port.reconnections();
  py::list joints;
  for (std::size_t i = 0; i < port.joint_count(); ++i) {
    const ServoCounters& counters = port.counters(i);
    py::dict joint;
    joint["answers"] = counters.answers.load();
    joint["misses"] = counters.misses.load();
    joint["last_answer_ns"] = counters.last_answer.load();
    joint["errors"] = int{counters.errors.load()};
    joints.append(joint);
  }
  result["joints"] = joints;
  return result;
}

void bind_port(py::module_& module) {
  py::class_<FeetechPort, Port, std::shared_ptr<FeetechPort>>(module, "FeetechPort")
      .def(py::init(&make_port), py::arg("bus"), py::kw_only(), py::arg("servos"), py::arg("scales"),
           py::arg("homing_offsets"), py::arg("block_every"), py::arg("read_budget_s"),
           py::arg("answer_slack_s"))
      .def(
          "follow", [](FeetechPort& port, bool commands) { port.follow(commands); }, py::arg("commands"))
      .def_property_readonly("follows", &FeetechPort::follows)
      .def_property_readonly("lost", &FeetechPort::lost)
      .def_property_readonly("trouble",
                             [](const FeetechPort& port) {
                               const TroubleReport report = port.trouble();
                               return py::make_tuple(name(report.kind), int{report.joint},
                                                     int{report.errors});
                             })
      .def("reset",
           [](FeetechPort& port) {
             const py::gil_scoped_release release;
             port.reset();
           })
      .def(
          "measure",
          [](FeetechPort& port, double timeout_s) -> py::object {
            const Nanoseconds timeout = nanoseconds(timeout_s, "timeout_s");
            ArmState state;
            bool complete = false;
            {
              const py::gil_scoped_release release;
              complete = port.measure(state, timeout);
            }
            return complete ? measured_tuple(port, state) : py::none();
          },
          py::arg("timeout_s"))
      .def(
          "send_targets",
          [](FeetechPort& port, const JointArray& positions) {
            const JointVector targets = joints_from(positions, port.joint_count(), "positions");
            const py::gil_scoped_release release;
            return port.send_targets(targets);
          },
          py::arg("positions"))
      // The loop's two calls, for tests and benchmarks.
      .def("read",
           [](FeetechPort& port) {
             MeasuredState state;
             PortStatus status{};
             {
               const py::gil_scoped_release release;
               status = port.read(state);
             }
             return py::make_tuple(name(status), to_array(state.positions, port.joint_count()), state.time);
           })
      .def(
          "write",
          [](FeetechPort& port, const JointArray& positions) {
            Command command;
            command.positions = joints_from(positions, port.joint_count(), "positions");
            const py::gil_scoped_release release;
            return name(port.write(command));
          },
          py::arg("positions"))
      // Ticks of the loop one right after the other, without Python in between: each writes the pose that it
      // has read. Stops at the first that fails.
      .def(
          "exchange",
          [](FeetechPort& port, std::size_t ticks) {
            std::vector<Nanoseconds> ends;
            ends.reserve(ticks);
            const py::gil_scoped_release release;
            for (MeasuredState state; ends.size() < ticks; ends.push_back(monotonic_now())) {
              if (port.read(state) != PortStatus::ok) break;
              Command command;
              command.positions = state.positions;
              if (port.write(command) != PortStatus::ok) break;
            }
            return ends;
          },
          py::arg("ticks"))
      .def("statistics", &port_statistics);

  py::class_<Reconnector>(module, "Reconnector")
      .def(py::init([](std::shared_ptr<FeetechPort> port, double patience_s) {
             return std::make_unique<Reconnector>(std::move(port), nanoseconds(patience_s, "patience_s"));
           }),
           py::arg("port"), py::arg("patience_s"))
      .def("end", [](Reconnector& reconnector) {
        const py::gil_scoped_release release;
        reconnector.end();
      });
}

}  // namespace

void bind_feetech(py::module_& module) {
  py::module_ feetech = module.def_submodule("feetech", "Feetech servos: packets, tables, bus and port.");
  bind_codec(feetech);
  bind_models(feetech);
  bind_bus(feetech);
  bind_port(feetech);
}

}  // namespace molmoact2::bindings
