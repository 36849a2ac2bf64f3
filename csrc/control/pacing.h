// Absolute deadlines: lateness in one tick never shifts the ticks after it. Pure arithmetic, time is an
// argument.
#pragma once

#include <cstdint>

#include "control/clock.h"

namespace molmoact2::control {

class Pacer {
 public:
  // The first deadline is `first`; later ones are whole multiples of `period` (> 0) after it.
  constexpr Pacer(Nanoseconds first, Nanoseconds period) noexcept : deadline_(first), period_(period) {}

  constexpr Nanoseconds deadline() const noexcept { return deadline_; }
  constexpr Nanoseconds period() const noexcept { return period_; }

  // Moves on to the first deadline that is not before `now`, the time when this tick's work ended. Returns
  // how many periods were skipped: 0 on time, otherwise an overrun of that many whole periods.
  constexpr std::int64_t advance(Nanoseconds now) noexcept {
    deadline_ += period_;
    if (now <= deadline_) {
      return 0;
    }
    const std::int64_t skipped = (now - deadline_ + period_ - 1) / period_;
    deadline_ += skipped * period_;
    return skipped;
  }

 private:
  Nanoseconds deadline_;
  Nanoseconds period_;
};

}  // namespace molmoact2::control
