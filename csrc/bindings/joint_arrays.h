// Numbers per joint on their way through the door.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "control/chunk_buffer.h"
#include "control/clock.h"
#include "control/joints.h"

namespace molmoact2::bindings {

using JointArray = pybind11::array_t<double, pybind11::array::c_style | pybind11::array::forcecast>;

// Throws ValueError for what is no number of seconds: converting infinity gives the longest time on one
// processor and the most negative on another, and a watchdog with either would never bite or always.
inline control::Nanoseconds nanoseconds(double seconds, const char* what) {
  constexpr double kLongest = 1e9;  // thirty years
  if (!(std::abs(seconds) <= kLongest)) {
    throw pybind11::value_error(std::string(what) + " must be a finite number of seconds, got " +
                                std::to_string(seconds));
  }
  return static_cast<control::Nanoseconds>(std::llround(seconds * 1e9));
}

inline void require_joints(const JointArray& values, std::size_t joint_count, const char* what) {
  if (values.ndim() != 1 || static_cast<std::size_t>(values.shape(0)) != joint_count) {
    throw pybind11::value_error(std::string(what) + " must have shape (" + std::to_string(joint_count) +
                                ",), got " + std::string(pybind11::str(values.attr("shape"))));
  }
}

inline control::JointVector joints_from(const JointArray& values, std::size_t joint_count, const char* what) {
  require_joints(values, joint_count, what);
  control::JointVector joints{};
  std::copy(values.data(), values.data() + joint_count, joints.begin());
  return joints;
}

inline pybind11::array_t<double> to_array(const control::JointVector& joints, std::size_t joint_count) {
  pybind11::array_t<double> array(static_cast<pybind11::ssize_t>(joint_count));
  std::copy(joints.begin(), joints.begin() + static_cast<std::ptrdiff_t>(joint_count), array.mutable_data());
  return array;
}

// Both throw ValueError with the names that are known.
control::SpliceMode splice_mode(const std::string& mode);
control::Resampling resampling_of(const std::string& name);

struct CheckedChunk {
  const double* data;
  std::size_t rows;
};

// Throws ValueError unless `actions` is (rows, action_dim) and fits.
CheckedChunk checked_chunk(const JointArray& actions, const control::ChunkOptions& options);

}  // namespace molmoact2::bindings
