// The door to the control loop and to the monitor of its stops.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/control_telemetry.h"
#include "bindings/joint_arrays.h"
#include "control/control_loop.h"
#include "control/stop_monitor.h"

namespace py = pybind11;

namespace molmoact2::bindings {

using namespace control;

namespace {

Reason stop_reason(const std::string& reason_name) {
  for (const Reason reason : {Reason::stop_requested, Reason::stop_signal, Reason::stop_key,
                              Reason::stop_file, Reason::stop_socket}) {
    if (reason_name == name(reason)) {
      return reason;
    }
  }
  throw py::value_error("no reason to stop: '" + reason_name + "'; see Reason.STOP_*");
}

MotorLevels motor_levels(const JointArray& warn, const JointArray& limit, double hysteresis,
                         double duration_s) {
  const auto count = static_cast<std::size_t>(warn.size());
  if (count > kMaxJoints) {
    throw py::value_error("levels are for at most " + std::to_string(kMaxJoints) + " joints, got " +
                          std::to_string(count));
  }
  MotorLevels levels;
  const JointVector warnings = joints_from(warn, count, "warn");
  const JointVector limits = joints_from(limit, count, "limit");
  std::copy(warnings.begin(), warnings.begin() + warn.size(), levels.warn.begin());
  std::copy(limits.begin(), limits.begin() + warn.size(), levels.limit.begin());
  levels.hysteresis = hysteresis;
  levels.duration = nanoseconds(duration_s, "duration_s");
  return levels;
}

WatchdogOptions watchdog_options(double silence_hold_s, double silence_fault_s,
                                 std::optional<double> chunk_age_max_s, std::size_t cameras,
                                 double camera_age_max_s, std::optional<std::size_t> overruns_max,
                                 double overrun_window_s, bool overruns_fault, const MotorLevels& temperature,
                                 const MotorLevels& current) {
  WatchdogOptions options;
  options.silence_hold = nanoseconds(silence_hold_s, "silence_hold_s");
  options.silence_fault = nanoseconds(silence_fault_s, "silence_fault_s");
  options.chunk_age_max = chunk_age_max_s ? nanoseconds(*chunk_age_max_s, "chunk_age_max_s") : 0;
  // 0 nanoseconds stands for any age, so what rounds to it is refused as well.
  if (chunk_age_max_s && options.chunk_age_max <= 0) {
    throw py::value_error("chunk_age_max_s must be above 0, or None");
  }
  options.cameras = cameras;
  options.camera_age_max = nanoseconds(camera_age_max_s, "camera_age_max_s");
  if (overruns_max && *overruns_max == 0) {
    throw py::value_error("overruns_max must be at least 1, or None");
  }
  options.overruns_max = overruns_max.value_or(0);
  options.overrun_window = nanoseconds(overrun_window_s, "overrun_window_s");
  options.overruns_fault = overruns_fault;
  options.temperature = temperature;
  options.current = current;
  return options;
}

std::unique_ptr<ControlLoop> make_loop(std::shared_ptr<Port> port, const JointLimits& limits, double rate_hz,
                                       double chunk_rate_hz, const std::string& mode,
                                       std::int64_t blend_steps, const std::string& resampling,
                                       double frozen_tolerance, std::size_t lost_writes_max,
                                       std::size_t chunk_capacity, const WatchdogOptions& watchdogs,
                                       double start_speed, const JointArray& start_distance_max,
                                       std::size_t telemetry_capacity, int fifo_priority, bool lock_memory,
                                       std::vector<int> cpus) {
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
  options.chunks = {limits.joint_count,      chunk_capacity, splice_mode(mode),
                    chunk_rate_hz / rate_hz, blend_steps,    resampling_of(resampling)};
  options.frozen_tolerance = frozen_tolerance;
  options.lost_writes_max = lost_writes_max;
  options.watchdogs = watchdogs;
  options.start.speed = start_speed;
  options.start.distance_max = joints_from(start_distance_max, limits.joint_count, "start_distance_max");
  options.telemetry_capacity = telemetry_capacity;
  const std::string wrong = check(options);
  if (!wrong.empty()) {
    throw py::value_error(wrong);
  }
  return std::make_unique<ControlLoop>(std::move(port), options,
                                       SchedulingRequest{fifo_priority, lock_memory, std::move(cpus)});
}

std::size_t joint_count_of(const ControlLoop& loop) { return loop.cycle().options().limits.joint_count; }

void bind_watchdogs(py::module_& module) {
  py::class_<MotorLevels>(module, "MotorLevels")
      .def(py::init(&motor_levels), py::kw_only(), py::arg("warn"), py::arg("limit"), py::arg("hysteresis"),
           py::arg("duration_s"));
  py::class_<WatchdogOptions>(module, "WatchdogOptions")
      .def(py::init(&watchdog_options), py::kw_only(), py::arg("silence_hold_s"), py::arg("silence_fault_s"),
           py::arg("chunk_age_max_s"), py::arg("cameras"), py::arg("camera_age_max_s"),
           py::arg("overruns_max"), py::arg("overrun_window_s"), py::arg("overruns_fault"),
           py::arg("temperature"), py::arg("current"));
}

void bind_loop(py::module_& module) {
  py::class_<ControlLoop>(module, "ControlLoop")
      .def(py::init(&make_loop), py::kw_only(), py::arg("port"), py::arg("limits"), py::arg("rate_hz"),
           py::arg("chunk_rate_hz"), py::arg("mode"), py::arg("blend_steps"), py::arg("resampling"),
           py::arg("frozen_tolerance"), py::arg("lost_writes_max"), py::arg("chunk_capacity"),
           py::arg("watchdogs"), py::arg("start_speed"), py::arg("start_distance_max"),
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
          [](ControlLoop& loop, const std::string& reason) {
            loop.cycle().request_stop(stop_reason(reason));
          },
          py::arg("reason"))
      .def(
          "latch_stop",
          [](ControlLoop& loop, const std::string& reason) { loop.cycle().latch_stop(stop_reason(reason)); },
          py::arg("reason"))
      .def("release_stop", [](ControlLoop& loop) { loop.cycle().release_stop(); })
      .def_property_readonly("latched_stop",
                             [](const ControlLoop& loop) { return name(loop.cycle().latched_stop()); })
      .def(
          "stop",
          [](ControlLoop& loop, double timeout_s) {
            const Nanoseconds timeout = nanoseconds(timeout_s, "timeout_s");
            const py::gil_scoped_release release;
            return loop.stop(Reason::stop_requested, timeout);
          },
          py::arg("timeout_s"))
      .def_property_readonly("running", &ControlLoop::running)
      .def_property_readonly("run", [](const ControlLoop& loop) { return loop.cycle().run(); })
      .def("begin_stepped", &ControlLoop::begin_stepped, py::arg("now_ns"))
      .def("tick_stepped", &ControlLoop::tick_stepped, py::arg("now_ns"))
      .def(
          "push",
          [](ControlLoop& loop, const JointArray& actions, std::int64_t observed_step, std::uint32_t run,
             Nanoseconds observed_time, std::size_t frozen_rows) {
            const CheckedChunk chunk = checked_chunk(actions, loop.cycle().options().chunks);
            return loop.cycle().push(chunk.data, chunk.rows,
                                     {observed_step, run, observed_time, frozen_rows});
          },
          py::arg("actions"), py::arg("observed_step"), py::arg("run"), py::arg("observed_time"),
          py::arg("frozen_rows"))
      .def(
          "planned",
          [](const ControlLoop& loop, std::uint32_t run, std::int64_t step, std::size_t rows) {
            const std::size_t joints = joint_count_of(loop);
            std::vector<double> actions(std::min(rows, loop.cycle().options().chunks.capacity) * joints);
            const std::size_t count =
                loop.cycle().planned(run, step, actions.size() / joints, actions.data());
            py::array_t<double> planned({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(joints)});
            std::copy(actions.begin(), actions.begin() + static_cast<std::ptrdiff_t>(count * joints),
                      planned.mutable_data());
            return planned;
          },
          py::arg("run"), py::arg("step"), py::arg("rows"))
      .def(
          "report_frame",
          [](ControlLoop& loop, std::size_t camera, Nanoseconds time_ns) {
            if (camera >= loop.cycle().options().watchdogs.cameras) {
              throw py::value_error("the loop watches " +
                                    std::to_string(loop.cycle().options().watchdogs.cameras) +
                                    " cameras, got number " + std::to_string(camera));
            }
            loop.cycle().report_frame(camera, time_ns);
          },
          py::arg("camera"), py::arg("time_ns"))
      .def(
          "observation_at",
          [](const ControlLoop& loop, Nanoseconds time_ns) -> py::object {
            Observation observation;
            if (!loop.cycle().observation_at(time_ns, observation)) {
              return py::none();
            }
            return py::make_tuple(observation.run, observation.step,
                                  to_array(observation.measured.positions, joint_count_of(loop)),
                                  observation.measured.time);
          },
          py::arg("time_ns"))
      .def_property_readonly("ticks",
                             [](const ControlLoop& loop) {
                               return loop.cycle().statistics().ticks.load(std::memory_order_relaxed);
                             })
      .def("statistics", [](const ControlLoop& loop) { return statistics_dict(loop.cycle().statistics()); })
      .def(
          "last_record",
          [](const ControlLoop& loop) { return last_record(loop.cycle().telemetry(), joint_count_of(loop)); })
      .def(
          "records",
          [](const ControlLoop& loop, std::uint64_t after) {
            return record_dicts(loop.cycle().telemetry(), after, joint_count_of(loop));
          },
          py::arg("after"))
      .def(
          "record_columns",
          [](const ControlLoop& loop, std::uint64_t after) {
            return record_columns(loop.cycle().telemetry(), after, joint_count_of(loop));
          },
          py::arg("after"));
}

void bind_stop_monitor(py::module_& module) {
  py::class_<StopMonitor>(module, "StopMonitor")
      .def(py::init([](ControlLoop& loop, int key, const std::string& file, const std::string& socket) {
             const py::gil_scoped_release release;
             try {
               return std::make_unique<StopMonitor>(StopSources{key, file, socket}, [&loop](Reason reason) {
                 loop.cycle().latch_stop(reason);
               });
             } catch (const std::invalid_argument& error) {
               throw py::value_error(error.what());
             }
           }),
           py::kw_only(), py::arg("loop"), py::arg("key"), py::arg("file"), py::arg("socket"),
           py::keep_alive<1, 2>())
      .def_property_readonly("signal_descriptor", &StopMonitor::signal_descriptor)
      .def_property_readonly("watches_key", &StopMonitor::watches_key)
      .def_property_readonly("port", &StopMonitor::port)
      .def_property_readonly("reason", [](const StopMonitor& monitor) { return name(monitor.reason()); })
      .def_property_readonly("stopped_at_ns", &StopMonitor::stopped_at)
      .def_property_readonly("failed_accepts", &StopMonitor::failed_accepts)
      .def_property_readonly("accept_error", &StopMonitor::accept_error);
}

}  // namespace

void bind_control_loop(py::module_& control) {
  bind_watchdogs(control);
  bind_loop(control);
  bind_stop_monitor(control);
}

}  // namespace molmoact2::bindings
