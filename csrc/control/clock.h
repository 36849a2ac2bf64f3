// Monotonic time in nanoseconds. Control code takes time as an argument; only the loop's edge reads a clock.
#pragma once

#include <cstdint>

namespace molmoact2::control {

using Nanoseconds = std::int64_t;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Nanoseconds now() noexcept = 0;
  virtual void sleep_until(Nanoseconds deadline) noexcept = 0;
};

// CLOCK_MONOTONIC, the clock that deadlines and time stamps in this project refer to.
Nanoseconds monotonic_now() noexcept;

class MonotonicClock final : public Clock {
 public:
  Nanoseconds now() noexcept override { return monotonic_now(); }
  // Signals do not cut the sleep short.
  void sleep_until(Nanoseconds deadline) noexcept override;
};

// Time that stands still until it is set; sleeping sets it.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Nanoseconds start = 0) noexcept : now_(start) {}
  Nanoseconds now() noexcept override { return now_; }
  void sleep_until(Nanoseconds deadline) noexcept override { set(deadline); }
  // Time does not run backwards: an earlier time leaves the clock alone.
  void set(Nanoseconds time) noexcept { now_ = time > now_ ? time : now_; }

 private:
  Nanoseconds now_;
};

}  // namespace molmoact2::control
