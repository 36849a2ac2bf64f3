#include "control/control_loop.h"

#include <cmath>
#include <future>
#include <stdexcept>
#include <utility>

#include "control/pacing.h"

namespace molmoact2::control {

namespace {

constexpr Nanoseconds kStopPoll = 1'000'000;

// Touches the stack that the ticks will use, so that none of them is the first to need a page.
void prefault_stack() noexcept {
  constexpr std::size_t kBytes = std::size_t{128} * 1024;
  constexpr std::size_t kPage = 4096;
  char stack[kBytes];
  volatile char* const bytes = stack;
  for (std::size_t i = 0; i < kBytes; i += kPage) {
    bytes[i] = 0;
  }
}

}  // namespace

ControlLoop::ControlLoop(std::shared_ptr<Port> port, const CycleOptions& options,
                         SchedulingRequest scheduling)
    : cycle_(std::move(port), options),
      scheduling_(std::move(scheduling)),
      period_(static_cast<Nanoseconds>(std::llround(1e9 / options.rate_hz))) {}

ControlLoop::~ControlLoop() { stop(Reason::stop_requested, 0); }

void ControlLoop::require_stopped() const {
  if (running()) {
    throw std::logic_error("the control loop is already running; stop it before starting it again");
  }
}

std::vector<SchedulingWarning> ControlLoop::start() {
  const std::scoped_lock lock(lifecycle_);
  require_stopped();
  if (thread_.joinable()) {
    thread_.join();
  }
  stepped_ = false;
  abandoned_.store(false, std::memory_order_relaxed);
  std::promise<std::vector<SchedulingWarning>> granted;
  std::future<std::vector<SchedulingWarning>> answer = granted.get_future();
  cycle_.begin(clock_);
  running_.store(true, std::memory_order_release);
  try {
    thread_ = std::thread([this, granted = std::move(granted)]() mutable {
      granted.set_value(request_scheduling(scheduling_));
      prefault_stack();
      run();
    });
  } catch (...) {
    running_.store(false, std::memory_order_release);
    throw;
  }
  return answer.get();
}

void ControlLoop::run() noexcept {
  Pacer pacer(clock_.now() + period_, period_);
  while (!cycle_.finished() && !abandoned_.load(std::memory_order_relaxed)) {
    const Nanoseconds deadline = pacer.deadline();
    clock_.sleep_until(deadline);
    cycle_.tick(deadline);
    cycle_.finish_tick(pacer.advance(clock_.now()));
  }
  running_.store(false, std::memory_order_release);
}

bool ControlLoop::stop(Reason reason, Nanoseconds timeout) {
  cycle_.request_stop(reason);
  const std::scoped_lock lock(lifecycle_);
  const Nanoseconds give_up = clock_.now() + timeout;
  while (running() && clock_.now() < give_up) {
    clock_.sleep_until(clock_.now() + kStopPoll);
  }
  const bool at_rest = !running();
  abandoned_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) {
    thread_.join();
  }
  return at_rest;
}

void ControlLoop::begin_stepped(Nanoseconds now) {
  const std::scoped_lock lock(lifecycle_);
  require_stopped();
  manual_clock_ = ManualClock(now);
  cycle_.begin(manual_clock_);
  stepped_ = true;
}

void ControlLoop::tick_stepped(Nanoseconds now) {
  require_stopped();
  if (!stepped_) {
    throw std::logic_error("begin_stepped() comes before tick()");
  }
  manual_clock_.set(now);
  cycle_.tick(now);
  cycle_.finish_tick(0);
}

}  // namespace molmoact2::control
