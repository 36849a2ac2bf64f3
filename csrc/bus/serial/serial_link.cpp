#include "bus/serial/serial_link.h"

// The kernel's own termios2, for any baud rate; <termios.h> has another struct of these names and stays out.
#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/serial.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string_view>
#include <utility>

namespace molmoact2::bus {

using control::Nanoseconds;

namespace {

std::string because(int error) { return {std::strerror(error)}; }

// What to do about a path that does not open.
std::string_view open_advice(int error) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return "; is it plugged in? `molmoact2-edge find-port` lists the ports";
    case EACCES:
    case EPERM:
      return "; add your user to the group that owns it (mostly dialout), then log in again";
    case EBUSY:
      return "; another program has it";
    default:
      return {};
  }
}

// Empty where the descriptor is a serial line that is set up and ours; otherwise what is wrong.
std::string set_up(int descriptor, int baud) {
  termios2 settings{};
  if (::ioctl(descriptor, TCGETS2, &settings) != 0) {
    return "is no serial device: " + because(errno);
  }
  // TIOCEXCL keeps others from opening it, unless they are root; the lock keeps those that ask, root
  // included.
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 || ::ioctl(descriptor, TIOCEXCL) != 0) {
    return "is in use: " + because(errno) + "; another program has it";
  }
  settings.c_iflag = 0;
  settings.c_oflag = 0;
  settings.c_lflag = 0;
  settings.c_cflag = CS8 | CREAD | CLOCAL | BOTHER | (static_cast<tcflag_t>(BOTHER) << IBSHIFT);
  settings.c_ispeed = static_cast<speed_t>(baud);
  settings.c_ospeed = static_cast<speed_t>(baud);
  // With 1 a read of 0 bytes means a hang-up; with 0 it could as well mean that nothing has come.
  settings.c_cc[VMIN] = 1;
  settings.c_cc[VTIME] = 0;
  if (::ioctl(descriptor, TCSETS2, &settings) != 0) {
    return "does not take " + std::to_string(baud) + " baud: " + because(errno);
  }
  // Best effort: a pseudo-terminal and many USB adapters have no such setting.
  serial_struct port{};
  if (::ioctl(descriptor, TIOCGSERIAL, &port) == 0) {
    port.flags |= ASYNC_LOW_LATENCY;
    ::ioctl(descriptor, TIOCSSERIAL, &port);
  }
  ::ioctl(descriptor, TCFLSH, TCIOFLUSH);
  return {};
}

}  // namespace

SerialLink::SerialLink(std::string path, int baud) : path_(std::move(path)), baud_(baud) {}

SerialLink::~SerialLink() {
  close();
  const int descriptor = descriptor_.load(std::memory_order_relaxed);
  if (descriptor >= 0) {
    ::close(descriptor);
  }
}

bool SerialLink::open(std::string& error) noexcept {
  close();
  if (baud_ <= 0) {
    error = "the baud rate must be above 0, got " + std::to_string(baud_);
    return false;
  }
  const int opened = ::open(path_.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (opened < 0) {
    const int failure = errno;
    error = "cannot open " + path_ + ": " + because(failure);
    error += open_advice(failure);
    return false;
  }
  const std::string wrong = set_up(opened, baud_);
  if (!wrong.empty()) {
    error = path_ + " " + wrong;
    ::close(opened);
    return false;
  }
  const int kept = descriptor_.load(std::memory_order_relaxed);
  if (kept < 0) {
    descriptor_.store(opened, std::memory_order_release);
  } else {
    const int replaced = ::dup3(opened, kept, O_CLOEXEC);
    const int failure = errno;
    ::close(opened);
    if (replaced < 0) {
      error = "cannot open " + path_ + ": " + because(failure);
      return false;
    }
  }
  state_.store(((openings() + 1) << 1U) | kOpen, std::memory_order_release);
  return true;
}

void SerialLink::close() noexcept {
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const int descriptor = descriptor_.load(std::memory_order_relaxed);
  if (descriptor < 0) {
    return;
  }
  // Said, not left to the last descriptor: another thread may still wait on the device that is let go here.
  ::ioctl(descriptor, TIOCNXCL);
  ::flock(descriptor, LOCK_UN);
  // The number stays ours, with nothing behind it.
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing >= 0) {
    ::dup3(nothing, descriptor, O_CLOEXEC);
    ::close(nothing);
  }
}

LinkStatus SerialLink::lose(std::uint64_t state) noexcept {
  state_.compare_exchange_strong(state, state & ~kOpen, std::memory_order_acq_rel);
  return LinkStatus::lost;
}

LinkStatus SerialLink::wait(short events, std::uint64_t state, Nanoseconds deadline) noexcept {
  constexpr Nanoseconds kSecond = 1'000'000'000;
  while (true) {
    const Nanoseconds left = deadline - control::monotonic_now();
    if (left <= 0) {
      return LinkStatus::timed_out;
    }
    const timespec timeout{static_cast<std::time_t>(left / kSecond), static_cast<long>(left % kSecond)};
    pollfd poll{descriptor_.load(std::memory_order_acquire), events, 0};
    const int ready = ::ppoll(&poll, 1, &timeout, nullptr);
    if (ready > 0) {
      // What arrived before a hang-up may still be read.
      return (poll.revents & events) != 0 ? LinkStatus::ok : lose(state);
    }
    if (ready < 0 && errno != EINTR) {
      return lose(state);
    }
  }
}

void SerialLink::discard_input() noexcept {
  constexpr int kAttempts = 64;  // bounded, also where a device never ceases to send
  std::array<std::uint8_t, 256> dropped;
  std::size_t got = 0;
  for (int i = 0; i < kAttempts && read(dropped, got, 0) == LinkStatus::ok; ++i) {
  }
}

LinkStatus SerialLink::write(std::span<const std::uint8_t> bytes, Nanoseconds deadline) noexcept {
  const std::uint64_t state = state_.load(std::memory_order_acquire);
  if ((state & kOpen) == 0) {
    return LinkStatus::lost;
  }
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_.load(std::memory_order_acquire), bytes.data(), bytes.size());
    if (written > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (written == 0 || errno == EAGAIN || errno == EWOULDBLOCK) {
      const LinkStatus waited = wait(POLLOUT, state, deadline);
      if (waited != LinkStatus::ok) {
        return waited;
      }
    } else if (errno != EINTR) {
      return lose(state);
    }
  }
  return LinkStatus::ok;
}

LinkStatus SerialLink::read(std::span<std::uint8_t> bytes, std::size_t& got, Nanoseconds deadline) noexcept {
  got = 0;
  const std::uint64_t state = state_.load(std::memory_order_acquire);
  if ((state & kOpen) == 0) {
    return LinkStatus::lost;
  }
  while (true) {
    const ssize_t arrived = ::read(descriptor_.load(std::memory_order_acquire), bytes.data(), bytes.size());
    if (arrived > 0) {
      got = static_cast<std::size_t>(arrived);
      return LinkStatus::ok;
    }
    if (arrived == 0) {
      return lose(state);
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      const LinkStatus waited = wait(POLLIN, state, deadline);
      if (waited != LinkStatus::ok) {
        return waited;
      }
    } else if (errno != EINTR) {
      return lose(state);
    }
  }
}

}  // namespace molmoact2::bus
