#include "kernels/cpu/thread_team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace molmoact2::kernels {
namespace {

// About 10 to 50 microseconds, depending on how long the processor pauses.
constexpr int kSpins = 600;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // `yield` does nothing on most cores; this stalls for a similar time
#endif
}

void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t value) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (word.load(std::memory_order_acquire) != value) return;
    pause();
  }
  while (word.load(std::memory_order_acquire) == value) word.wait(value, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  missing_ = threads;
  try {
    for (int member = 1; member < threads; ++member) {
      workers_.emplace_back([this, member] { work(member); });
    }
  } catch (...) {
    stop();
    throw;
  }
}

ThreadTeam::~ThreadTeam() { stop(); }

void ThreadTeam::stop() {
  stopping_ = true;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run(const std::function<void(int)>& body) {
  if (workers_.empty()) {
    body(0);
    return;
  }
  body_ = &body;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  body(0);
  meet();
}

void ThreadTeam::work(int member) {
  for (std::uint32_t done = 0;; ++done) {
    wait_while(job_, done);
    if (stopping_) return;
    (*body_)(member);
    meet();
  }
}

void ThreadTeam::meet() {
  const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (missing_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    missing_.store(size(), std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_while(phase_, phase);
  }
}

}  // namespace molmoact2::kernels
