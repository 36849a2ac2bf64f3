// The door to csrc/control. Shapes, sizes and options are checked here and refused with ValueError; behind
// the door nothing throws. Values of targets and measurements are not checked: judging them is the gate's
// work.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "bindings/bindings.h"
#include "bindings/joint_arrays.h"
#include "control/mailbox_port.h"
#include "control/safety_gate.h"

namespace py = pybind11;

namespace molmoact2::bindings {

using namespace control;

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
  if (mode == "rtc") {
    return SpliceMode::rtc;
  }
  throw py::value_error("mode must be 'sync', 'async', 'blend' or 'rtc', got '" + mode + "'");
}

Resampling resampling_of(const std::string& name) {
  if (name == "linear") {
    return Resampling::linear;
  }
  if (name == "cubic") {
    return Resampling::cubic;
  }
  throw py::value_error("resampling must be 'linear' or 'cubic', got '" + name + "'");
}

CheckedChunk checked_chunk(const JointArray& actions, const ChunkOptions& options) {
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

namespace {

JointLimits make_limits(const JointArray& position_min, const JointArray& position_max,
                        const JointArray& velocity_max, const JointArray& acceleration_max,
                        const JointArray& jump_max, const std::optional<JointArray>& jerk_max) {
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
  if (jerk_max) {
    limits.jerk_max = joints_from(*jerk_max, limits.joint_count, "jerk_max");
  }
  const std::string wrong = check(limits);
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  return limits;
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
           py::arg("acceleration_max"), py::arg("jump_max"), py::arg("jerk_max"))
      .def_readonly("joint_count", &JointLimits::joint_count);

  py::class_<SafetyGate>(module, "SafetyGate")
      .def(py::init([](const JointLimits& limits, double period_s) {
             if (!(period_s > 0.0) || !std::isfinite(period_s)) {
               throw py::value_error("period_s must be finite and above 0, got " + std::to_string(period_s));
             }
             const std::string wrong = check(limits, period_s);
             if (!wrong.empty()) {
               throw py::value_error(wrong);
             }
             return SafetyGate(limits, period_s);
           }),
           py::arg("limits"), py::arg("period_s"))
      .def("reset",
           [](SafetyGate& gate, const JointArray& measured) {
             require_joints(measured, gate.limits().joint_count, "measured");
             if (!std::all_of(measured.data(), measured.data() + measured.size(),
                              [](double value) { return std::isfinite(value); })) {
               throw py::value_error("measured must be finite; a gate cannot start from an unknown pose");
             }
             gate.reset(measured.data());
           })
      .def("step",
           [](SafetyGate& gate, const std::optional<JointArray>& target,
              const std::optional<JointArray>& measured) {
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

void bind_chunks(py::module_& module) {
  py::class_<ChunkBuffer>(module, "ChunkBuffer")
      .def(py::init([](std::size_t action_dim, const std::string& mode, double actions_per_step,
                       std::int64_t blend_steps, const std::string& resampling, std::size_t capacity) {
             const ChunkOptions options{action_dim,       capacity,    splice_mode(mode),
                                        actions_per_step, blend_steps, resampling_of(resampling)};
             const std::string wrong = check(options);
             if (!wrong.empty()) {
               throw py::value_error(wrong);
             }
             return std::make_unique<ChunkBuffer>(options);
           }),
           py::arg("action_dim"), py::arg("mode"), py::arg("actions_per_step"), py::arg("blend_steps"),
           py::arg("resampling"), py::arg("capacity"))
      .def("push",
           [](ChunkBuffer& buffer, const JointArray& actions, std::int64_t observed_step,
              std::size_t frozen_rows) {
             const CheckedChunk chunk = checked_chunk(actions, buffer.options());
             return buffer.push(chunk.data, chunk.rows,
                                {.observed_step = observed_step, .frozen_rows = frozen_rows});
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
                                   info.switched, info.frozen_error, info.unfrozen_steps, name(info.reason),
                                   name(info.rejected));
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
          [](MailboxPort& port, const JointArray& positions, Nanoseconds time_ns,
             const std::optional<JointArray>& temperatures, const std::optional<JointArray>& currents) {
            MeasuredState state;
            state.positions = joints_from(positions, port.joint_count(), "positions");
            state.time = time_ns;
            if (temperatures) {
              state.has_temperatures = true;
              state.temperatures = joints_from(*temperatures, port.joint_count(), "temperatures");
            }
            if (currents) {
              state.has_currents = true;
              state.currents = joints_from(*currents, port.joint_count(), "currents");
            }
            port.publish_state(state);
          },
          py::arg("positions"), py::arg("time_ns"), py::arg("temperatures") = py::none(),
          py::arg("currents") = py::none())
      .def("accept", &MailboxPort::accept, py::arg("accepting"))
      .def("take_command", [](MailboxPort& port) -> py::object {
        Command command;
        if (!port.take_command(command)) {
          return py::none();
        }
        return py::make_tuple(to_array(command.positions, port.joint_count()), command.sequence,
                              command.time);
      });
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
  bind_control_loop(module);
}

}  // namespace molmoact2::bindings
