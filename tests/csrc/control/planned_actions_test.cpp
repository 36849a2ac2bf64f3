#include "control/planned_actions.h"

#include <atomic>
#include <thread>
#include <vector>

#include "check.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

std::vector<double> ramp(std::size_t rows, double first) {
  std::vector<double> actions;
  for (std::size_t row = 0; row < rows; ++row)
    actions.insert(actions.end(), 2, first + static_cast<double>(row));
  return actions;
}

std::size_t planned(const CycleBench& bench, std::int64_t step, std::vector<double>& rows) {
  rows.assign(128, -1.0);
  return bench.cycle.planned(bench.cycle.run(), step, 64, rows.data());
}

}  // namespace

CASE("what is planned is the chunk in execution, from the step on, at the chunk's own rate") {
  CycleOptions options = bench_options();
  options.chunks.mode = SpliceMode::rtc;
  options.chunks.actions_per_step = 0.5;
  CycleBench bench(options);
  std::vector<double> rows;
  bench.tick();
  CHECK_EQ(planned(bench, 0, rows), 0U);
  bench.cycle.push(ramp(10, 0.0).data(), 10, {0, bench.cycle.run()});
  CHECK_EQ(planned(bench, 0, rows), 0U);  // on its way is not in execution
  bench.tick();
  CHECK_EQ(planned(bench, 0, rows), 10U);
  CHECK_EQ(planned(bench, 3, rows), 8U);  // position 1.5 to 8.5; 9.5 is behind the last action
  for (std::size_t row = 0; row < 8; ++row) {
    CHECK_NEAR(rows[2 * row], 1.5 + static_cast<double>(row), 1e-12);
    CHECK_EQ(rows[2 * row], rows[2 * row + 1]);
  }
  CHECK_EQ(planned(bench, 19, rows), 0U);
  CHECK_EQ(planned(bench, -1, rows), 0U);
  CHECK_EQ(bench.cycle.planned(bench.cycle.run() + 1, 3, 64, rows.data()), 0U);
  CHECK_EQ(bench.cycle.planned(bench.cycle.run(), 3, 2, rows.data()), 2U);
}

CASE("what is planned is what is then executed") {
  CycleOptions options = bench_options();
  options.chunks.mode = SpliceMode::rtc;
  CycleBench bench(options);
  bench.tick();
  bench.cycle.push(ramp(40, 0.0).data(), 40, {0, bench.cycle.run()});
  for (int i = 0; i < 7; ++i) bench.tick();
  std::vector<double> rows;
  REQUIRE(planned(bench, 7, rows) == 33U);
  for (std::size_t row = 0; row < 33; ++row) CHECK_EQ(bench.tick().target[0], rows[2 * row]);
}

CASE("chunks that are refused do not push out the one in execution, a new run forgets it") {
  CycleBench bench;
  bench.tick();
  bench.cycle.push(ramp(60, 0.0).data(), 60, {0, bench.cycle.run()});
  bench.tick();
  for (int i = 0; i < 20; ++i) {
    bench.cycle.push(nullptr, 0, {0, bench.cycle.run()});
    bench.tick();
  }
  std::vector<double> rows;
  CHECK_EQ(planned(bench, 21, rows), 39U);
  CHECK_EQ(rows[0], 21.0);
  bench.cycle.begin(bench.clock);
  CHECK_EQ(planned(bench, 0, rows), 0U);
}

CASE("chunks are pushed and read from several threads while the loop goes on") {
  CycleBench bench;
  bench.tick();
  std::atomic<bool> done{false};
  std::atomic<bool> whole{true};
  std::atomic<int> seen{0};
  const std::uint32_t run = bench.cycle.run();
  std::vector<std::thread> threads;
  for (int producer = 0; producer < 2; ++producer) {
    threads.emplace_back([&, producer] {
      const std::vector<double> actions(128, producer);
      while (!done.load()) bench.cycle.push(actions.data(), 64, {0, run});
    });
  }
  threads.emplace_back([&] {
    std::vector<double> rows(128);
    while (!done.load()) {
      const std::size_t count = bench.cycle.planned(run, 0, 64, rows.data());
      for (std::size_t i = 0; i < 2 * count; ++i) whole.store(whole.load() && rows[i] == rows[0]);
      if (count > 0) ++seen;
    }
  });
  // A busy computer may give the reader no time during the first ticks.
  for (int i = 0; i < 2000 || (seen.load() < 100 && i < 10'000'000); ++i) bench.tick();
  done.store(true);
  for (std::thread& thread : threads) thread.join();
  CHECK(whole.load());
  CHECK(seen.load() >= 100);
}
