// Counts every allocation of this executable while a cycle ticks; there must be none.
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "check.h"
#include "control/control_cycle.h"
#include "cycle_bench.h"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

using namespace molmoact2::control;

CASE("ticks allocate nothing: running, splicing, holding, refusing, stopping, faulting") {
  ManualClock clock(1'000'000'000);
  auto port = std::make_shared<ScriptedPort>(2, clock);
  CycleOptions options = bench_options();
  options.chunks.mode = SpliceMode::blend;
  options.chunks.actions_per_step = 0.6;
  options.chunks.blend_steps = 10;
  options.chunks.resampling = Resampling::cubic;
  options.limits.jerk_max.fill(1e5);
  ControlCycle cycle(port, options);
  const std::vector<double> good(60, 4.0);
  const std::vector<double> bad(60, NAN);
  cycle.begin(clock);
  const long before = allocations.load();
  REQUIRE(before > 0);  // the counter counts
  for (int tick = 0; tick < 3000; ++tick) {
    clock.set(clock.now() + 20'000'000);
    if (tick % 40 == 5) {
      Observation observation;
      if (cycle.observation_at(clock.now(), observation)) {
        cycle.push(tick % 3 == 0 ? bad.data() : good.data(), 30, {observation.step, observation.run});
      }
    }
    port->silent = tick % 500 > 470;
    if (tick == 2000) {
      cycle.request_stop(Reason::stop_requested);
    }
    if (tick == 2200) {
      cycle.begin(clock);
      port->silent = false;
    }
    cycle.tick(clock.now());
    cycle.finish_tick(0);
  }
  CHECK_EQ(allocations.load() - before, 0);
}
