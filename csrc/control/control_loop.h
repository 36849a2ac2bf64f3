// The control thread: a ControlCycle at absolute deadlines on the monotonic clock.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "control/control_cycle.h"
#include "control/scheduling.h"

namespace molmoact2::control {

class ControlLoop {
 public:
  ControlLoop(std::shared_ptr<Port> port, const CycleOptions& options, SchedulingRequest scheduling);
  ControlLoop(const ControlLoop&) = delete;
  ControlLoop& operator=(const ControlLoop&) = delete;
  ~ControlLoop();

  // Starts a run in a thread of its own. Throws std::logic_error while one is running, std::system_error when
  // the system has no thread left. Returns what the scheduler refused.
  std::vector<SchedulingWarning> start();

  // Asks the run to decelerate and end, and waits for it. After `timeout` the thread ends at its next tick
  // where the arm is; false then. Several threads may: each asks at once, and they wait one after the other.
  bool stop(Reason reason, Nanoseconds timeout);

  bool running() const noexcept { return running_.load(std::memory_order_acquire); }

  // The same run without a thread: the caller's ticks are the loop's. Throws std::logic_error like start().
  void begin_stepped(Nanoseconds now);
  void tick_stepped(Nanoseconds now);

  ControlCycle& cycle() noexcept { return cycle_; }
  const ControlCycle& cycle() const noexcept { return cycle_; }

 private:
  void run() noexcept;
  void require_stopped() const;

  ControlCycle cycle_;
  SchedulingRequest scheduling_;
  Nanoseconds period_;
  MonotonicClock clock_;
  ManualClock manual_clock_;
  std::mutex lifecycle_;  // between threads that start and stop; the loop's thread never takes it
  std::thread thread_;
  std::atomic<bool> running_{false};
  std::atomic<bool> abandoned_{false};
  bool stepped_ = false;
};

}  // namespace molmoact2::control
