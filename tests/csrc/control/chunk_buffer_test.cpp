#include "control/chunk_buffer.h"

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "check.h"

using namespace molmoact2::control;

namespace {

// Actions that say where they come from: the value of row r is `first` + r * `slope`.
std::vector<double> ramp(std::size_t rows, double first, double slope = 1.0) {
  std::vector<double> actions(rows);
  for (std::size_t r = 0; r < rows; ++r) actions[r] = first + slope * static_cast<double>(r);
  return actions;
}

// The weight of what is left, `since` of `steps` into a blend.
double falling(std::int64_t since, std::int64_t steps) {
  const double share = static_cast<double>(since) / static_cast<double>(steps);
  return 1.0 - share * share * (3.0 - 2.0 * share);
}

struct Buffer {
  explicit Buffer(SpliceMode mode, double actions_per_step = 1.0, std::int64_t blend_steps = 4)
      : chunks({1, 64, mode, actions_per_step, blend_steps, Resampling::linear}) {}
  void push(const std::vector<double>& actions, std::int64_t observed_step, std::uint32_t run = 0) {
    CHECK(chunks.push(actions.data(), actions.size(), {observed_step, run}) > 0);
  }
  void push_frozen(const std::vector<double>& actions, std::int64_t observed_step, std::size_t frozen_rows) {
    CHECK(chunks.push(actions.data(), actions.size(),
                      {.observed_step = observed_step, .frozen_rows = frozen_rows}) > 0);
  }
  double next(std::int64_t step) { return chunks.next(step, target, info) ? target[0] : NAN; }

  ChunkBuffer chunks;
  JointVector target{};
  ChunkInfo info;
};

}  // namespace

CASE("nothing arrived yet: no target, and the reason") {
  Buffer buffer(SpliceMode::async);
  CHECK(std::isnan(buffer.next(0)));
  CHECK(buffer.info.reason == Reason::waiting_for_chunk);
}

CASE("rows are played in order, then the chunk is exhausted") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(3, 10), 5);
  CHECK_EQ(buffer.next(5), 10.0);
  CHECK(buffer.info.switched);
  CHECK_EQ(buffer.info.remaining_steps, 3);
  CHECK_EQ(buffer.next(6), 11.0);
  CHECK(!buffer.info.switched);
  CHECK_EQ(buffer.next(7), 12.0);
  CHECK_EQ(buffer.info.remaining_steps, 1);
  CHECK(std::isnan(buffer.next(8)));
  CHECK(buffer.info.reason == Reason::chunk_exhausted);
}

CASE("the splice skips what was executed since the observation, not more") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(30, 0), 0);
  for (std::int64_t step = 0; step < 9; ++step) CHECK_EQ(buffer.next(step), static_cast<double>(step));
  buffer.push(ramp(30, 100), 4);  // seen at step 4; 4 to 8 were executed meanwhile
  CHECK_EQ(buffer.next(9), 105.0);
  CHECK_EQ(buffer.info.chunk, 2U);
}

CASE("from standstill nothing is skipped, however long the policy took") {
  Buffer buffer(SpliceMode::async);
  for (int tick = 0; tick < 35; ++tick) CHECK(std::isnan(buffer.next(0)));
  buffer.push(ramp(30, 0), 0);
  CHECK_EQ(buffer.next(0), 0.0);
}

CASE("a slower chunk is interpolated linearly, its last action lasts as long as the others") {
  Buffer buffer(SpliceMode::async, 0.25);
  buffer.push(ramp(2, 0, 8), 0);
  const double expected[] = {0, 2, 4, 6, 8, 8, 8, 8};
  for (std::int64_t step = 0; step < 8; ++step) {
    CHECK_NEAR(buffer.next(step), expected[step], 1e-12);
    CHECK_EQ(buffer.info.remaining_steps, 8 - step);
  }
  CHECK(std::isnan(buffer.next(8)));
}

