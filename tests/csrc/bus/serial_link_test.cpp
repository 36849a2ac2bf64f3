#include "bus/serial/serial_link.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "control/clock.h"
#include "counters.h"
#include "serial_terminal.h"

using namespace molmoact2::bus;
using molmoact2::control::begin_counting;
using molmoact2::control::counters_work;
using molmoact2::control::Counts;
using molmoact2::control::end_counting;
using molmoact2::control::monotonic_now;
using molmoact2::control::Nanoseconds;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;
constexpr Nanoseconds kLong = 5'000 * kMillisecond;  // what a loaded machine may need; no case waits for it

// Exactly `count` bytes, or fewer when the link says anything but ok.
std::vector<std::uint8_t> read_all(SerialLink& link, std::size_t count) {
  std::vector<std::uint8_t> bytes;
  std::array<std::uint8_t, 64> part{};
  std::size_t got = 0;
  while (bytes.size() < count && link.read(part, got, monotonic_now() + kLong) == LinkStatus::ok) {
    bytes.insert(bytes.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(got));
  }
  return bytes;
}

}  // namespace

CASE("every byte goes through a serial link unchanged, both ways") {
  const SerialTerminal device;
  SerialLink link(device.path(), 1'000'000);
  std::string error;
  REQUIRE(link.open(error));
  CHECK_EQ(error, "");
  std::vector<std::uint8_t> all(256);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint8_t>(i);

  CHECK_EQ(link.write(all, monotonic_now() + kLong), LinkStatus::ok);
  std::vector<std::uint8_t> sent;
  while (sent.size() < all.size()) {
    const std::vector<std::uint8_t> part = device.receive(5000);
    REQUIRE(!part.empty());
    sent.insert(sent.end(), part.begin(), part.end());
  }
  CHECK(sent == all);

  device.send(all);
  CHECK(read_all(link, all.size()) == all);
}

CASE("a silent device is a timeout at the deadline; a deadline that has passed takes what is there") {
  const SerialTerminal device;
  SerialLink link(device.path(), 57'600);
  std::string error;
  REQUIRE(link.open(error));
  std::array<std::uint8_t, 8> bytes{};
  std::size_t got = 99;
  const Nanoseconds deadline = monotonic_now() + 2 * kMillisecond;
  CHECK_EQ(link.read(bytes, got, deadline), LinkStatus::timed_out);
  CHECK_EQ(got, 0U);
  CHECK(monotonic_now() >= deadline);

  const std::array<std::uint8_t, 3> sent{1, 2, 3};
  device.send(sent);
  CHECK_EQ(link.read(std::span(bytes).first(1), got, monotonic_now() + kLong), LinkStatus::ok);
  CHECK_EQ(link.read(bytes, got, 0), LinkStatus::ok);
  CHECK_EQ(got, 2U);
  CHECK_EQ(link.read(bytes, got, 0), LinkStatus::timed_out);
  CHECK(link.is_open());
}

CASE("what has arrived can be dropped") {
  const SerialTerminal device;
  SerialLink link(device.path(), 1'000'000);
  std::string error;
  REQUIRE(link.open(error));
  const std::vector<std::uint8_t> noise(1000, 0xFF);
  device.send(noise);
  CHECK_EQ(read_all(link, 10).size() >= 10, true);  // it has arrived
  link.discard_input();
  std::array<std::uint8_t, 8> bytes{};
  std::size_t got = 0;
  CHECK_EQ(link.read(bytes, got, 0), LinkStatus::timed_out);
}

CASE("an unplugged device is lost at once, and found again where its path leads then") {
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / "molmoact2-serial-link-test";
  std::filesystem::create_directories(directory);
  const std::filesystem::path path = directory / std::to_string(::getpid());
  SerialTerminal first;
  std::filesystem::remove(path);
  std::filesystem::create_symlink(first.path(), path);
  SerialLink link(path, 1'000'000);
  std::string error;
  REQUIRE(link.open(error));
  CHECK_EQ(link.openings(), 1U);

  std::thread pull([&first] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    first.unplug();
  });
  std::array<std::uint8_t, 8> bytes{};
  std::size_t got = 0;
  const Nanoseconds deadline = monotonic_now() + kLong;
  CHECK_EQ(link.read(bytes, got, deadline), LinkStatus::lost);
  CHECK(monotonic_now() < deadline);
  pull.join();
  CHECK(!link.is_open());
  CHECK_EQ(link.read(bytes, got, deadline), LinkStatus::lost);
  CHECK_EQ(link.write(bytes, deadline), LinkStatus::lost);

  std::filesystem::remove(path);
  CHECK(!link.open(error));
  CHECK(error.find("No such file") != std::string::npos);
  CHECK(error.find("find-port") != std::string::npos);

  const SerialTerminal second;
  std::filesystem::create_symlink(second.path(), path);
  REQUIRE(link.open(error));
  CHECK_EQ(link.openings(), 2U);
  const std::array<std::uint8_t, 2> word{4, 2};
  second.send(word);
  CHECK_EQ(read_all(link, 2).size(), 2U);
  std::filesystem::remove_all(directory);
}

