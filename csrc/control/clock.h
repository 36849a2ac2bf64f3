// Monotonic time in nanoseconds. Control code takes time as an argument; only the loop's edge reads a clock.
#pragma once

#include <cstdint>

namespace molmoact2::control {

using Nanoseconds = std::int64_t;

// CLOCK_MONOTONIC, the clock that deadlines and time stamps in this project refer to.
Nanoseconds monotonic_now();

}  // namespace molmoact2::control
