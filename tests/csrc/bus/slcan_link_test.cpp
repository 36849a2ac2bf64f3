// The link to an slcan adapter, against a pseudo-terminal that plays the adapter.
#include "bus/can/slcan_link.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "check.h"
#include "counters.h"
#include "serial_terminal.h"

using namespace molmoact2::bus;
using namespace molmoact2::control;

namespace {

constexpr int kBaud = 1'000'000;
constexpr int kBitrate = 1'000'000;
constexpr Nanoseconds kSecond = 1'000'000'000;

void say(const SerialTerminal& terminal, std::string_view text) {
  terminal.send({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::string heard(const SerialTerminal& terminal) {
  std::string text;
  for (std::vector<std::uint8_t> bytes = terminal.receive(200); !bytes.empty();
       bytes = terminal.receive(20)) {
    text.append(bytes.begin(), bytes.end());
  }
  return text;
}

Nanoseconds soon() { return monotonic_now() + kSecond; }

}  // namespace

CASE("opening closes what was open, sets the bit rate, opens the channel, and hears nothing old") {
  const SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, kBitrate);
  say(terminal, "t0111AA\r");
  heard(terminal);  // a terminal that nobody has set up yet echoes
  std::string error;
  REQUIRE(link.open(error));
  CHECK_EQ(heard(terminal), "\r\r\rC\rS8\rO\r");
  CanFrame frame;
  CHECK_EQ(link.receive(frame, 0), LinkStatus::timed_out);
  link.close();
  CHECK_EQ(heard(terminal), "C\r");
  CHECK_EQ(link.receive(frame, 0), LinkStatus::lost);
}

CASE("an adapter that refuses is told, and so is a path that is none") {
  const SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, 500'000);
  std::thread adapter([&] {
    std::string text;
    while (text.find("O\r") == std::string::npos) {
      for (const std::uint8_t byte : terminal.receive(2000)) text += static_cast<char>(byte);
    }
    say(terminal, "\a");
  });
  std::string error;
  const bool opened = link.open(error);
  adapter.join();
  CHECK(!opened);
  CHECK(error.find("refuses") != std::string::npos);
  CHECK(error.find("500000") != std::string::npos);
  SlcanLink nowhere("/dev/no-such-adapter", kBaud, kBitrate);
  CHECK(!nowhere.open(error));
  CHECK(error.find("/dev/no-such-adapter") != std::string::npos);
  CHECK(!check_slcan_bitrate(123).empty());
  CHECK(check_slcan_bitrate(1'000'000).empty());
}

CASE("frames go out as one run of lines and come in between acknowledgements and garbage") {
  const SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, kBitrate);
  std::string error;
  REQUIRE(link.open(error));
  heard(terminal);
  std::vector<CanFrame> frames(20);
  std::string lines;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    frames[i].id = static_cast<std::uint32_t>(i);
    frames[i].length = 1;
    lines += "t0" + std::string(i < 16 ? "0" : "1") + "0123456789ABCDEF"[i % 16] + "100\r";
  }
  CHECK_EQ(link.send(frames, soon()), LinkStatus::ok);
  CHECK_EQ(heard(terminal), lines);
  say(terminal, "z\rt01120A0B\r\rt01x\rt0121FF\r");
  CanFrame frame;
  REQUIRE(link.receive(frame, soon()) == LinkStatus::ok);
  CHECK(frame.id == 0x11 && frame.length == 2 && frame.data[0] == 0x0A && frame.data[1] == 0x0B);
  REQUIRE(link.receive(frame, soon()) == LinkStatus::ok);
  CHECK(frame.id == 0x12 && frame.data[0] == 0xFF);
  CHECK_EQ(link.malformed(), 1U);
  CHECK_EQ(link.receive(frame, 0), LinkStatus::timed_out);
}

CASE("a frame that lay there is no younger than the last time that nothing was there") {
  const SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, kBitrate);
  std::string error;
  REQUIRE(link.open(error));
  CanFrame frame;
  REQUIRE(link.receive(frame, 0) == LinkStatus::timed_out);
  const Nanoseconds empty = monotonic_now();
  say(terminal, "t0111AA\r");
  const Nanoseconds later = monotonic_now();
  REQUIRE(link.receive(frame, 0) == LinkStatus::ok);
  CHECK(frame.time <= empty);
  CHECK(later > empty);
  // One that is waited for is stamped when it came.
  std::thread adapter([&] { say(terminal, "t0121BB\r"); });
  const Nanoseconds before = monotonic_now();
  const bool got = link.receive(frame, soon()) == LinkStatus::ok;
  adapter.join();
  REQUIRE(got);
  CHECK(frame.time <= monotonic_now());
  CHECK(frame.time >= before - kSecond);
}

CASE("an adapter that is pulled is lost at once, and open() finds the one that replaces it") {
  SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, kBitrate);
  std::string error;
  REQUIRE(link.open(error));
  terminal.unplug();
  CanFrame frame;
  CHECK_EQ(link.receive(frame, soon()), LinkStatus::lost);
  CHECK(!link.is_open());
  CHECK_EQ(link.send({&frame, 1}, soon()), LinkStatus::lost);
  CHECK(!link.open(error));
  CHECK(!error.empty());
}

CASE("an exchange takes no memory and no lock") {
  const SerialTerminal terminal;
  SlcanLink link(terminal.path(), kBaud, kBitrate);
  std::string error;
  REQUIRE(link.open(error));
  const std::array<CanFrame, 7> frames{};
  std::string text;
  for (int i = 0; i < 7; ++i) text += "t0118AABBCCDDEEFF0011\r";
  say(terminal, text);
  begin_counting();
  link.send(frames, soon());
  CanFrame frame;
  int received = 0;
  while (link.receive(frame, 0) == LinkStatus::ok) ++received;
  const Counts counts = end_counting();
  CHECK_EQ(received, 7);
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer owns the allocator");
    return;
  }
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
}
