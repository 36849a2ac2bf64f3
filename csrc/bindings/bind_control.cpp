// The door to csrc/control. Shapes, sizes and options are checked here and refused with ValueError; behind
// the door nothing throws. Values of targets and measurements are not checked: judging them is the gate's
// work.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "control/control_loop.h"
#include "control/mailbox_port.h"

namespace py = pybind11;

namespace molmoact2::bindings {

namespace {

using namespace control;

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

constexpr double kNanosecond = 1e-9;

void require_joints(const Array& values, std::size_t joint_count, const char* what) {
  if (values.ndim() != 1 || static_cast<std::size_t>(values.shape(0)) != joint_count) {
    throw py::value_error(std::string(what) + " must have shape (" + std::to_string(joint_count) +
                          ",), got " + std::string(py::str(values.attr("shape"))));
  }
}

JointVector joints_from(const Array& values, std::size_t joint_count, const char* what) {
  require_joints(values, joint_count, what);
  JointVector joints{};
  std::copy(values.data(), values.data() + joint_count, joints.begin());
  return joints;
}

py::array_t<double> to_array(const JointVector& joints, std::size_t joint_count) {
  py::array_t<double> array(static_cast<py::ssize_t>(joint_count));
  std::copy(joints.begin(), joints.begin() + static_cast<std::ptrdiff_t>(joint_count), array.mutable_data());
  return array;
}

JointLimits make_limits(const Array& position_min, const Array& position_max, const Array& velocity_max,
                        const Array& acceleration_max, const Array& jump_max) {
  JointLimits limits;
  limits.joint_count = static_cast<std::size_t>(position_min.size());
  if (limits.joint_count == 0 || limits.joint_count > kMaxJoints) {
    throw py::value_error("limits must have 1 to " + std::to_string(kMaxJoints) + " joints, got " +
                          std::to_string(limits.joint_count));
  }
  limits.position_min = joints_from(position_min, limits.joint_count, "position_min");
  limits.position_max = joints_from(position_max, limits.joint_count, "position_max");
  limits.velocity_max = joints_from(velocity_max, limits.joint_count, "velocity_max");
  limits.acceleration_max = joints_from(acceleration_max, limits.joint_count, "acceleration_max");
  limits.jump_max = joints_from(jump_max, limits.joint_count, "jump_max");
  const std::string wrong = check(limits);
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  return limits;
}

SpliceMode splice_mode(const std::string& mode) {
  if (mode == "sync") {
    return SpliceMode::sync;
  }
  if (mode == "async") {
    return SpliceMode::async;
  }
  if (mode == "blend") {
    return SpliceMode::blend;
  }
  throw py::value_error("mode must be 'sync', 'async' or 'blend', got '" + mode + "'");
}

// --- gate ---

py::tuple result_tuple(const GateResult& result, std::size_t joint_count) {
  py::array_t<bool> limited(static_cast<py::ssize_t>(joint_count));
  for (std::size_t i = 0; i < joint_count; ++i) {
    limited.mutable_at(static_cast<py::ssize_t>(i)) = (result.limited_joints >> i & 1U) != 0;
  }
  return py::make_tuple(to_array(result.command, joint_count), name(result.state), name(result.reason),
                        result.followed, limited);
}

void bind_gate(py::module_& module) {
  py::class_<JointLimits>(module, "JointLimits")
      .def(py::init(&make_limits), py::arg("position_min"), py::arg("position_max"), py::arg("velocity_max"),
           py::arg("acceleration_max"), py::arg("jump_max"))
      .def_readonly("joint_count", &JointLimits::joint_count);

  py::class_<SafetyGate>(module, "SafetyGate")
      .def(py::init([](const JointLimits& limits, double period_s) {
             if (!(period_s > 0.0) || !std::isfinite(period_s)) {
               throw py::value_error("period_s must be finite and above 0, got " + std::to_string(period_s));
             }
             return SafetyGate(limits, period_s);
           }),
           py::arg("limits"), py::arg("period_s"))
      .def("reset",
           [](SafetyGate& gate, const Array& measured) {
             require_joints(measured, gate.limits().joint_count, "measured");
             if (!std::all_of(measured.data(), measured.data() + measured.size(),
                              [](double value) { return std::isfinite(value); })) {
               throw py::value_error("measured must be finite; a gate cannot start from an unknown pose");
             }
             gate.reset(measured.data());
           })
      .def("step",
           [](SafetyGate& gate, const std::optional<Array>& target, const std::optional<Array>& measured) {
             GateInput input;
             if (target) {
               require_joints(*target, gate.limits().joint_count, "target");
               input.target = target->data();
             }
             if (measured) {
               require_joints(*measured, gate.limits().joint_count, "measured");
               input.measured = measured->data();
             }
             return result_tuple(gate.step(input), gate.limits().joint_count);
           })
      .def("stop", [](SafetyGate& gate) { gate.stop(Reason::stop_requested); })
      .def("last",
           [](const SafetyGate& gate) { return result_tuple(gate.last(), gate.limits().joint_count); });
}

// --- chunks ---

struct CheckedChunk {
  const double* data;
  std::size_t rows;
};

CheckedChunk checked_chunk(const Array& actions, const ChunkOptions& options) {
  if (actions.ndim() != 2 || static_cast<std::size_t>(actions.shape(1)) != options.action_dim) {
    throw py::value_error("a chunk must have shape (steps, " + std::to_string(options.action_dim) +
                          "), got " + std::string(py::str(actions.attr("shape"))));
  }
  const auto rows = static_cast<std::size_t>(actions.shape(0));
  if (rows > options.capacity) {
    throw py::value_error("a chunk may have at most " + std::to_string(options.capacity) + " steps, got " +
                          std::to_string(rows));
  }
  return {actions.data(), rows};
}

void bind_chunks(py::module_& module) {
  py::class_<ChunkBuffer>(module, "ChunkBuffer")
      .def(py::init([](std::size_t action_dim, const std::string& mode, double actions_per_step,
                       std::int64_t blend_steps, std::size_t capacity) {
             if (action_dim == 0 || action_dim > kMaxJoints) {
               throw py::value_error("action_dim must be 1 to " + std::to_string(kMaxJoints) + ", got " +
                                     std::to_string(action_dim));
             }
             if (!(actions_per_step > 0.0 && actions_per_step <= 1.0)) {
               throw py::value_error("actions_per_step must be above 0 and at most 1");
             }
             if (blend_steps < 0 || capacity == 0) {
               throw py::value_error("blend_steps must be at least 0 and capacity at least 1");
             }
             return std::make_unique<ChunkBuffer>(
                 ChunkOptions{action_dim, capacity, splice_mode(mode), actions_per_step, blend_steps});
           }),
           py::arg("action_dim"), py::arg("mode"), py::arg("actions_per_step"), py::arg("blend_steps"),
           py::arg("capacity"))
      .def("push",
           [](ChunkBuffer& buffer, const Array& actions, std::int64_t observed_step) {
             const CheckedChunk chunk = checked_chunk(actions, buffer.options());
             return buffer.push(chunk.data, chunk.rows, observed_step);
           })
      .def("next",
           [](ChunkBuffer& buffer, std::int64_t step) {
             JointVector target{};
             ChunkInfo info;
             const bool has_target = buffer.next(step, target, info);
             py::object array = py::none();
             if (has_target) {
               array = to_array(target, buffer.options().action_dim);
             }
             return py::make_tuple(array, info.chunk, info.action, info.remaining_steps, info.observed_step,
                                   info.switched, name(info.reason), name(info.rejected));
           })
      .def("clear", [](ChunkBuffer& buffer) { buffer.clear(); });
}

// --- ports ---

void bind_ports(py::module_& module) {
  py::class_<Port, std::shared_ptr<Port>>(module, "Port")
      .def_property_readonly("joint_count", &Port::joint_count);
  py::class_<MailboxPort, Port, std::shared_ptr<MailboxPort>>(module, "MailboxPort")
      .def(py::init([](std::size_t joint_count) {
             if (joint_count == 0 || joint_count > kMaxJoints) {
               throw py::value_error("joint_count must be 1 to " + std::to_string(kMaxJoints) + ", got " +
                                     std::to_string(joint_count));
             }
             return std::make_shared<MailboxPort>(joint_count);
           }),
           py::arg("joint_count"))
      .def(
          "publish_state",
          [](MailboxPort& port, const Array& positions, Nanoseconds time_ns) {
            port.publish_state({joints_from(positions, port.joint_count(), "positions"), time_ns});
          },
          py::arg("positions"), py::arg("time_ns"))
      .def("take_command", [](MailboxPort& port) -> py::object {
        Command command;
        if (!port.take_command(command)) {
          return py::none();
        }
        return py::make_tuple(to_array(command.positions, port.joint_count()), command.sequence,
                              command.time);
      });
}

// --- loop ---

py::dict histogram_dict(const Histogram& histogram) {
  py::dict summary;
  summary["count"] = histogram.count();
  summary["mean_s"] = histogram.mean() * kNanosecond;
  summary["p50_s"] = static_cast<double>(histogram.quantile(0.50)) * kNanosecond;
  summary["p95_s"] = static_cast<double>(histogram.quantile(0.95)) * kNanosecond;
  summary["p99_s"] = static_cast<double>(histogram.quantile(0.99)) * kNanosecond;
  summary["p999_s"] = static_cast<double>(histogram.quantile(0.999)) * kNanosecond;
  summary["max_s"] = static_cast<double>(histogram.max()) * kNanosecond;
  return summary;
}

template <typename Counters>
py::dict reason_dict(const Counters& counters) {
  py::dict counts;
  for (std::size_t i = 0; i < counters.size(); ++i) {
    const std::uint64_t count = counters[i].load(std::memory_order_relaxed);
    if (count > 0) {
      counts[name(static_cast<Reason>(i))] = count;
    }
  }
  return counts;
}

py::dict statistics_dict(const LoopStatistics& statistics) {
  const auto value = [](const LoopStatistics::Counter& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  py::dict all;
  all["ticks"] = value(statistics.ticks);
  all["executed_steps"] = value(statistics.executed_steps);
  all["overruns"] = value(statistics.overruns);
  all["skipped_periods"] = value(statistics.skipped_periods);
  all["read_failures"] = value(statistics.read_failures);
  all["write_failures"] = value(statistics.write_failures);
  all["chunks_taken"] = value(statistics.chunks_taken);
  py::dict states;
  for (std::size_t i = 0; i < kStateCount; ++i) {
    states[name(static_cast<State>(i))] = value(statistics.state_ticks[i]);
  }
  all["state_ticks"] = states;
  all["reason_ticks"] = reason_dict(statistics.reason_ticks);
  all["reason_events"] = reason_dict(statistics.reason_events);
  all["rejected_chunks"] = reason_dict(statistics.rejected_chunks);
  all["period"] = histogram_dict(statistics.period);
  all["wakeup_latency"] = histogram_dict(statistics.wakeup_latency);
  all["bus"] = histogram_dict(statistics.bus);
  all["busy"] = histogram_dict(statistics.busy);
  all["state_age"] = histogram_dict(statistics.state_age);
  all["observation_age"] = histogram_dict(statistics.observation_age);
  all["observation_to_action"] = histogram_dict(statistics.observation_to_action);
  return all;
}

py::dict record_dict(const TickRecord& record, std::size_t joint_count) {
  py::dict entry;
  entry["tick"] = record.tick;
  entry["run"] = record.run;
  entry["state"] = name(record.state);
  entry["reason"] = name(record.reason);
  entry["rejected_chunk"] = name(record.rejected_chunk);
  entry["followed"] = record.followed;
  entry["deadline_ns"] = record.deadline;
  entry["wakeup_ns"] = record.wakeup;
  entry["period_ns"] = record.period;
  entry["read_ns"] = record.read_duration;
  entry["write_ns"] = record.write_duration;
  entry["written_ns"] = record.write_time;
  entry["busy_ns"] = record.busy;
  entry["skipped_periods"] = record.skipped_periods;
  entry["step"] = record.step;
  entry["chunk"] = record.chunk;
  entry["observed_ns"] = record.observed_time;
  entry["action"] = record.action;
  entry["remaining_steps"] = record.remaining_steps;
  entry["limited_joints"] = record.limited_joints;
  entry["measured_ns"] = record.measured_time;
  entry["measured"] = to_array(record.measured, joint_count);
  entry["target"] = to_array(record.target, joint_count);
  entry["command"] = to_array(record.command, joint_count);
  return entry;
}

Nanoseconds nanoseconds(double seconds) { return static_cast<Nanoseconds>(std::llround(seconds * 1e9)); }

void bind_loop(py::module_& module) {
  py::class_<ControlLoop>(module, "ControlLoop")
      .def(py::init([](std::shared_ptr<Port> port, const JointLimits& limits, double rate_hz,
                       double chunk_rate_hz, const std::string& mode, std::int64_t blend_steps,
                       std::size_t chunk_capacity, double silence_hold_s, double silence_fault_s,
                       double start_speed, const Array& start_distance_max, std::size_t telemetry_capacity,
                       int fifo_priority, bool lock_memory, std::vector<int> cpus) {
             if (port->joint_count() != limits.joint_count) {
               throw py::value_error("the port has " + std::to_string(port->joint_count()) +
                                     " joints, the limits have " + std::to_string(limits.joint_count));
             }
             if (fifo_priority < 0 || fifo_priority > 99) {
               throw py::value_error("fifo_priority must be 0 (normal scheduling) to 99, got " +
                                     std::to_string(fifo_priority));
             }
             CycleOptions options;
             options.limits = limits;
             options.rate_hz = rate_hz;
             options.chunks = {limits.joint_count, chunk_capacity, splice_mode(mode), chunk_rate_hz / rate_hz,
                               blend_steps};
             options.silence_hold = nanoseconds(silence_hold_s);
             options.silence_fault = nanoseconds(silence_fault_s);
             options.start_speed = start_speed;
             options.start_distance_max =
                 joints_from(start_distance_max, limits.joint_count, "start_distance_max");
             options.telemetry_capacity = telemetry_capacity;
             const std::string wrong = check(options);
             if (!wrong.empty()) {
               throw py::value_error(wrong);
             }
             return std::make_unique<ControlLoop>(
                 std::move(port), options, SchedulingRequest{fifo_priority, lock_memory, std::move(cpus)});
           }),
           py::kw_only(), py::arg("port"), py::arg("limits"), py::arg("rate_hz"), py::arg("chunk_rate_hz"),
           py::arg("mode"), py::arg("blend_steps"), py::arg("chunk_capacity"), py::arg("silence_hold_s"),
           py::arg("silence_fault_s"), py::arg("start_speed"), py::arg("start_distance_max"),
           py::arg("telemetry_capacity"), py::arg("fifo_priority"), py::arg("lock_memory"), py::arg("cpus"))
      .def("start",
           [](ControlLoop& loop) {
             std::vector<SchedulingWarning> refused;
             {
               const py::gil_scoped_release release;
               refused = loop.start();
             }
             std::vector<std::pair<std::string, std::string>> warnings;
             warnings.reserve(refused.size());
             for (SchedulingWarning& warning : refused) {
               warnings.emplace_back(std::move(warning.name), std::move(warning.text));
             }
             return warnings;
           })
      .def(
          "request_stop",
          [](ControlLoop& loop, bool by_signal) {
            loop.cycle().request_stop(by_signal ? Reason::stop_signal : Reason::stop_requested);
          },
          py::arg("by_signal"))
      .def(
          "stop",
          [](ControlLoop& loop, double timeout_s) {
            const py::gil_scoped_release release;
            return loop.stop(Reason::stop_requested, nanoseconds(timeout_s));
          },
          py::arg("timeout_s"))
      .def_property_readonly("running", &ControlLoop::running)
      .def_property_readonly("run", [](const ControlLoop& loop) { return loop.cycle().run(); })
      .def("begin_stepped", &ControlLoop::begin_stepped, py::arg("now_ns"))
      .def("tick_stepped", &ControlLoop::tick_stepped, py::arg("now_ns"))
      .def(
          "push",
          [](ControlLoop& loop, const Array& actions, std::int64_t observed_step, std::uint32_t run,
             Nanoseconds observed_time) {
            const CheckedChunk chunk = checked_chunk(actions, loop.cycle().options().chunks);
            return loop.cycle().push(chunk.data, chunk.rows, observed_step, run, observed_time);
          },
          py::arg("actions"), py::arg("observed_step"), py::arg("run"), py::arg("observed_time"))
      .def(
          "observation_at",
          [](const ControlLoop& loop, Nanoseconds time_ns) -> py::object {
            Observation observation;
            if (!loop.cycle().observation_at(time_ns, observation)) {
              return py::none();
            }
            return py::make_tuple(
                observation.run, observation.step,
                to_array(observation.measured.positions, loop.cycle().options().limits.joint_count),
                observation.measured.time);
          },
          py::arg("time_ns"))
      .def_property_readonly("ticks",
                             [](const ControlLoop& loop) {
                               return loop.cycle().statistics().ticks.load(std::memory_order_relaxed);
                             })
      .def("statistics", [](const ControlLoop& loop) { return statistics_dict(loop.cycle().statistics()); })
      .def("last_record",
           [](const ControlLoop& loop) -> py::object {
             const TelemetryRing& ring = loop.cycle().telemetry();
             TickRecord record;
             if (!ring.read(ring.written(), record)) {
               return py::none();
             }
             return record_dict(record, loop.cycle().options().limits.joint_count);
           })
      .def(
          "records",
          [](const ControlLoop& loop, std::uint64_t after) {
            const TelemetryRing& ring = loop.cycle().telemetry();
            const std::uint64_t newest = ring.written();
            const std::uint64_t oldest = newest > ring.capacity() ? newest - ring.capacity() + 1 : 1;
            py::list records;
            std::uint64_t lost = oldest > after + 1 ? oldest - after - 1 : 0;
            TickRecord record;
            for (std::uint64_t position = std::max(after + 1, oldest); position <= newest; ++position) {
              if (ring.read(position, record)) {
                records.append(record_dict(record, loop.cycle().options().limits.joint_count));
              } else {
                ++lost;  // overwritten while the others were copied
              }
            }
            return py::make_tuple(records, newest, lost);
          },
          py::arg("after"));
}

}  // namespace

void bind_control(py::module_& parent) {
  py::module_ module = parent.def_submodule("control", "The control loop and what it is made of.");
  module.attr("MAX_JOINTS") = kMaxJoints;
  module.def("monotonic_ns", [] { return monotonic_now(); });
  py::dict reasons;
  for (std::size_t i = 0; i < kReasonCount; ++i) {
    reasons[name(static_cast<Reason>(i))] = text(static_cast<Reason>(i));
  }
  module.attr("REASONS") = reasons;
  py::list states;
  for (std::size_t i = 0; i < kStateCount; ++i) {
    states.append(name(static_cast<State>(i)));
  }
  module.attr("STATES") = states;
  bind_ports(module);
  bind_gate(module);
  bind_chunks(module);
  bind_loop(module);
}

}  // namespace molmoact2::bindings