CASE("rates that are not a power of two give every action its steps, without drift") {
  Buffer buffer(SpliceMode::async, 30.0 / 50.0);
  buffer.push(ramp(30, 0), 0);
  std::int64_t step = 0;
  while (!std::isnan(buffer.next(step))) {
    CHECK_NEAR(buffer.target[0], std::min(29.0, 0.6 * static_cast<double>(step)), 1e-9);
    ++step;
  }
  CHECK_EQ(step, 50);
}

CASE("a row that is not finite does not spoil the whole action beside it") {
  Buffer buffer(SpliceMode::async);
  buffer.push({1.0, NAN, 3.0}, 0);
  CHECK_EQ(buffer.next(0), 1.0);
  CHECK(buffer.chunks.next(1, buffer.target, buffer.info));
  CHECK(std::isnan(buffer.target[0]));
  CHECK_EQ(buffer.next(2), 3.0);
}

CASE("where chunks run out, the reason is the last rejection, if there was one") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(4, 0), 10);
  for (std::int64_t step = 10; step < 14; ++step) CHECK(!std::isnan(buffer.next(step)));
  buffer.push(ramp(3, 600), 11);  // its actions were due at 11, 12 and 13
  CHECK(std::isnan(buffer.next(14)));
  CHECK(buffer.info.reason == Reason::chunk_late);
  CHECK(std::isnan(buffer.next(14)));
  CHECK(buffer.info.reason == Reason::chunk_late);
}

CASE("each rejection has its reason while the present chunk goes on") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(40, 0), 10);
  CHECK_EQ(buffer.next(12), 2.0);
  buffer.push(ramp(2, 500), 10);
  CHECK_EQ(buffer.next(13), 3.0);
  CHECK(buffer.info.rejected == Reason::chunk_late);
  buffer.push({}, 13);
  CHECK_EQ(buffer.next(14), 4.0);
  CHECK(buffer.info.rejected == Reason::chunk_empty);
  buffer.push(ramp(40, 500), 9);
  CHECK_EQ(buffer.next(15), 5.0);
  CHECK(buffer.info.rejected == Reason::chunk_out_of_order);
  buffer.push(ramp(40, 500), 17);
  CHECK_EQ(buffer.next(16), 6.0);
  CHECK(buffer.info.rejected == Reason::chunk_from_future);
  buffer.push(ramp(40, 500), 16, 7);
  CHECK_EQ(buffer.next(17), 7.0);
  CHECK(buffer.info.rejected == Reason::chunk_of_other_run);
  CHECK_EQ(buffer.info.chunk, 1U);
  CHECK_EQ(buffer.next(18), 8.0);
  CHECK(buffer.info.rejected == Reason::none);
}

CASE("sync plays a chunk to its end before the next") {
  Buffer buffer(SpliceMode::sync);
  buffer.push(ramp(3, 0), 0);
  CHECK_EQ(buffer.next(0), 0.0);
  buffer.push(ramp(9, 100), 1);
  CHECK_EQ(buffer.next(1), 1.0);
  CHECK_EQ(buffer.next(2), 2.0);
  CHECK_EQ(buffer.next(3), 102.0);
}

CASE("sync lets another chunk in where the present one cannot be executed") {
  Buffer buffer(SpliceMode::sync);
  buffer.push({0.0, NAN, 2.0}, 0);
  CHECK_EQ(buffer.next(0), 0.0);
  CHECK(std::isnan(buffer.next(1)));
  buffer.push(ramp(9, 100), 1);
  CHECK_EQ(buffer.next(1), 100.0);  // the step was asked for before: it was not executed
}

