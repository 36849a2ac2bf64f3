#include "control/clock.h"

#include <cerrno>
#include <ctime>

namespace molmoact2::control {

namespace {
constexpr Nanoseconds kNanosecondsPerSecond = 1'000'000'000;
}

Nanoseconds monotonic_now() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<Nanoseconds>(now.tv_sec) * kNanosecondsPerSecond + now.tv_nsec;
}

void MonotonicClock::sleep_until(Nanoseconds deadline) noexcept {
  timespec wake{};
  wake.tv_sec = static_cast<std::time_t>(deadline / kNanosecondsPerSecond);
  wake.tv_nsec = static_cast<long>(deadline % kNanosecondsPerSecond);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, nullptr) == EINTR) {
  }
}

}  // namespace molmoact2::control
