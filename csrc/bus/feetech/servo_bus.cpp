#include "bus/feetech/servo_bus.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace molmoact2::bus::feetech {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;
constexpr Nanoseconds kBitsPerByte = 10;  // 8N1
constexpr Nanoseconds kSecond = 1'000'000'000;
// An adapter with a latency timer keeps bytes for up to 16 ms.
constexpr Nanoseconds kEchoTimeout = 20 * kMillisecond;
// No servo takes these for the beginning of a packet.
constexpr std::array<std::uint8_t, 4> kEchoProbe{0x00, 0x5A, 0xA5, 0x00};

}  // namespace

Nanoseconds ServoBus::on_wire(std::size_t bytes) const noexcept {
  return static_cast<Nanoseconds>(bytes) * kBitsPerByte * kSecond / link_.baud();
}

Nanoseconds ServoBus::occupy(std::size_t bytes) noexcept {
  wire_free_ = std::max(wire_free_, monotonic_now()) + on_wire(bytes);
  return wire_free_;
}

bool ServoBus::open(std::string& error) noexcept {
  if (!link_.open(error)) {
    return false;
  }
  echoes_ = false;
  wire_free_ = 0;
  // Answers and echoes can look the same (a ping and its answer under low voltage do), so the adapter is
  // asked once, with bytes to which no servo answers.
  const Nanoseconds deadline = occupy(kEchoProbe.size()) + kEchoTimeout;
  if (link_.write(kEchoProbe, deadline) != LinkStatus::ok) {
    error = link_.path() + " takes no bytes";
    link_.close();
    return false;
  }
  std::array<std::uint8_t, kEchoProbe.size()> heard{};
  std::size_t count = 0;
  std::size_t got = 0;
  while (count < heard.size() &&
         link_.read(std::span(heard).subspan(count), got, deadline) == LinkStatus::ok) {
    count += got;
  }
  echoes_ = heard == kEchoProbe && count == heard.size();
  if (!link_.is_open()) {
    error = link_.path() + " was unplugged while it was opened";
    return false;
  }
  return true;
}

void ServoBus::acquire() noexcept {
  while (!try_acquire()) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void ServoBus::count(const StatusParser::Counts& counts, bool complete) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  counters_.exchanges.fetch_add(1, kRelaxed);
  counters_.timeouts.fetch_add(complete ? 0 : 1, kRelaxed);
  counters_.checksum_errors.fetch_add(counts.checksum_errors, kRelaxed);
  counters_.wrong_lengths.fetch_add(counts.wrong_lengths, kRelaxed);
  counters_.garbage.fetch_add(counts.garbage, kRelaxed);
}

LinkStatus ServoBus::send(const Packet& request, Nanoseconds deadline) noexcept {
  occupy(request.size());
  return link_.write(request.bytes(), deadline);
}

LinkStatus ServoBus::exchange(const Packet& request, std::size_t data_size, std::span<Answer> answers,
                              Nanoseconds slack, Nanoseconds deadline) noexcept {
  const std::size_t packet_size = kOverhead + data_size;
  auto pending =
      static_cast<std::size_t>(std::ranges::count_if(answers, [](const Answer& a) { return !a.arrived; }));
  // What came after an earlier exchange was given up is no answer to this one.
  link_.discard_input();
  parser_.expect(data_size, echoes_ ? request.bytes() : std::span<const std::uint8_t>{});
  const Nanoseconds sent_at = monotonic_now();
  LinkStatus status = send(request, deadline);
  deadline = std::min(deadline, wire_free_ + on_wire(pending * packet_size) + slack);

  // Once so many bytes are here, what is missing was garbled and will not come.
  std::size_t awaited = pending * packet_size + (echoes_ ? request.size() : 0);
  std::size_t received = 0;
  while (status == LinkStatus::ok && pending > 0 && received < awaited) {
    std::size_t got = 0;
    status = link_.read(parser_.space(), got, deadline);
    parser_.take(got);
    received += got;
    Status packet;
    while (parser_.next(packet)) {
      const auto answer = std::ranges::find_if(
          answers, [&packet](const Answer& a) { return a.servo == packet.servo && !a.arrived; });
      if (answer == answers.end()) {
        counters_.foreign.fetch_add(1, std::memory_order_relaxed);
        awaited += packet_size;
        continue;
      }
      answer->arrived = true;
      answer->error = packet.error;
      answer->time = sent_at;
      std::copy_n(packet.data.begin(), std::min(data_size, kMaxBlock), answer->data.begin());
      --pending;
    }
  }
  count(parser_.counts(), pending == 0);
  if (status != LinkStatus::lost) {
    status = pending == 0 ? LinkStatus::ok : LinkStatus::timed_out;
  }
  return status;
}

LinkStatus ServoBus::read_block(std::uint8_t address, std::size_t size, std::span<Answer> answers,
                                Nanoseconds slack, Nanoseconds deadline) noexcept {
  for (bool again = false;; again = true) {
    std::array<std::uint8_t, kMaxServos> missing{};
    std::size_t count = 0;
    for (const Answer& answer : answers) {
      if (!answer.arrived) {
        missing[count++] = answer.servo;
      }
    }
    if (count == 0) {
      return LinkStatus::ok;
    }
    // Another attempt must have the time that it takes where all goes well.
    const Nanoseconds shortest = on_wire(kOverhead + 2 + count + count * (kOverhead + size));
    if (again) {
      if (monotonic_now() + shortest > deadline) {
        return LinkStatus::timed_out;
      }
      count_retry();
    }
    const LinkStatus status =
        exchange(sync_read_packet(address, static_cast<std::uint8_t>(size), std::span(missing).first(count)),
                 size, answers, slack, deadline);
    if (status == LinkStatus::lost) {
      return status;
    }
    // Missing ones to the end, all in their order; std::stable_partition would take memory for that.
    auto end_of_arrived = answers.begin();
    for (auto answer = answers.begin(); answer != answers.end(); ++answer) {
      if (answer->arrived) {
        std::rotate(end_of_arrived, answer, answer + 1);
        ++end_of_arrived;
      }
    }
  }
}

}  // namespace molmoact2::bus::feetech
