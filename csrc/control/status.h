// What the gate is doing and why. Inside the loop these codes stand where exceptions would stand elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace molmoact2::control {

enum class State : std::uint8_t {
  idle,      // at rest after a stop, or never given a pose; targets are ignored
  running,   // following targets within the limits
  holding,   // no usable target: decelerating within the limits, then at rest; a usable target resumes
  stopping,  // a stop was asked for: decelerating, then idle
  fault,     // decelerating, then at rest; latched until reset
};

// Why a state was entered, or, while running, which limit changed the target.
enum class Reason : std::uint8_t {
  none,
  not_reset,
  starting,
  start_too_far,
  start_outside_limits,
  waiting_for_chunk,
  chunk_exhausted,
  chunk_late,
  chunk_empty,
  chunk_out_of_order,
  chunk_from_future,
  chunk_of_other_run,
  target_not_finite,
  measured_not_finite,
  state_missing,
  state_stale,
  state_lost,
  bus_write_failed,
  arm_not_following,
  chunk_stale,
  camera_stale,
  overruns_repeated,
  temperature_high,
  temperature_limit,
  current_high,
  current_limit,
  jump,
  position_limit,
  velocity_limit,
  acceleration_limit,
  jerk_limit,
  stop_requested,
  stop_signal,
  stop_key,
  stop_file,
  stop_socket,
};
inline constexpr std::size_t kReasonCount = static_cast<std::size_t>(Reason::stop_socket) + 1;
inline constexpr std::size_t kStateCount = static_cast<std::size_t>(State::fault) + 1;

// The code's name, as in the enum.
const char* name(State state) noexcept;
const char* name(Reason reason) noexcept;
// One sentence for a person.
const char* text(Reason reason) noexcept;

}  // namespace molmoact2::control
