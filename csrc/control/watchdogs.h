// Whether what the loop depends on is still alive and well: the bus, the cameras, the policy's chunks, the
// loop's own timing, the motors. Judged once a tick from times and readings; nothing here reads a clock.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "control/clock.h"
#include "control/joints.h"
#include "control/port.h"
#include "control/status.h"

namespace molmoact2::control {

inline constexpr std::size_t kMaxCameras = 16;
inline constexpr std::size_t kMaxOverruns = 64;

// A reading above `warn` holds until it is `hysteresis` below it again; one above `limit` is a fault.
struct MotorLevels {
  MotorLevels() noexcept {
    warn.fill(HUGE_VAL);
    limit.fill(HUGE_VAL);
  }
  JointVector warn;   // infinite: none
  JointVector limit;  // infinite: none
  double hysteresis = 0.0;
  Nanoseconds duration = 0;  // a level counts once it was exceeded for that long
};

struct WatchdogOptions {
  Nanoseconds silence_hold = 100'000'000;     // no pose, or no accepted command, for longer: hold
  Nanoseconds silence_fault = 1'000'000'000;  // for longer still: fault
  Nanoseconds chunk_age_max = 0;              // of the observation behind an executed action; 0: any
  std::size_t cameras = 0;                    // how many report their frames
  Nanoseconds camera_age_max = 500'000'000;   // of each one's newest frame
  std::size_t overruns_max = 0;               // more within the window: hold, or fault; 0: any number
  Nanoseconds overrun_window = 1'000'000'000;
  bool overruns_fault = false;
  MotorLevels temperature;  // degrees Celsius
  MotorLevels current;      // amperes, by magnitude
};

// Empty when usable, otherwise what is wrong.
std::string check(const WatchdogOptions& options, std::size_t joint_count);

// When each camera's newest frame was exposed. Any thread reports, the loop reads.
class FrameTimes {
 public:
  void report(std::size_t camera, Nanoseconds time) noexcept {
    times_[camera].store(time, std::memory_order_relaxed);
  }
  Nanoseconds of(std::size_t camera) const noexcept { return times_[camera].load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<Nanoseconds>, kMaxCameras> times_{};
};

// What a tick knows.
struct WatchdogInput {
  Nanoseconds now = 0;
  const MeasuredState* measured = nullptr;
  Nanoseconds last_write = 0;
  bool executes = false;          // an action is about to be executed
  Nanoseconds observed_time = 0;  // of the observation behind it; 0: unknown
};

struct Verdict {
  Reason fault = Reason::none;
  Reason hold = Reason::none;
};

class Watchdogs {
 public:
  // `options` must pass check(); `frames` must outlive this.
  Watchdogs(const WatchdogOptions& options, std::size_t joint_count, const FrameTimes& frames) noexcept
      : options_(options), joint_count_(joint_count), frames_(frames) {}

  // A new run: nothing of the old one counts.
  void begin(Nanoseconds now) noexcept;
  void overrun(Nanoseconds now) noexcept;

  // Faults in this order: state_lost, bus_write_failed, overruns_repeated, temperature_limit, current_limit.
  // Holds: state_stale, bus_write_failed, camera_stale, chunk_stale, overruns_repeated, temperature_high,
  // current_high. The first of each counts.
  Verdict judge(const WatchdogInput& input) noexcept;

 private:
  // What is remembered about one kind of reading.
  struct MotorWatch {
    std::array<Nanoseconds, kMaxJoints> above_warn_since{};  // 0: not above
    std::array<Nanoseconds, kMaxJoints> above_limit_since{};
    std::uint32_t warned = 0;  // bit per joint
  };
  struct MotorVerdict {
    bool high = false;
    bool over = false;
  };

  bool camera_stale(Nanoseconds now) const noexcept;
  bool overruns_repeated(Nanoseconds now) const noexcept;
  MotorVerdict judge_motors(const MotorLevels& levels, MotorWatch& watch, const JointVector& readings,
                            Nanoseconds now) const noexcept;

  WatchdogOptions options_;
  std::size_t joint_count_;
  const FrameTimes& frames_;
  Nanoseconds begun_ = 0;
  std::array<Nanoseconds, kMaxOverruns + 1> overruns_{};  // ring of the newest
  std::uint64_t overrun_count_ = 0;                       // in this run
  MotorWatch temperature_;
  MotorWatch current_;
};

}  // namespace molmoact2::control
