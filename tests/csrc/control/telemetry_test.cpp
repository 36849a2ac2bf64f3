#include "control/telemetry.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "control/mailbox_port.h"

using namespace molmoact2::control;

CASE("a quantile lies within a bucket's width of the exact one") {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> durations(12.0, 3.0);
  auto histogram = std::make_unique<Histogram>();
  std::vector<Nanoseconds> exact;
  for (int i = 0; i < 20000; ++i) {
    exact.push_back(static_cast<Nanoseconds>(durations(random)));
    histogram->record(exact.back());
  }
  std::sort(exact.begin(), exact.end());
  CHECK_EQ(histogram->count(), 20000U);
  CHECK_EQ(histogram->max(), exact.back());
  for (const double fraction : {0.0, 0.01, 0.5, 0.95, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::max(1.0, std::ceil(fraction * 20000.0)));
    const auto wanted = static_cast<double>(exact[rank - 1]);
    const auto got = static_cast<double>(histogram->quantile(fraction));
    CHECK(got >= wanted);
    CHECK(got <= wanted * (1.0 + 1.0 / 128.0) + 1.0);
  }
}

CASE("an empty histogram answers zero, and values out of range are kept in the last bucket") {
  auto histogram = std::make_unique<Histogram>();
  CHECK_EQ(histogram->quantile(0.5), 0);
  CHECK_EQ(histogram->mean(), 0.0);
  histogram->record(-5);
  CHECK_EQ(histogram->quantile(0.5), 0);
  const Nanoseconds day = 86'400'000'000'000;
  histogram->record(day);
  CHECK_EQ(histogram->max(), day);
  CHECK_EQ(histogram->count(), 2U);
}

CASE("the ring keeps the newest records and knows which are gone") {
  TelemetryRing ring(4);
  TickRecord record;
  CHECK(!ring.read(1, record));
  for (std::uint64_t tick = 1; tick <= 10; ++tick) {
    TickRecord pushed;
    pushed.tick = tick;
    ring.push(pushed);
    CHECK(ring.read(tick, record));
    CHECK_EQ(record.tick, tick);
    CHECK(!ring.read(tick + 1, record));
  }
  for (std::uint64_t tick = 1; tick <= 6; ++tick) CHECK(!ring.read(tick, record));
  for (std::uint64_t tick = 7; tick <= 10; ++tick) {
    CHECK(ring.read(tick, record));
    CHECK_EQ(record.tick, tick);
  }
}

CASE("a reader beside a writer never sees half a record") {
  TelemetryRing ring(8);
  constexpr std::uint64_t kRecords = 50000;
  std::thread writer([&] {
    TickRecord record;
    for (std::uint64_t tick = 1; tick <= kRecords; ++tick) {
      record.tick = tick;
      record.command.fill(static_cast<double>(tick));
      ring.push(record);
    }
  });
  bool whole = true;
  while (ring.written() < kRecords) {
    TickRecord record;
    const std::uint64_t position = ring.written();
    if (!ring.read(position, record)) continue;
    whole = whole && record.tick == position;
    for (const double value : record.command) whole = whole && value == static_cast<double>(position);
  }
  writer.join();
  CHECK(whole);
  TickRecord last;
  CHECK(ring.read(kRecords, last));
}

CASE("a command is taken once, and only the newest") {
  MailboxPort port(1);
  Command command;
  MeasuredState state;
  CHECK(port.read(state) == PortStatus::no_data);
  CHECK(!port.take_command(command));
  for (std::uint64_t sequence = 1; sequence <= 3; ++sequence) {
    port.write({JointVector{static_cast<double>(sequence)}, sequence, 0});
  }
  CHECK(port.take_command(command));
  CHECK_EQ(command.sequence, 3U);
  CHECK(!port.take_command(command));
  port.publish_state({JointVector{5.0}, 9});
  CHECK(port.read(state) == PortStatus::ok);
  CHECK_EQ(state.positions[0], 5.0);
  CHECK_EQ(state.time, 9);
}