CASE("blend weighs both chunks where both cover, and ends on the new one") {
  Buffer buffer(SpliceMode::blend, 1.0, 4);
  buffer.push(ramp(60, 0, 2.0), 0);
  for (std::int64_t step = 0; step < 10; ++step) buffer.next(step);
  buffer.push(ramp(60, 50), 8);  // at step 10 it says 52, the old one 20
  for (std::int64_t step = 10; step < 14; ++step) {
    const double old = 2.0 * static_cast<double>(step);
    const double fresh = 50.0 + static_cast<double>(step - 8);
    CHECK_NEAR(buffer.next(step), fresh + (old - fresh) * falling(step - 9, 5), 1e-9);
  }
  CHECK_NEAR(buffer.next(14), 56.0, 1e-12);
}

CASE("where the old chunk ends within the blend, its last distance fades") {
  Buffer buffer(SpliceMode::blend, 1.0, 4);
  buffer.push(ramp(12, 0, 2.0), 0);  // covers steps 0 to 11
  for (std::int64_t step = 0; step < 10; ++step) buffer.next(step);
  buffer.push(ramp(60, 50), 8);
  double distance = 0.0;
  for (std::int64_t step = 10; step < 14; ++step) {
    const double fresh = 50.0 + static_cast<double>(step - 8);
    if (step < 12) distance = 2.0 * static_cast<double>(step) - fresh;
    CHECK_NEAR(buffer.next(step), fresh + distance * falling(step - 9, 5), 1e-9);
  }
  CHECK_NEAR(buffer.next(14), 56.0, 1e-12);
}

CASE("a blend begins and ends with the velocities of the two chunks") {
  constexpr std::int64_t kSteps = 200;  // long, so that one step's difference is close to a velocity
  Buffer buffer(SpliceMode::blend, 0.05, kSteps);
  buffer.push(ramp(60, 0, 2.0), 0);
  buffer.next(0);
  buffer.push(ramp(60, 3, 1.0), 1);
  std::vector<double> targets{0.0};
  for (std::int64_t step = 1; step < 1 + kSteps + 20; ++step) targets.push_back(buffer.next(step));
  CHECK_NEAR(targets[2] - targets[1], 2.0 * 0.05, 2e-3);
  CHECK_NEAR(targets[kSteps + 1] - targets[kSteps], 1.0 * 0.05, 2e-3);
}

CASE("a switch within a fade goes on from the faded target") {
  Buffer buffer(SpliceMode::blend, 1.0, 9);
  buffer.push(std::vector<double>(60, 0.0), 0);
  buffer.next(0);
  double last = 0.0;
  for (std::int64_t step = 1; step < 40; ++step) {
    if (step % 3 == 1) buffer.push(std::vector<double>(60, step % 2 == 0 ? 10.0 : 0.0), step);
    const double target = buffer.next(step);
    // At most 1.5 times a tenth of a seam of 10 a step, for each of the two that are under way.
    CHECK(std::abs(target - last) <= 3.0 + 1e-9);
    last = target;
  }
}

CASE("a fade after a hold starts where the arm was left") {
  Buffer buffer(SpliceMode::blend, 1.0, 4);
  buffer.push(ramp(2, 0), 0);
  buffer.next(0);
  buffer.next(1);
  CHECK(std::isnan(buffer.next(2)));
  buffer.push(std::vector<double>(20, 11.0), 2);
  CHECK_NEAR(buffer.next(2), 11.0 + (1.0 - 11.0) * falling(1, 5), 1e-12);
}

CASE("a chunk that is not finite leaves no trace in the next one's fade") {
  Buffer buffer(SpliceMode::blend, 1.0, 4);
  buffer.push(std::vector<double>(20, NAN), 0);
  CHECK(std::isnan(buffer.next(0)));
  buffer.push(std::vector<double>(20, 5.0), 0);
  CHECK_EQ(buffer.next(0), 5.0);
}

