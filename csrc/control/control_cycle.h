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
#include "control/port.h"
#include "control/safety_gate.h"
#include "control/telemetry.h"

namespace molmoact2::control {

struct CycleOptions {
  JointLimits limits;
  double rate_hz = 50.0;
  ChunkOptions chunks;
  Nanoseconds silence_hold = 100'000'000;     // a bus silent for longer: hold
  Nanoseconds silence_fault = 1'000'000'000;  // for longer still: fault
  double start_speed = 0.25;                  // fraction of velocity_max on the way to the first target
  JointVector start_distance_max{};           // a first target farther away is refused
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

  void request_stop(Reason reason) noexcept;
  // See ChunkBuffer::push; one thread at a time.
  std::uint64_t push(const double* actions, std::size_t rows, std::int64_t observed_step, std::uint32_t run,
                     Nanoseconds observed_time = 0) noexcept;
  // The loop as it was at `time`. False when that is before this run's first tick with a pose, or too long
  // ago.
  bool observation_at(Nanoseconds time, Observation& observation) const noexcept;

  std::uint32_t run() const noexcept { return run_.load(std::memory_order_acquire); }
  const TelemetryRing& telemetry() const noexcept { return telemetry_; }
  const LoopStatistics& statistics() const noexcept { return statistics_; }
  const CycleOptions& options() const noexcept { return options_; }

 private:
  enum class Phase : std::uint8_t { without_pose, without_target, approaching, following };

  void read_port() noexcept;
  void write_port() noexcept;
  void take_first_pose() noexcept;
  Reason silence() const noexcept;
  void plan_approach(const JointVector& first) noexcept;
  void approach(JointVector& target) const noexcept;
  void gate_target(bool has_target, JointVector& target, Reason absence) noexcept;
  void count() noexcept;
  void count_observation() noexcept;

  std::shared_ptr<Port> port_;
  CycleOptions options_;
  double period_s_;
  SafetyGate gate_;
  ChunkBuffer chunks_;
  TelemetryRing telemetry_;
  LoopStatistics statistics_;

  std::atomic<std::uint32_t> run_{0};
  std::atomic<Reason> stop_reason_{Reason::none};

  Clock* clock_ = nullptr;
  Phase phase_ = Phase::without_pose;
  MeasuredState measured_;
  Nanoseconds begun_ = 0;
  Nanoseconds last_write_ = 0;
  Nanoseconds last_wakeup_ = 0;
  bool first_tick_ = true;
  std::int64_t step_ = 0;
  std::uint64_t writes_ = 0;
  std::uint64_t acted_chunk_ = 0;  // the chunk whose first action was written last
  JointVector start_{};
  std::int64_t approach_tick_ = 0;
  std::int64_t approach_ticks_ = 0;
  Reason last_reason_ = Reason::none;
  TickRecord record_;
};

}  // namespace molmoact2::control
