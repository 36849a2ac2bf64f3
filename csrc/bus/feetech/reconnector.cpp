#include "bus/feetech/reconnector.h"

#include <chrono>
#include <utility>

namespace molmoact2::bus::feetech {

using control::monotonic_now;
using control::Nanoseconds;

Reconnector::Reconnector(std::shared_ptr<FeetechPort> port, Nanoseconds patience)
    : port_(std::move(port)), patience_(patience), thread_([this] { run(); }) {}

void Reconnector::end() noexcept {
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool Reconnector::pause() noexcept {
  // Looked at, not told: the loop's thread, which finds the device gone, may wake nobody.
  constexpr std::chrono::milliseconds kInterval(20);
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, kInterval, [this] { return ended_; });
  return ended_;
}

void Reconnector::run() noexcept {
  Nanoseconds lost_since = 0;
  while (!pause()) {
    if (!port_->lost() || port_->trouble().kind != Trouble::none) {
      lost_since = 0;
      continue;
    }
    const Nanoseconds now = monotonic_now();
    lost_since = lost_since == 0 ? now : lost_since;
    TroubleReport missing;
    if (!port_->reopen(missing) && now - lost_since > patience_) {
      port_->report(missing);
    }
  }
}

}  // namespace molmoact2::bus::feetech
