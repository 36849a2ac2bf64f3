// The door to the port that has no robot behind it. Its read() and write() are for a loop written in Python;
// the compiled loop uses the object itself. One loop at a time.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "bindings/bindings.h"
#include "control/loopback_port.h"

namespace py = pybind11;

namespace molmoact2::bindings {

namespace {

using namespace control;

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

JointVector joints_of(const Array& values, std::size_t joint_count, const char* what) {
  if (values.ndim() != 1 || static_cast<std::size_t>(values.shape(0)) != joint_count) {
    throw py::value_error(std::string(what) + " must have shape (" + std::to_string(joint_count) +
                          ",), got " + std::string(py::str(values.attr("shape"))));
  }
  JointVector joints{};
  std::copy(values.data(), values.data() + joint_count, joints.begin());
  return joints;
}

}  // namespace

void bind_loopback(py::module_& control) {
  py::class_<LoopbackPort, Port, std::shared_ptr<LoopbackPort>>(control, "LoopbackPort")
      .def(py::init([](const Array& pose, double lag_s) {
             const auto joint_count = static_cast<std::size_t>(pose.size());
             if (joint_count == 0 || joint_count > kMaxJoints) {
               throw py::value_error("pose must have 1 to " + std::to_string(kMaxJoints) + " joints, got " +
                                     std::to_string(joint_count));
             }
             if (!(lag_s >= 0.0) || !std::isfinite(lag_s)) {
               throw py::value_error("lag_s must be at least 0, got " + std::to_string(lag_s));
             }
             return std::make_shared<LoopbackPort>(joint_count, joints_of(pose, joint_count, "pose"), lag_s);
           }),
           py::arg("pose"), py::arg("lag_s"))
      .def("read",
           [](LoopbackPort& port) {
             MeasuredState state;
             port.read(state);
             py::array_t<double> positions(static_cast<py::ssize_t>(port.joint_count()));
             std::copy_n(state.positions.begin(), port.joint_count(), positions.mutable_data());
             return py::make_tuple(positions, state.time);
           })
      .def(
          "write",
          [](LoopbackPort& port, const Array& positions) {
            Command command;
            command.positions = joints_of(positions, port.joint_count(), "positions");
            port.write(command);
          },
          py::arg("positions"));
}

}  // namespace molmoact2::bindings
