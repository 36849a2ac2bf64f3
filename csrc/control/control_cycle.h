// One tick of the loop: read, splice, gate, write, record. It knows no thread; time comes from the clock
// given to begin(), so the same code runs in real time, in tests and in simulated time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "control/chunk_buffer.h"
#include "control/clock.h"
#include "control/planned_actions.h"
#include "control/port.h"
#include "control/safety_gate.h"
#include "control/start_approach.h"
#include "control/telemetry.h"
#include "control/watchdogs.h"

namespace molmoact2::control {

struct CycleOptions {
  JointLimits limits;
  double rate_hz = 50.0;
  ChunkOptions chunks;
  double frozen_tolerance = 1.0;  // how far a chunk's frozen rows may be from what was executed, in mode rtc
  std::size_t lost_writes_max = 3;  // more in a row: hold, and go on from the measured pose
  WatchdogOptions watchdogs;
  ApproachOptions start;
  std::size_t telemetry_capacity = 4096;
};

// Empty when usable, otherwise what is wrong.
std::string check(const CycleOptions& options);

// What the policy must know about the moment of its observation.
struct Observation {
  std::uint32_t run = 0;
  std::int64_t step = 0;  // due next at that time: row 0 of the chunk to come
  MeasuredState measured;
};

class ControlCycle {
 public:
  // `options` must pass check(), and fit the port. Allocates everything that the ticks use.
  ControlCycle(std::shared_ptr<Port> port, const CycleOptions& options);

  // --- the loop's thread ---

  // A new run: step 0, no chunk, no motion carried over. The statistics go on.
  void begin(Clock& clock) noexcept;
  // The work of one tick that was due at `deadline`.
  void tick(Nanoseconds deadline) noexcept;
  // Closes the tick's record; `skipped_periods` follow it.
  void finish_tick(std::int64_t skipped_periods) noexcept;
  // A stop was asked for and the arm's command is at rest.
  bool finished() const noexcept;

  // --- any thread ---

  // Ends this run. The first reason given stays.
  void request_stop(Reason reason) noexcept;
  // Ends this run and every later one as it begins, until released. The first reason given stays.
  void latch_stop(Reason reason) noexcept;
  void release_stop() noexcept { latched_stop_.store(Reason::none, std::memory_order_release); }
  // none: no stop is latched.
  Reason latched_stop() const noexcept { return latched_stop_.load(std::memory_order_acquire); }

  // See ChunkBuffer::push.
  std::uint64_t push(const double* actions, std::size_t rows, const ChunkOrigin& origin) {
    return planned_.push(chunks_, actions, rows, origin);
  }
  // See PlannedActions::read.
  std::size_t planned(std::uint32_t run, std::int64_t step, std::size_t rows, double* actions) const {
    return planned_.read(run, step, rows, actions);
  }
  // `camera` is below options().watchdogs.cameras.
  void report_frame(std::size_t camera, Nanoseconds time) noexcept { frames_.report(camera, time); }
  // The loop as it was at `time`. False when that is before this run's first tick with a pose, or too long
  // ago.
  bool observation_at(Nanoseconds time, Observation& observation) const noexcept;

  std::uint32_t run() const noexcept { return run_.load(std::memory_order_acquire); }
  const TelemetryRing& telemetry() const noexcept { return telemetry_; }
  const LoopStatistics& statistics() const noexcept { return statistics_; }
  const CycleOptions& options() const noexcept { return options_; }

 private:
  // rebasing: the arm is not where the command is; as soon as it is again, the way to the target starts anew.
  enum class Phase : std::uint8_t { without_pose, without_target, approaching, following, rebasing };

  void read_port() noexcept;
  void write_port() noexcept;
  void take_first_pose() noexcept;
  void rebase() noexcept;
  bool writes_lost() const noexcept { return lost_writes_ > options_.lost_writes_max; }
  bool measured_finite() const noexcept;
  bool pose_known_since(Nanoseconds time) const noexcept;
  bool astray() const noexcept;
  bool rebased() const noexcept;
  void gate_target(bool has_target, JointVector& target, const ChunkInfo& info) noexcept;
  void record_chunk(const ChunkInfo& info) noexcept;
  void count() noexcept;
  void count_observation() noexcept;

  std::shared_ptr<Port> port_;
  CycleOptions options_;
  double period_s_;
  SafetyGate gate_;
  ChunkBuffer chunks_;
  PlannedActions planned_;
  FrameTimes frames_;
  Watchdogs watchdogs_;
  StartApproach approach_;
  TelemetryRing telemetry_;
  LoopStatistics statistics_;

  std::atomic<std::uint32_t> run_{0};
  std::atomic<Reason> stop_reason_{Reason::none};
  std::atomic<Reason> latched_stop_{Reason::none};

  Clock* clock_ = nullptr;
  Phase phase_ = Phase::without_pose;
  MeasuredState measured_;
  Nanoseconds begun_ = 0;
  Nanoseconds last_write_ = 0;
  std::size_t lost_writes_ = 0;  // in a row
  Nanoseconds lost_since_ = 0;   // time of the first of them
  JointVector rebase_pose_{};    // within the position limits: where the command goes in Phase::rebasing
  Nanoseconds last_wakeup_ = 0;
  bool first_tick_ = true;
  std::int64_t step_ = 0;
  std::uint64_t writes_ = 0;
  std::uint64_t acted_chunk_ = 0;  // the chunk whose first action was written last
  Reason last_reason_ = Reason::none;
  TickRecord record_;
};

}  // namespace molmoact2::control
