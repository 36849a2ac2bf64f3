#include "bus/can/socketcan_link.h"

#include <linux/can.h>
#include <linux/can/error.h>
#include <linux/can/raw.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

namespace molmoact2::bus {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr Nanoseconds kSecond = 1'000'000'000;
// How long to let a full transmit queue drain before it is tried again; poll() does not tell.
constexpr Nanoseconds kQueueWait = 100'000;
constexpr std::uint32_t kWatchedErrors = CAN_ERR_BUSOFF | CAN_ERR_CRTL | CAN_ERR_RESTARTED;

std::string because(int error) { return {std::strerror(error)}; }

Nanoseconds nanoseconds_of(const timespec& time) noexcept {
  return static_cast<Nanoseconds>(time.tv_sec) * kSecond + time.tv_nsec;
}

// The kernel stamps with the wall clock. One that was set in between would put the stamp in the future or far
// into the past: then the moment of reading is what is known.
Nanoseconds monotonic_of(const timespec& stamp) noexcept {
  timespec wall{};
  clock_gettime(CLOCK_REALTIME, &wall);
  const Nanoseconds now = monotonic_now();
  const Nanoseconds age = nanoseconds_of(wall) - nanoseconds_of(stamp);
  return age >= 0 && age < kSecond ? now - age : now;
}

// What an error frame says about the controller, or what was known before.
CanHealth health_from(const can_frame& frame, CanHealth before) noexcept {
  if ((frame.can_id & CAN_ERR_BUSOFF) != 0) {
    return CanHealth::bus_off;
  }
  if ((frame.can_id & CAN_ERR_RESTARTED) != 0) {
    return CanHealth::active;
  }
  if ((frame.can_id & CAN_ERR_CRTL) != 0) {
    const std::uint8_t controller = frame.data[1];
    if ((controller & (CAN_ERR_CRTL_RX_PASSIVE | CAN_ERR_CRTL_TX_PASSIVE)) != 0) {
      return CanHealth::passive;
    }
    if ((controller & (CAN_ERR_CRTL_RX_WARNING | CAN_ERR_CRTL_TX_WARNING)) != 0) {
      return CanHealth::warning;
    }
    if ((controller & CAN_ERR_CRTL_ACTIVE) != 0) {
      return CanHealth::active;
    }
  }
  return before;
}

// Empty where the socket is bound to the interface and set up; otherwise what is wrong.
std::string set_up(int descriptor, const std::string& interface,
                   const std::vector<std::uint32_t>& accepted_ids) {
  const unsigned int index = if_nametoindex(interface.c_str());
  if (index == 0) {
    return "there is no network interface " + interface + ": " + because(errno) +
           "; plug the adapter in and bring it up: ip link set " + interface + " up type can bitrate 1000000";
  }
  std::vector<can_filter> filters;
  filters.reserve(accepted_ids.size());
  for (const std::uint32_t id : accepted_ids) {
    filters.push_back({id, CAN_SFF_MASK | CAN_EFF_FLAG | CAN_RTR_FLAG});
  }
  const can_err_mask_t errors = kWatchedErrors;
  const int on = 1;
  if ((!filters.empty() && ::setsockopt(descriptor, SOL_CAN_RAW, CAN_RAW_FILTER, filters.data(),
                                        static_cast<socklen_t>(filters.size() * sizeof(can_filter))) != 0) ||
      ::setsockopt(descriptor, SOL_CAN_RAW, CAN_RAW_ERR_FILTER, &errors, sizeof(errors)) != 0 ||
      ::setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) != 0) {
    return "cannot set up a CAN socket: " + because(errno);
  }
  sockaddr_can address{};
  address.can_family = AF_CAN;
  address.can_ifindex = static_cast<int>(index);
  if (::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return "cannot use " + interface + ": " + because(errno) + "; is it a CAN interface, and up?";
  }
  return {};
}

}  // namespace

SocketCanLink::SocketCanLink(std::string interface, std::vector<std::uint32_t> accepted_ids)
    : interface_(std::move(interface)), accepted_ids_(std::move(accepted_ids)) {}

SocketCanLink::~SocketCanLink() { close(); }

bool SocketCanLink::open(std::string& error) noexcept {
  close();
  const int opened = ::socket(PF_CAN, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, CAN_RAW);
  if (opened < 0) {
    error =
        "no CAN socket: " + because(errno) + "; does this kernel have can and can-raw (modprobe can-raw)?";
    return false;
  }
  const std::string wrong = set_up(opened, interface_, accepted_ids_);
  if (!wrong.empty()) {
    error = wrong;
    ::close(opened);
    return false;
  }
  health_.store(CanHealth::active, std::memory_order_release);
  descriptor_.store(opened, std::memory_order_release);
  ready_.store(true, std::memory_order_release);
  return true;
}