CASE("rtc compares a chunk's frozen rows with the targets that were given for their steps") {
  Buffer buffer(SpliceMode::rtc);
  buffer.push(ramp(40, 0), 0);
  for (std::int64_t step = 0; step < 10; ++step) buffer.next(step);
  std::vector<double> next = ramp(40, 4);  // continues from step 4
  buffer.push_frozen(next, 4, 6);
  CHECK_EQ(buffer.next(10), 10.0);
  CHECK(buffer.info.switched);
  CHECK_EQ(buffer.info.frozen_error, 0.0);
  CHECK_EQ(buffer.info.unfrozen_steps, 0);

  next = ramp(40, 8);  // from step 8
  next[1] += 0.75;
  next[3] += 9.0;  // not frozen
  buffer.next(11);
  buffer.next(12);
  buffer.push_frozen(next, 8, 3);
  buffer.next(13);
  CHECK_NEAR(buffer.info.frozen_error, 0.75, 1e-12);
  CHECK_EQ(buffer.info.unfrozen_steps, 2);  // steps 11 and 12

  next = ramp(40, 12);
  next[0] = NAN;
  buffer.push_frozen(next, 12, 1);
  buffer.next(14);
  CHECK(std::isinf(buffer.info.frozen_error));
}

CASE("a chunk without frozen rows, or with none executed, is compared with nothing") {
  Buffer buffer(SpliceMode::rtc);
  buffer.push_frozen(ramp(40, 500), 0, 8);
  CHECK_EQ(buffer.next(0), 500.0);
  CHECK_EQ(buffer.info.frozen_error, 0.0);
  buffer.push(ramp(40, 900), 0);
  buffer.next(1);
  CHECK_EQ(buffer.info.frozen_error, 0.0);
  CHECK_EQ(buffer.info.unfrozen_steps, 0);
}

CASE("clear forgets, and what was on its way belongs to the past") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(30, 0), 0);
  buffer.next(0);
  buffer.push(ramp(30, 0), 0);
  buffer.chunks.clear(1);
  CHECK(std::isnan(buffer.next(0)));
  CHECK(buffer.info.reason == Reason::waiting_for_chunk);
  buffer.push(ramp(30, 0), 0, 0);
  CHECK(std::isnan(buffer.next(0)));
  CHECK(buffer.info.reason == Reason::chunk_of_other_run);
  buffer.push(ramp(30, 70), 0, 1);
  CHECK_EQ(buffer.next(0), 70.0);
}

CASE("of two chunks between two steps the later one counts") {
  Buffer buffer(SpliceMode::async);
  buffer.push(ramp(5, 10), 0);
  buffer.push(ramp(5, 20), 0);
  CHECK_EQ(buffer.next(0), 20.0);
}

CASE("too long a chunk is refused and changes nothing") {
  Buffer buffer(SpliceMode::async);
  const std::vector<double> long_chunk(65, 1.0);
  CHECK_EQ(buffer.chunks.push(long_chunk.data(), long_chunk.size(), {}), 0U);
  CHECK(std::isnan(buffer.next(0)));
}

CASE("two threads hand chunks over without tearing one") {
  ChunkBuffer chunks({8, 32, SpliceMode::async, 1.0, 0, Resampling::linear});
  constexpr int kPushes = 20000;
  std::atomic<bool> done{false};
  std::thread producer([&] {
    std::vector<double> actions(32 * 8);
    for (int i = 1; i <= kPushes; ++i) {
      std::fill(actions.begin(), actions.end(), static_cast<double>(i));
      chunks.push(actions.data(), 32, {});
    }
    done.store(true);
  });
  JointVector target{};
  ChunkInfo info;
  double newest = 0.0;
  bool whole = true;
  bool in_order = true;
  while (!done.load() || newest < kPushes) {
    if (!chunks.next(3, target, info)) continue;
    for (std::size_t i = 0; i < 8; ++i) whole = whole && target[i] == static_cast<double>(info.chunk);
    in_order = in_order && target[0] >= newest;
    newest = target[0];
  }
  producer.join();
  CHECK(whole);
  CHECK(in_order);
  CHECK_EQ(newest, static_cast<double>(kPushes));
}
