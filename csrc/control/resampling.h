// From the rate of a chunk's actions to the loop's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "control/joints.h"

namespace molmoact2::control {

enum class Resampling : std::uint8_t {
  linear,  // straight between actions; velocity steps at each of them
  cubic,   // continuous velocity; never leaves the interval between the two actions beside it
};

// 50 * (30 / 50) is not exactly 30 in floating point: positions this close to a whole action count as whole.
inline constexpr double kActionRounding = 1e-9;

struct ActionRows {
  const double* actions = nullptr;  // row-major (rows, action_dim)
  std::size_t rows = 0;
  std::size_t action_dim = 0;
};

// The target at `position`, 0 <= position < rows: whole numbers are the actions themselves, and pass through
// untouched; after the last one it stays in force. What is not finite makes the targets beside it not finite.
void sample(const ActionRows& chunk, double position, Resampling how, JointVector& target) noexcept;

}  // namespace molmoact2::control