void SocketCanLink::close() noexcept {
  ready_.store(false, std::memory_order_release);
  const int descriptor = descriptor_.exchange(-1, std::memory_order_acq_rel);
  if (descriptor >= 0) {
    ::close(descriptor);
  }
}

LinkStatus SocketCanLink::lose() noexcept {
  ready_.store(false, std::memory_order_release);
  return LinkStatus::lost;
}

LinkStatus SocketCanLink::wait(short events, Nanoseconds deadline) noexcept {
  while (true) {
    const Nanoseconds left = deadline - monotonic_now();
    if (left <= 0) {
      return LinkStatus::timed_out;
    }
    const timespec timeout{static_cast<std::time_t>(left / kSecond), static_cast<long>(left % kSecond)};
    pollfd poll{descriptor_.load(std::memory_order_acquire), events, 0};
    const int ready = ::ppoll(&poll, 1, &timeout, nullptr);
    if (ready > 0) {
      // An error that waits on the socket is told by the next call on it.
      return LinkStatus::ok;
    }
    if (ready < 0 && errno != EINTR) {
      return lose();
    }
  }
}

LinkStatus SocketCanLink::send(std::span<const CanFrame> frames, Nanoseconds deadline) noexcept {
  if (!ready_.load(std::memory_order_acquire)) {
    return LinkStatus::lost;
  }
  for (const CanFrame& frame : frames) {
    can_frame raw{};
    raw.can_id = frame.id | (frame.extended ? CAN_EFF_FLAG : 0U) | (frame.remote ? CAN_RTR_FLAG : 0U);
    raw.len = frame.length;
    std::copy_n(frame.data.begin(), kCanDataBytes, raw.data);
    while (::write(descriptor_.load(std::memory_order_acquire), &raw, sizeof(raw)) != sizeof(raw)) {
      if (errno == EINTR) {
        continue;
      }
      if (errno != ENOBUFS && errno != EAGAIN) {
        return lose();
      }
      const Nanoseconds now = monotonic_now();
      if (now >= deadline) {
        return LinkStatus::timed_out;
      }
      const Nanoseconds until = std::min(deadline, now + kQueueWait);
      const timespec wake{static_cast<std::time_t>(until / kSecond), static_cast<long>(until % kSecond)};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, nullptr);
    }
  }
  return LinkStatus::ok;
}

LinkStatus SocketCanLink::take(CanFrame& frame, bool& is_error) noexcept {
  can_frame raw{};
  iovec buffer{&raw, sizeof(raw)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(timespec))> control{};
  msghdr message{};
  message.msg_iov = &buffer;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(descriptor_.load(std::memory_order_acquire), &message, 0);
  if (got < 0) {
    return errno == EAGAIN || errno == EINTR ? LinkStatus::timed_out : lose();
  }
  is_error = got == sizeof(raw) && (raw.can_id & CAN_ERR_FLAG) != 0;
  if (is_error) {
    health_.store(health_from(raw, health_.load(std::memory_order_relaxed)), std::memory_order_release);
    return LinkStatus::ok;
  }
  if (got != sizeof(raw) || raw.len > kCanDataBytes) {
    malformed_.fetch_add(1, std::memory_order_relaxed);
    is_error = true;  // nothing for the caller
    return LinkStatus::ok;
  }
  frame.time = monotonic_now();
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_TIMESTAMPNS) {
      timespec stamp{};
      std::memcpy(&stamp, CMSG_DATA(header), sizeof(stamp));
      frame.time = monotonic_of(stamp);
    }
  }
  frame.extended = (raw.can_id & CAN_EFF_FLAG) != 0;
  frame.remote = (raw.can_id & CAN_RTR_FLAG) != 0;
  frame.id = raw.can_id & (frame.extended ? CAN_EFF_MASK : CAN_SFF_MASK);
  frame.length = raw.len;
  frame.data.fill(0);
  if (!frame.remote) {
    std::copy_n(raw.data, raw.len, frame.data.begin());
  }
  return LinkStatus::ok;
}

LinkStatus SocketCanLink::receive(CanFrame& frame, Nanoseconds deadline) noexcept {
  if (!ready_.load(std::memory_order_acquire)) {
    return LinkStatus::lost;
  }
  constexpr int kErrorFrames = 64;  // a storm of them is no reason to stay
  for (int i = 0; i < kErrorFrames; ++i) {
    bool is_error = false;
    LinkStatus status = take(frame, is_error);
    if (status == LinkStatus::timed_out) {
      status = wait(POLLIN, deadline);
      if (status != LinkStatus::ok) {
        return status;
      }
      continue;
    }
    if (status != LinkStatus::ok || !is_error) {
      return status;
    }
  }
  return LinkStatus::timed_out;
}

}  // namespace molmoact2::bus
