// The link to the kernel's CAN interfaces, on virtual ones: vcan0 for what is said between links, vcan1 for
// what happens when an interface goes down. Most computers have no CAN; tools/clients/uml_can.sh runs this in
// User-Mode Linux, with an emulated arm on vcan2.
#include "bus/can/socketcan_link.h"

#include <linux/can.h>
#include <linux/can/error.h>
#include <linux/can/raw.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bus/damiao/damiao_port.h"
#include "check.h"

using namespace molmoact2::bus;
using namespace molmoact2::control;

namespace {

constexpr Nanoseconds kMillisecond = 1'000'000;

// True, and the case is skipped, where there is no such interface.
bool skipped_without(const char* interface) {
  if (if_nametoindex(interface) != 0) return false;
  molmoact2::check::skip(std::string("no CAN interface ") + interface +
                         " here; see tools/clients/uml_can.sh");
  return true;
}

Nanoseconds soon() { return monotonic_now() + 1000 * kMillisecond; }

void set_up(const char* interface, bool up) {
  const int descriptor = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  const bool read = ::ioctl(descriptor, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  const bool written = ::ioctl(descriptor, SIOCSIFFLAGS, &request) == 0;
  ::close(descriptor);
  if (!read || !written) throw std::runtime_error("the interface cannot be changed");
}

// A controller's error, as its driver would report it.
void report_error(const char* interface, std::uint32_t what, std::uint8_t controller) {
  const int descriptor = ::socket(PF_CAN, SOCK_RAW | SOCK_CLOEXEC, CAN_RAW);
  sockaddr_can address{};
  address.can_family = AF_CAN;
  address.can_ifindex = static_cast<int>(if_nametoindex(interface));
  can_frame frame{};
  frame.can_id = CAN_ERR_FLAG | what;
  frame.len = CAN_ERR_DLC;
  frame.data[1] = controller;
  const bool sent = ::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
                    ::write(descriptor, &frame, sizeof(frame)) == sizeof(frame);
  ::close(descriptor);
  if (!sent) throw std::runtime_error("the error frame cannot be sent");
}

bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 5000 && !holds(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return holds();
}

}  // namespace

CASE("an interface that is none is told") {
  SocketCanLink link("no-such-can", {});
  std::string error;
  CHECK(!link.open(error));
  // Where the kernel has no CAN at all, that is what is wrong.
  CHECK(error.find("no-such-can") != std::string::npos || error.find("can-raw") != std::string::npos);
  CHECK(!link.is_open());
  CanFrame frame;
  CHECK_EQ(link.receive(frame, 0), LinkStatus::lost);
  CHECK_EQ(link.send({&frame, 1}, soon()), LinkStatus::lost);
}

CASE("frames arrive as they were sent, stamped by the kernel in monotonic time") {
  if (skipped_without("vcan0")) return;
  SocketCanLink here("vcan0", {});
  SocketCanLink there("vcan0", {});
  std::string error;
  REQUIRE(here.open(error) && there.open(error));
  const std::vector<CanFrame> frames{{.id = 0x11, .length = 8, .data = {1, 2, 3, 4, 5, 6, 7, 8}},
                                     {.id = 0x1ABCDEF0, .extended = true, .length = 2, .data = {9, 8}},
                                     {.id = 0x7FF, .remote = true, .length = 4},
                                     {.id = 0, .length = 0}};
  const Nanoseconds before = monotonic_now();
  REQUIRE(here.send(frames, soon()) == LinkStatus::ok);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  const Nanoseconds after = monotonic_now();
  for (const CanFrame& sent : frames) {
    CanFrame got;
    REQUIRE(there.receive(got, soon()) == LinkStatus::ok);
    CHECK(got.id == sent.id && got.extended == sent.extended && got.remote == sent.remote);
    CHECK(got.length == sent.length && got.data == sent.data);
    // When it was handed over, not when it was read: that was at least 30 ms later.
    CHECK(got.time >= before - kMillisecond && got.time < after - 10 * kMillisecond);
  }
  CanFrame own;
  CHECK_EQ(here.receive(own, 0), LinkStatus::timed_out);  // nobody hears himself
}

CASE("only accepted ids are received") {
  if (skipped_without("vcan0")) return;
  SocketCanLink here("vcan0", {});
  SocketCanLink there("vcan0", {0x12, 0x13});
  std::string error;
  REQUIRE(here.open(error) && there.open(error));
  const std::vector<CanFrame> frames{
      {.id = 0x11}, {.id = 0x12}, {.id = 0x12, .extended = true}, {.id = 0x13}};
  REQUIRE(here.send(frames, soon()) == LinkStatus::ok);
  CanFrame got;
  REQUIRE(there.receive(got, soon()) == LinkStatus::ok);
  CHECK_EQ(got.id, 0x12U);
  REQUIRE(there.receive(got, soon()) == LinkStatus::ok);
  CHECK_EQ(got.id, 0x13U);
  CHECK_EQ(there.receive(got, 0), LinkStatus::timed_out);
}

CASE("the controller's errors become the link's health, and are no frames") {
  if (skipped_without("vcan0")) return;
  SocketCanLink link("vcan0", {0x11});
  std::string error;
  REQUIRE(link.open(error));
  CHECK_EQ(link.health(), CanHealth::active);
  const auto after = [&](std::uint32_t what, std::uint8_t controller) {
    report_error("vcan0", what, controller);
    CanFrame frame;
    CHECK_EQ(link.receive(frame, monotonic_now() + 20 * kMillisecond), LinkStatus::timed_out);
    return link.health();
  };
  CHECK_EQ(after(CAN_ERR_CRTL, CAN_ERR_CRTL_TX_WARNING), CanHealth::warning);
  CHECK_EQ(after(CAN_ERR_CRTL, CAN_ERR_CRTL_RX_PASSIVE), CanHealth::passive);
  CHECK_EQ(after(CAN_ERR_BUSOFF, 0), CanHealth::bus_off);
  CHECK_EQ(after(CAN_ERR_RESTARTED, 0), CanHealth::active);
}

CASE("an interface that goes down is lost at once, and found again when it is up") {
  if (skipped_without("vcan1")) return;
  SocketCanLink link("vcan1", {});
  std::string error;
  REQUIRE(link.open(error));
  set_up("vcan1", false);
  const CanFrame frame{.id = 1};
  CHECK_EQ(link.send({&frame, 1}, soon()), LinkStatus::lost);
  CHECK(!link.is_open());
  set_up("vcan1", true);
  REQUIRE(link.open(error));
  CHECK_EQ(link.send({&frame, 1}, soon()), LinkStatus::ok);
}

CASE("an emulated arm on an interface is identified, switched on, moved and let go") {
  if (skipped_without("vcan2")) return;
  const MitRanges big{12.5, 10.0, 28.0};
  const MitRanges small{12.5, 30.0, 10.0};
  DamiaoOptions options;
  std::vector<std::uint32_t> ids;
  for (std::uint32_t id = 1; id <= 7; ++id) {
    const bool is_big = id <= 3;
    const double kp = is_big ? 80.0 : 10.0;
    options.joints.push_back(
        {0, id, id + 0x10, is_big ? big : small, kp, is_big ? 5.0 : 0.5, 57.29577951308232, 0.0});
    ids.push_back(id + 0x10);
  }
  options.ramp = 0;
  options.exchange_timeout = 20 * kMillisecond;
  std::vector<std::unique_ptr<CanLink>> links;
  links.push_back(std::make_unique<SocketCanLink>("vcan2", ids));
  DamiaoPort port(std::move(links), options);
  std::string error;
  REQUIRE(port.open(error));
  REQUIRE(eventually([&] { return port.report().motors[6].time != 0; }));
  std::uint32_t pmax = 0;
  REQUIRE(port.read_register(0, 21, pmax));
  CHECK_EQ(pmax, 0x41480000U);  // 12.5f
  CHECK(port.write_register(3, 9, 4000));
  for (std::size_t i = 0; i < 7; ++i) {
    if (is_error(port.report().motors[i].status)) REQUIRE(port.command(i, MotorCommand::clear_error));
    REQUIRE(port.command(i, MotorCommand::enable));
  }
  port.clear_faults();
  REQUIRE(port.set_mode(DriveMode::follow));
  const DamiaoReport start = port.report();
  Command command;
  for (std::size_t i = 0; i < 7; ++i) command.positions[i] = start.motors[i].position + (i == 1 ? 5.0 : 0.0);
  CHECK(eventually([&] {
    return port.write(command) == PortStatus::ok &&
           std::abs(port.report().motors[1].position - start.motors[1].position - 5.0) < 0.5;
  }));
  CHECK(!port.report().motors[1].faulted);
  port.close();
  // Nobody talks to the motors any more: they find out by themselves.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  REQUIRE(port.open(error));
  CHECK(eventually([&] { return port.report().motors[1].status == MotorStatus::link_lost; }));
}
