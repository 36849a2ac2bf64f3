// Ways to stop the loop that need neither Python nor its lock: a key press, a signal's number in a pipe, a
// file that appears, a line on a local socket. A thread of its own waits for them all; what it does when one
// comes is its owner's.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "control/clock.h"
#include "control/status.h"

namespace molmoact2::control {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int descriptor) noexcept : descriptor_(descriptor) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }

  int get() const noexcept { return descriptor_; }
  void reset(int descriptor = -1) noexcept;

 private:
  int descriptor_ = -1;
};

struct StopSources {
  // A terminal: any key stops. Its line editing and echo are off until the monitor ends. -1, a file, or a
  // terminal of which this process is not in the foreground: no key.
  int key = -1;
  // Stops as long as it exists; empty: none. Its directory must exist.
  std::string file{};  // NOLINT(readability-redundant-member-init): GCC wants it for designated initializers
  // "unix:PATH" or "tcp:PORT" (127.0.0.1, 0: any free one); empty: none.
  std::string socket{};  // NOLINT(readability-redundant-member-init): likewise
};

class StopMonitor {
 public:
  using Action = std::function<void(Reason)>;

  // `on_stop` is called in the monitor's thread at every stop, and again and again while the file exists or a
  // client waits that cannot be taken. Throws std::invalid_argument for sources that make no sense,
  // std::system_error for what the system refuses.
  StopMonitor(const StopSources& sources, Action on_stop);
  StopMonitor(const StopMonitor&) = delete;
  StopMonitor& operator=(const StopMonitor&) = delete;
  // Gives the terminal back as it was and removes the socket.
  ~StopMonitor();

  // The end to write a signal's number to, one byte, from a handler (it does not block): SIGINT, SIGTERM and
  // SIGHUP (the terminal is gone) stop, others do nothing.
  int signal_descriptor() const noexcept { return signal_write_.get(); }
  bool watches_key() const noexcept { return key_ >= 0; }
  // Of the TCP socket; 0 without one.
  std::uint16_t port() const noexcept { return port_; }

  // How often a client of the socket could not be taken, and the system's error number (EMFILE: no descriptor
  // is left) of the first time; 0: never. Such a client stops: it may want to, and nobody can hear it. It
  // waits, and is asked again every kListenPause, so that it is heard as soon as that can be.
  std::uint64_t failed_accepts() const noexcept { return failed_accepts_.load(std::memory_order_acquire); }
  int accept_error() const noexcept { return accept_error_.load(std::memory_order_acquire); }

  // Of the first stop; none: nothing has stopped the loop.
  Reason reason() const noexcept { return reason_.load(std::memory_order_acquire); }
  Nanoseconds stopped_at() const noexcept { return stopped_at_.load(std::memory_order_acquire); }

  static constexpr Nanoseconds kListenPause = 100'000'000;

 private:
  static constexpr std::size_t kClients = 8;

  void open_key(int key);
  void open_file(const std::string& file);
  void open_unix_socket(const std::string& path);
  void open_tcp_socket(const std::string& port);
  void run() noexcept;
  bool wait() noexcept;
  int poll_timeout_ms(Nanoseconds now) const noexcept;
  void stop(Reason reason) noexcept;
  void read_signals() noexcept;
  void read_key() noexcept;
  void look_for_file() noexcept;
  void accept_client() noexcept;
  void read_client(Descriptor& client) noexcept;

  Action on_stop_;
  std::atomic<Reason> reason_{Reason::none};
  std::atomic<Nanoseconds> stopped_at_{0};

  Descriptor wake_;  // eventfd: end
  Descriptor signal_read_;
  Descriptor signal_write_;
  int key_ = -1;  // the caller's terminal
  bool key_gone_ = false;
  termios terminal_{};
  std::string file_;
  Descriptor listener_;
  Nanoseconds listens_from_ = 0;  // later than now: a client could not be taken
  std::atomic<std::uint64_t> failed_accepts_{0};
  std::atomic<int> accept_error_{0};
  std::string unix_path_;
  std::uint16_t port_ = 0;
  std::array<Descriptor, kClients> clients_;
  std::thread thread_;
};

}  // namespace molmoact2::control
