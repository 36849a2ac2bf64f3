// Counts every allocation of this executable while a cycle ticks; there must be none.
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "check.h"
#include "control/control_cycle.h"
#include "scripted_port.h"

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
  CycleOptions options;
  options.limits.joint_count = 2;
  for (std::size_t i = 0; i < 2; ++i) {
    options.limits.position_min[i] = -100;
    options.limits.position_max[i] = 100;
    options.limits.velocity_max[i] = 100;
    options.limits.acceleration_max[i] = 1000;
    options.limits.jump_max[i] = 20;
    options.start_distance_max[i] = 50;
  }
  options.chunks = {2, 64, SpliceMode::blend, 0.6, 10};
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
        cycle.push(tick % 3 == 0 ? bad.data() : good.data(), 30, observation.step, observation.run);
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
