// Counts what a thread that must never wait may not do: take memory, take a lock, wait for one. The C
// library's own functions are replaced for this executable, so whatever calls them is seen, std::mutex
// included.
#pragma once

namespace molmoact2::control {

struct Counts {
  long allocations = 0;
  long locks = 0;  // mutexes, condition variables, semaphores, futexes
};

// Under a sanitizer these functions are the sanitizer's, and nothing is counted.
bool counters_work() noexcept;
// From here on what the calling thread does is counted, from zero.
void begin_counting() noexcept;
Counts end_counting() noexcept;

}  // namespace molmoact2::control
