// What the loop did at each tick, in a ring that it overwrites and never waits for. Readers keep their own
// place, see how much they lost, and may look back; a black box is the ring's content at the time of a fault.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "control/clock.h"
#include "control/histogram.h"
#include "control/joints.h"
#include "control/seqlock.h"
#include "control/status.h"

namespace molmoact2::control {

struct TickRecord {
  std::uint64_t tick = 0;  // counted from 1, over all runs of the loop
  std::uint32_t run = 0;
  State state = State::idle;
  Reason reason = Reason::none;
  Reason rejected_chunk = Reason::none;
  bool followed = false;             // a step was executed
  Nanoseconds deadline = 0;          // when the tick was due
  Nanoseconds wakeup = 0;            // when it began
  Nanoseconds period = 0;            // since the tick before it began; 0 at the first of a run
  Nanoseconds read_duration = 0;     // bus, in
  Nanoseconds write_duration = 0;    // bus, out
  Nanoseconds write_time = 0;        // when the command was out; 0: nothing was written
  Nanoseconds busy = 0;              // from beginning to end of the tick's work
  std::int64_t skipped_periods = 0;  // after this tick
  std::int64_t step = 0;             // the step that is due next, after this tick
  std::uint64_t chunk = 0;
  Nanoseconds observed_time = 0;  // of the chunk's observation: its oldest image; 0: unknown
  double action = 0.0;            // position in the chunk
  std::int64_t remaining_steps = 0;
  double frozen_error = 0.0;        // at the first step from a chunk, see ChunkInfo
  std::int64_t unfrozen_steps = 0;  // likewise
  std::uint32_t limited_joints = 0;
  Nanoseconds measured_time = 0;
  JointVector measured{};
  JointVector target{};   // before the gate; the last one where there is none
  JointVector command{};  // after the gate
};

class TelemetryRing {
 public:
  // Holds the last `capacity` (>= 1) records.
  explicit TelemetryRing(std::size_t capacity)
      : capacity_(capacity), slots_(std::make_unique<Seqlock<TickRecord>[]>(capacity)) {}

  void push(const TickRecord& record) noexcept {
    const std::uint64_t next = written_.load(std::memory_order_relaxed) + 1;
    slots_[next % capacity_].store(record);
    written_.store(next, std::memory_order_release);
  }

  std::size_t capacity() const noexcept { return capacity_; }
  // Records pushed so far; the newest has this position, the first had 1.
  std::uint64_t written() const noexcept { return written_.load(std::memory_order_acquire); }

  // False when the record at `position` was overwritten or is not there yet.
  bool read(std::uint64_t position, TickRecord& record) const noexcept {
    if (position == 0) {
      return false;
    }
    TickRecord copy;
    const std::uint64_t publication = slots_[position % capacity_].load(copy);
    // A slot's n-th publication holds one position only, so a record that took its place is seen.
    if (publication != position / capacity_ + (position % capacity_ == 0 ? 0 : 1)) {
      return false;
    }
    record = copy;
    return true;
  }

 private:
  std::size_t capacity_;
  std::unique_ptr<Seqlock<TickRecord>[]> slots_;
  std::atomic<std::uint64_t> written_{0};
};

// Sums over all runs. One thread records, any thread reads.
struct LoopStatistics {
  using Counter = std::atomic<std::uint64_t>;

  Histogram period;
  Histogram wakeup_latency;
  Histogram bus;
  Histogram busy;
  Histogram state_age;
  Histogram observation_age;        // of the action that is written: since its chunk's observation
  Histogram observation_to_action;  // the same at the first write from each chunk
  Counter ticks{0};
  Counter executed_steps{0};
  Counter overruns{0};
  Counter skipped_periods{0};
  Counter read_failures{0};
  Counter write_failures{0};
  Counter chunks_taken{0};
  Counter chunks_not_continuing{0};  // frozen rows farther than the tolerance from what was executed
  Counter chunks_beyond_frozen{0};   // the policy took longer than it had frozen rows for
  std::array<Counter, kReasonCount> reason_ticks{};   // ticks that a reason lasted
  std::array<Counter, kReasonCount> reason_events{};  // times that it began
  std::array<Counter, kReasonCount> rejected_chunks{};
  std::array<Counter, kStateCount> state_ticks{};

  // Single writer: no locked instruction is needed.
  static void add(Counter& counter, std::uint64_t amount = 1) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
};

}  // namespace molmoact2::control
