// Asking the system to run a thread on time. What it refuses is reported, not fatal: the loop then runs as it
// can.
#pragma once

#include <string>
#include <vector>

namespace molmoact2::control {

struct SchedulingRequest {
  int fifo_priority = 0;     // 1..99 for SCHED_FIFO, 0 for the normal scheduler
  bool lock_memory = false;  // mlockall: the process's pages stay in memory
  std::vector<int> cpus;     // run only on these; empty: on any
};

struct SchedulingWarning {
  std::string name;  // fifo_refused, memory_lock_refused, affinity_refused
  std::string text;  // what was asked, the system's answer, what to do
};

// Applies to the calling thread (memory: to the process). Allocates; call before the loop runs.
std::vector<SchedulingWarning> request_scheduling(const SchedulingRequest& request);

}  // namespace molmoact2::control
