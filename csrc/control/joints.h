// One number per joint. Units are the robot's own: degrees for the SO-101's joints, 0..100 for its gripper.
#pragma once

#include <array>
#include <cstddef>

namespace molmoact2::control {

// MolmoAct2's widest action; fixed, so that nothing in the loop allocates.
inline constexpr std::size_t kMaxJoints = 32;

using JointVector = std::array<double, kMaxJoints>;

}  // namespace molmoact2::control