CASE("a thread that reads never loses what another has opened anew") {
  SerialTerminal gone;
  SerialLink link(gone.path(), 1'000'000);
  std::string error;
  REQUIRE(link.open(error));
  std::atomic<bool> ended{false};
  std::atomic<long> reads{0};
  std::thread reader([&] {
    std::array<std::uint8_t, 16> bytes{};
    std::size_t got = 0;
    while (!ended.load()) {
      link.read(bytes, got, monotonic_now() + kMillisecond);
      ++reads;
    }
  });
  bool opened = true;
  for (int round = 0; round < 200; ++round) {
    std::string why;
    opened = opened && link.open(why) && link.is_open();
    const long before = reads.load();
    while (reads.load() < before + 2) std::this_thread::yield();
    opened = opened && link.is_open();
  }
  ended.store(true);
  reader.join();
  CHECK(opened);
}

CASE("a path that is no serial device, one in use, and no baud rate are refused with what to do") {
  std::string error;
  SerialLink file("/dev/null", 1'000'000);
  CHECK(!file.open(error));
  CHECK(error.find("/dev/null is no serial device") != std::string::npos);

  const SerialTerminal device;
  SerialLink first(device.path(), 1'000'000);
  REQUIRE(first.open(error));
  SerialLink second(device.path(), 1'000'000);
  CHECK(!second.open(error));
  CHECK(error.find("another program has it") != std::string::npos);
  first.close();
  CHECK(second.open(error));

  SerialLink still(device.path(), 0);
  CHECK(!still.open(error));
  CHECK(error.find("baud") != std::string::npos);
}

CASE("any baud rate is set, also one without a name") {
  const SerialTerminal device;
  for (const int baud : {9'600, 57'600, 76'800, 250'000, 1'000'000, 4'000'000}) {
    SerialLink link(device.path(), baud);
    std::string error;
    CHECK(link.open(error));
    CHECK_EQ(link.baud(), baud);
  }
}

CASE("reading and writing take no memory and no lock") {
  if (!counters_work()) {
    molmoact2::check::skip("a sanitizer has these functions");
    return;
  }
  SerialTerminal device;
  SerialLink link(device.path(), 1'000'000);
  std::string error;
  REQUIRE(link.open(error));
  const std::array<std::uint8_t, 4> word{1, 2, 3, 4};
  device.send(word);
  std::array<std::uint8_t, 8> bytes{};
  std::size_t got = 0;
  begin_counting();
  link.write(word, monotonic_now() + kLong);
  link.read(bytes, got, monotonic_now() + kLong);
  link.read(bytes, got, monotonic_now() + kMillisecond);
  link.discard_input();
  Counts counts = end_counting();
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
  device.unplug();
  begin_counting();
  CHECK_EQ(link.read(bytes, got, monotonic_now() + kLong), LinkStatus::lost);
  counts = end_counting();
  CHECK_EQ(counts.allocations, 0);
  CHECK_EQ(counts.locks, 0);
}
