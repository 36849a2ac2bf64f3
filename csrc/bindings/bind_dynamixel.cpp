// The door to csrc/bus/dynamixel. Ids, sizes and options are checked here and refused with ValueError; calls
// that wait for the wire let other threads have Python's lock. What the wire says comes back as a word, not
// as an error: the driver knows what it means.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/joint_arrays.h"
#include "bus/dynamixel/dynamixel_bus.h"
#include "bus/dynamixel/dynamixel_port.h"
#include "bus/dynamixel/packet.h"

namespace py = pybind11;

namespace molmoact2::bindings {

namespace {

using namespace bus::dynamixel;
using control::MeasuredState;
using control::monotonic_now;
using control::Nanoseconds;
using control::PortStatus;

using Bytes = std::vector<std::uint8_t>;

std::span<const std::uint8_t> view(const py::bytes& bytes) {
  const std::string_view text = bytes;
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

py::bytes to_bytes(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

const char* name(ExchangeStatus status) {
  switch (status) {
    case ExchangeStatus::ok:
      return "ok";
    case ExchangeStatus::timed_out:
      return "timed_out";
    case ExchangeStatus::corrupt:
      return "corrupt";
    case ExchangeStatus::refused:
      return "refused";
    case ExchangeStatus::lost:
      return "lost";
  }
  return "timed_out";
}

constexpr std::array<const char*, 7> kTroubles{"none",           "link_lost", "servo_reset", "hardware_error",
                                               "watchdog_fired", "silent",    "dismissed"};

const char* name(Trouble trouble) { return kTroubles[static_cast<std::size_t>(trouble)]; }

Trouble trouble_of(const std::string& text) {
  for (std::size_t i = 0; i < kTroubles.size(); ++i) {
    if (text == kTroubles[i]) {
      return static_cast<Trouble>(i);
    }
  }
  throw py::value_error("no trouble '" + text + "'");
}

BlockRead way_of(const std::string& text) {
  if (text == "sync") {
    return BlockRead::sync;
  }
  if (text == "fast_sync") {
    return BlockRead::fast_sync;
  }
  if (text == "bulk") {
    return BlockRead::bulk;
  }
  if (text == "fast_bulk") {
    return BlockRead::fast_bulk;
  }
  throw py::value_error("way must be 'sync', 'fast_sync', 'bulk' or 'fast_bulk', got '" + text + "'");
}

std::uint8_t checked_byte(int value, int highest, const char* what) {
  if (value < 0 || value > highest) {
    throw py::value_error(std::string(what) + " must be 0 to " + std::to_string(highest) + ", got " +
                          std::to_string(value));
  }
  return static_cast<std::uint8_t>(value);
}

std::uint16_t checked_word(int value, const char* what) {
  if (value < 0 || value > 0xFFFF) {
    throw py::value_error(std::string(what) + " must be 0 to 65535, got " + std::to_string(value));
  }
  return static_cast<std::uint16_t>(value);
}

std::size_t checked_length(int length) {
  if (length < 1 || static_cast<std::size_t>(length) > kMaxBlockBytes) {
    throw py::value_error("length must be 1 to " + std::to_string(kMaxBlockBytes) + " bytes, got " +
                          std::to_string(length));
  }
  return static_cast<std::size_t>(length);
}

// --- packets ---

void bind_packets(py::module_& module) {
  module.def(
      "crc16", [](const py::bytes& bytes, std::uint16_t crc) { return crc16(view(bytes), crc); },
      py::arg("bytes"), py::arg("crc") = 0);
  module.def(
      "encode",
      [](int id, int instruction, const py::bytes& parameters) {
        std::array<std::uint8_t, kMaxPacketBytes> packet{};
        const std::size_t size =
            encode(checked_byte(id, 0xFF, "id"),
                   static_cast<Instruction>(checked_byte(instruction, 0xFF, "instruction")), view(parameters),
                   packet);
        if (size == 0) {
          throw py::value_error("a packet has at most " + std::to_string(kMaxPacketBytes) +
                                " bytes with its stuffing; these " + std::to_string(view(parameters).size()) +
                                " parameters do not fit");
        }
        return to_bytes(std::span<const std::uint8_t>(packet).first(size));
      },
      py::arg("id"), py::arg("instruction"), py::arg("parameters"));
  py::class_<PacketParser>(module, "PacketParser")
      .def(py::init([](std::size_t longest) {
             auto parser = std::make_unique<PacketParser>();
             parser->expect(longest);
             return parser;
           }),
           py::arg("longest") = kMaxPacketBytes)
      .def(
          "feed",
          [](PacketParser& parser, const py::bytes& bytes) {
            py::list packets;
            std::span<const std::uint8_t> left = view(bytes);
            while (!left.empty()) {
              const std::span<std::uint8_t> room = parser.room();
              const std::size_t taken = std::min(room.size(), left.size());
              std::copy_n(left.begin(), taken, room.begin());
              parser.add(taken);
              left = left.subspan(taken);
              Packet packet;
              while (parser.next(packet)) {
                packets.append(py::make_tuple(packet.id, static_cast<int>(packet.instruction),
                                              to_bytes(packet.parameters)));
              }
            }
            return packets;
          },
          py::arg("bytes"))
      .def_property_readonly("damaged", &PacketParser::damaged);
}

// --- bus ---

// Runs one exchange with the turn, without Python's lock; `otherwise` where the turn does not come in time.
template <typename Result, typename Exchange>
Result with_turn(DynamixelBus& bus, Nanoseconds deadline, const Result& otherwise, const Exchange& exchange) {
  const py::gil_scoped_release released;
  if (!bus.wait_turn(deadline)) {
    return otherwise;
  }
  const Result result = exchange();
  bus.give_turn();
  return result;
}

Nanoseconds deadline_after(double timeout_s) { return monotonic_now() + nanoseconds(timeout_s, "timeout_s"); }

py::tuple exchange(DynamixelBus& bus, int id, int instruction, const py::bytes& parameters, int size,
                   double timeout_s) {
  const std::uint8_t target = checked_byte(id, kBroadcastId, "id");
  const auto what = static_cast<Instruction>(checked_byte(instruction, 0xFF, "instruction"));
  const std::span<const std::uint8_t> sent = view(parameters);
  std::array<std::uint8_t, kMaxPacketBytes> room{};
  if (encode(target, what, sent, room) == 0) {
    throw py::value_error("a packet of " + std::to_string(sent.size()) + " parameters is too long");
  }
  if (size < 0 || static_cast<std::size_t>(size) > room.size() - kStatusOverhead) {
    throw py::value_error("an answer has 0 to " + std::to_string(room.size() - kStatusOverhead) +
                          " bytes of data, got " + std::to_string(size));
  }
  const std::span<std::uint8_t> data = std::span(room).first(static_cast<std::size_t>(size));
  const Nanoseconds deadline = deadline_after(timeout_s);
  const auto answer = with_turn<Answer>(bus, deadline, Answer{},
                                        [&] { return bus.exchange(target, what, sent, data, deadline); });
  return py::make_tuple(name(answer.status), answer.error,
                        answer.status == ExchangeStatus::ok ? to_bytes(data) : py::bytes());
}

py::tuple broadcast_ping(DynamixelBus& bus, double timeout_s) {
  using Found = std::tuple<int, int, int>;
  std::vector<Found> found;
  const Nanoseconds deadline = deadline_after(timeout_s);
  const auto status = with_turn<ExchangeStatus>(bus, deadline, ExchangeStatus::timed_out, [&] {
    return bus.broadcast_ping(deadline, [&found](std::uint8_t id, unsigned model, std::uint8_t firmware) {
      found.emplace_back(id, model, firmware);
    });
  });
  return py::make_tuple(name(status), found);
}

py::tuple read_blocks(DynamixelBus& bus, const std::string& way,
                      const std::vector<std::pair<int, int>>& servos, int length, double timeout_s) {
  if (servos.empty() || servos.size() > kMaxServos) {
    throw py::value_error("1 to " + std::to_string(kMaxServos) + " servos can be read at once, got " +
                          std::to_string(servos.size()));
  }
  const BlockRead how = way_of(way);
  const std::size_t size = checked_length(length);
  std::vector<Block> blocks(servos.size());
  for (std::size_t i = 0; i < servos.size(); ++i) {
    blocks[i].id = checked_byte(servos[i].first, kMaxId, "id");
    blocks[i].address = checked_word(servos[i].second, "address");
  }
  const Nanoseconds deadline = deadline_after(timeout_s);
  const auto status = with_turn<ExchangeStatus>(bus, deadline, ExchangeStatus::timed_out,
                                                [&] { return bus.read_blocks(how, blocks, size, deadline); });
  py::list data;
  for (const Block& block : blocks) {
    data.append(block.received ? py::object(to_bytes(std::span<const std::uint8_t>(block.data).first(size)))
                               : py::object(py::none()));
  }
  return py::make_tuple(name(status), data);
}

std::string sync_write(DynamixelBus& bus, int address, int length, const py::bytes& parameters,
                       double timeout_s) {
  const std::uint16_t where = checked_word(address, "address");
  const std::size_t size = checked_length(length);
  const std::span<const std::uint8_t> sent = view(parameters);
  if (sent.empty() || sent.size() % (size + 1) != 0 || sent.size() > kMaxServos * (size + 1)) {
    throw py::value_error("parameters must be an id and " + std::to_string(size) +
                          " bytes for each of 1 to " + std::to_string(kMaxServos) + " servos, got " +
                          std::to_string(sent.size()) + " bytes");
  }
  const Nanoseconds deadline = deadline_after(timeout_s);
  return name(with_turn<ExchangeStatus>(bus, deadline, ExchangeStatus::timed_out,
                                        [&] { return bus.sync_write(where, size, sent, deadline); }));
}

std::string open(DynamixelBus& bus) {
  std::string error;
  const py::gil_scoped_release released;
  bus.link().open(error);
  return error;
}

py::dict counters(const DynamixelBus& bus) {
  py::dict counts;
  counts["exchanges"] = bus.counters().exchanges.load();
  counts["timeouts"] = bus.counters().timeouts.load();
  counts["damaged"] = bus.counters().damaged.load();
  counts["retries"] = bus.counters().retries.load();
  return counts;
}

void bind_bus(py::module_& module) {
  py::class_<DynamixelBus, std::shared_ptr<DynamixelBus>>(module, "Bus")
      .def(py::init([](const std::string& path, int baud, double slack_s) {
             if (baud <= 0) {
               throw py::value_error("baud must be above 0, got " + std::to_string(baud));
             }
             if (!(slack_s > 0.0 && slack_s <= 1.0)) {
               throw py::value_error("slack_s must be above 0 and at most 1, got " + std::to_string(slack_s));
             }
             return std::make_shared<DynamixelBus>(path, baud, slack_s);
           }),
           py::arg("path"), py::arg("baud"), py::arg("slack_s"))
      .def("open", &open)
      .def("close", [](DynamixelBus& bus) { bus.link().close(); })
      .def_property_readonly("is_open", [](const DynamixelBus& bus) { return bus.link().is_open(); })
      .def("exchange", &exchange, py::arg("id"), py::arg("instruction"), py::arg("parameters"),
           py::arg("size"), py::arg("timeout_s"))
      .def("broadcast_ping", &broadcast_ping, py::arg("timeout_s"))
      .def("read_blocks", &read_blocks, py::arg("way"), py::arg("servos"), py::arg("length"),
           py::arg("timeout_s"))
      .def("sync_write", &sync_write, py::arg("address"), py::arg("length"), py::arg("parameters"),
           py::arg("timeout_s"))
      .def("counters", &counters);
}

// --- port ---

ServoJoint make_joint(int id, int block_address, double zero_ticks, double units_per_tick, int ticks_min,
                      int ticks_max, bool clamp_measured, double velocity_per_count, double amperes_per_count,
                      int fatal_errors) {
  if (units_per_tick == 0.0 || !std::isfinite(units_per_tick) || !std::isfinite(zero_ticks)) {
    throw py::value_error("units_per_tick must be finite and not 0, zero_ticks finite; got " +
                          std::to_string(units_per_tick) + " and " + std::to_string(zero_ticks));
  }
  if (ticks_min >= ticks_max) {
    throw py::value_error("ticks_min must be below ticks_max, got " + std::to_string(ticks_min) + " and " +
                          std::to_string(ticks_max));
  }
  ServoJoint joint;
  joint.id = checked_byte(id, kMaxId, "id");
  joint.block_address = checked_word(block_address, "block_address");
  joint.zero_ticks = zero_ticks;
  joint.units_per_tick = units_per_tick;
  joint.ticks_min = ticks_min;
  joint.ticks_max = ticks_max;
  joint.clamp_measured = clamp_measured;
  joint.velocity_per_count = velocity_per_count;
  joint.amperes_per_count = amperes_per_count;
  joint.fatal_errors = checked_byte(fatal_errors, 0xFF, "fatal_errors");
  return joint;
}

std::shared_ptr<DynamixelPort> make_port(std::shared_ptr<DynamixelBus> bus,
                                         const std::vector<ServoJoint>& joints, const std::string& way,
                                         double read_limit_s, double write_limit_s) {
  if (joints.empty() || joints.size() > kMaxServos) {
    throw py::value_error("a port has 1 to " + std::to_string(kMaxServos) + " joints, got " +
                          std::to_string(joints.size()));
  }
  for (auto joint = joints.begin(); joint != joints.end(); ++joint) {
    if (std::any_of(joints.begin(), joint, [&joint](const ServoJoint& one) { return one.id == joint->id; })) {
      throw py::value_error("two joints have the id " + std::to_string(joint->id));
    }
  }
  const BlockRead how = way_of(way);
  const bool sync = how == BlockRead::sync || how == BlockRead::fast_sync;
  if (sync && std::ranges::any_of(joints, [&joints](const ServoJoint& joint) {
        return joint.block_address != joints.front().block_address;
      })) {
    throw py::value_error("a sync read wants the blocks of all servos at one address; take a bulk read");
  }
  const PortOptions options{how, nanoseconds(read_limit_s, "read_limit_s"),
                            nanoseconds(write_limit_s, "write_limit_s")};
  if (options.read_limit <= 0 || options.write_limit <= 0) {
    throw py::value_error("read_limit_s and write_limit_s must be above 0");
  }
  return std::make_shared<DynamixelPort>(std::move(bus), joints, options);
}

py::object state_dict(const DynamixelPort& port, const ServoStates& states) {
  const std::size_t joints = port.joint_count();
  py::array_t<std::int64_t> times(static_cast<py::ssize_t>(joints));
  std::copy_n(states.times.begin(), joints, times.mutable_data());
  py::dict state;
  state["positions"] = to_array(states.positions, joints);
  state["velocities"] = to_array(states.velocities, joints);
  state["currents"] = to_array(states.currents, joints);
  state["temperatures"] = to_array(states.temperatures, joints);
  state["times_ns"] = times;
  return state;
}

void bind_port(py::module_& module) {
  py::class_<ServoJoint>(module, "ServoJoint")
      .def(py::init(&make_joint), py::kw_only(), py::arg("id"), py::arg("block_address"),
           py::arg("zero_ticks"), py::arg("units_per_tick"), py::arg("ticks_min"), py::arg("ticks_max"),
           py::arg("clamp_measured"), py::arg("velocity_per_count"), py::arg("amperes_per_count"),
           py::arg("fatal_errors"));
  py::class_<DynamixelPort, control::Port, std::shared_ptr<DynamixelPort>>(module, "DynamixelPort")
      .def(py::init(&make_port), py::kw_only(), py::arg("bus"), py::arg("joints"), py::arg("way"),
           py::arg("read_limit_s"), py::arg("write_limit_s"))
      .def("read",
           [](DynamixelPort& port) -> py::object {
             MeasuredState state;
             const auto status = [&] {
               const py::gil_scoped_release released;
               return port.read(state);
             }();
             if (status != PortStatus::ok) {
               return py::none();
             }
             return py::make_tuple(to_array(state.positions, port.joint_count()), state.time);
           })
      .def(
          "write",
          [](DynamixelPort& port, const JointArray& positions) {
            control::Command command;
            command.positions = joints_from(positions, port.joint_count(), "positions");
            command.time = monotonic_now();
            const py::gil_scoped_release released;
            return port.write(command) == PortStatus::ok;
          },
          py::arg("positions"))
      .def(
          "refresh",
          [](DynamixelPort& port, double age_max_s) -> py::object {
            const Nanoseconds age_max = nanoseconds(age_max_s, "age_max_s");
            ServoStates states;
            const bool known = [&] {
              const py::gil_scoped_release released;
              return port.refresh(states, age_max);
            }();
            return known ? state_dict(port, states) : py::object(py::none());
          },
          py::arg("age_max_s"))
      .def(
          "attend",
          [](DynamixelPort& port, double idle_max_s, double silence_max_s) {
            const Nanoseconds idle_max = nanoseconds(idle_max_s, "idle_max_s");
            const Nanoseconds silence_max = nanoseconds(silence_max_s, "silence_max_s");
            const py::gil_scoped_release released;
            return name(port.attend(idle_max, silence_max));
          },
          py::arg("idle_max_s"), py::arg("silence_max_s"))
      .def("dismiss", &DynamixelPort::dismiss)
      .def("suspend",
           [](DynamixelPort& port, const std::string& trouble) { port.suspend(trouble_of(trouble)); })
      .def("resume", &DynamixelPort::resume, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("trouble", [](const DynamixelPort& port) { return name(port.trouble()); })
      .def_property_readonly("hardware_errors",
                             [](const DynamixelPort& port) {
                               std::vector<int> errors(port.joint_count());
                               for (std::size_t i = 0; i < errors.size(); ++i) {
                                 errors[i] = port.hardware_errors(i);
                               }
                               return errors;
                             })
      .def_property_readonly("lost_goals", &DynamixelPort::lost_goals);
}

}  // namespace

void bind_dynamixel(py::module_& module) {
  py::module_ dynamixel = module.def_submodule("dynamixel", "Dynamixel servos, protocol 2.0.");
  dynamixel.attr("BLOCK_BYTES") = kBlockBytes;
  dynamixel.attr("MAX_PACKET_BYTES") = kMaxPacketBytes;
  bind_packets(dynamixel);
  bind_bus(dynamixel);
  bind_port(dynamixel);
}

}  // namespace molmoact2::bindings
