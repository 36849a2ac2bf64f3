#include "control/stop_monitor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

namespace molmoact2::control {

namespace {

constexpr int kFilePollMs = 20;
constexpr char kAnswer[] = "stopping\n";

[[noreturn]] void refuse(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string directory_of(const std::string& file) {
  const std::size_t slash = file.rfind('/');
  if (slash == std::string::npos) {
    return ".";
  }
  return slash == 0 ? "/" : file.substr(0, slash);
}

// Whether somebody answers at the address; a socket's file outlives the process that made it.
bool answers(const sockaddr_un& address) noexcept {
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return probe.get() >= 0 &&
         ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

}  // namespace

void Descriptor::reset(int descriptor) noexcept {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  descriptor_ = descriptor;
}

StopMonitor::StopMonitor(const StopSources& sources, Action on_stop) : on_stop_(std::move(on_stop)) {
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  int ends[2];
  if (wake_.get() < 0 || ::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    refuse("the stop monitor has no file descriptor left");
  }
  signal_read_.reset(ends[0]);
  signal_write_.reset(ends[1]);
  if (!sources.file.empty()) {
    open_file(sources.file);
  }
  constexpr std::string_view kUnix = "unix:";
  constexpr std::string_view kTcp = "tcp:";
  if (sources.socket.starts_with(kUnix)) {
    open_unix_socket(sources.socket.substr(kUnix.size()));
  } else if (sources.socket.starts_with(kTcp)) {
    open_tcp_socket(sources.socket.substr(kTcp.size()));
  } else if (!sources.socket.empty()) {
    throw std::invalid_argument("the stop socket must be unix:PATH or tcp:PORT, got '" + sources.socket +
                                "'");
  }
  // Last: whatever fails above must not leave the terminal changed.
  open_key(sources.key);
  thread_ = std::thread([this] { run(); });
}

StopMonitor::~StopMonitor() {
  const std::uint64_t one = 1;
  while (::write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  thread_.join();
  if (key_ >= 0) {
    ::tcsetattr(key_, TCSANOW, &terminal_);
  }
  if (!unix_path_.empty()) {
    ::unlink(unix_path_.c_str());
  }
}

void StopMonitor::open_key(int key) {
  // Changing the terminal of another foreground process would stop this one (SIGTTOU).
  if (key < 0 || ::isatty(key) == 0 || ::tcgetpgrp(key) != ::getpgrp() || ::tcgetattr(key, &terminal_) != 0) {
    return;
  }
  termios single_keys = terminal_;
  single_keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  // Any key: also those that would freeze the output (^S), suspend (^Z) or abort (^\) the process, and with
  // it the arm in mid-motion. ^C stays a signal.
  single_keys.c_iflag &= ~static_cast<tcflag_t>(IXON);
  single_keys.c_cc[VSUSP] = _POSIX_VDISABLE;
  single_keys.c_cc[VQUIT] = _POSIX_VDISABLE;
  single_keys.c_cc[VMIN] = 0;  // a read never blocks
  single_keys.c_cc[VTIME] = 0;
  if (::tcsetattr(key, TCSANOW, &single_keys) == 0) {
    key_ = key;
  }
}

void StopMonitor::open_file(const std::string& file) {
  const std::string directory = directory_of(file);
  struct stat status{};
  if (::stat(directory.c_str(), &status) != 0 || ::access(directory.c_str(), X_OK) != 0) {
    refuse("the stop file's directory " + directory + " cannot be watched");
  }
  file_ = file;
}

void StopMonitor::open_unix_socket(const std::string& path) {
  sockaddr_un address{};
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    throw std::invalid_argument("the stop socket's path must have 1 to " +
                                std::to_string(sizeof(address.sun_path) - 1) + " bytes, got '" + path + "'");
  }
  address.sun_family = AF_UNIX;
  std::ranges::copy(path, std::begin(address.sun_path));
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (listener_.get() < 0) {
    refuse("no socket for unix:" + path);
  }
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) && !answers(address)) {
    ::unlink(path.c_str());
  }
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), kClients) != 0) {
    refuse("the stop socket cannot listen at unix:" + path);
  }
  unix_path_ = path;
}

void StopMonitor::open_tcp_socket(const std::string& port) {
  std::uint16_t number = 0;
  const char* const end = port.data() + port.size();
  const auto parsed = std::from_chars(port.data(), end, number);
  if (port.empty() || parsed.ec != std::errc{} || parsed.ptr != end) {
    throw std::invalid_argument("the stop socket's port must be 0 to 65535, got '" + port + "'");
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(number);
  listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int reuse = 1;
  socklen_t size = sizeof(address);
  if (listener_.get() < 0 ||
      ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) != 0 ||
      ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), kClients) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    refuse("the stop socket cannot listen at 127.0.0.1:" + port);
  }
  port_ = ntohs(address.sin_port);
}

void StopMonitor::run() noexcept {
  // Signals are for the thread that handles them; this one gets their numbers through the pipe.
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  ::pthread_setname_np(::pthread_self(), "stop-monitor");
  while (wait()) {
  }
}

// False: the monitor is to end.
bool StopMonitor::wait() noexcept {
  const Nanoseconds now = monotonic_now();
  // A negative descriptor is passed over by poll().
  std::array<pollfd, 4 + kClients> polled{};
  polled[0] = {wake_.get(), POLLIN, 0};
  polled[1] = {signal_read_.get(), POLLIN, 0};
  polled[2] = {key_gone_ ? -1 : key_, POLLIN, 0};
  polled[3] = {now < listens_from_ ? -1 : listener_.get(), POLLIN, 0};
  for (std::size_t i = 0; i < kClients; ++i) {
    polled[4 + i] = {clients_[i].get(), POLLIN, 0};
  }
  look_for_file();
  const int ready = ::poll(polled.data(), polled.size(), poll_timeout_ms(now));
  if (ready < 0 && errno != EINTR) {
    // The system has no memory for it, say: without a pause this would take a whole processor until it has.
    std::this_thread::sleep_for(std::chrono::milliseconds(kFilePollMs));
  }
  if (ready <= 0) {
    return true;
  }
  if (polled[0].revents != 0) {
    return false;
  }
  if (polled[1].revents != 0) {
    read_signals();
  }
  if (polled[2].revents != 0) {
    read_key();
  }
  for (std::size_t i = 0; i < kClients; ++i) {
    if (polled[4 + i].revents != 0) {
      read_client(clients_[i]);
    }
  }
  if (polled[3].revents != 0) {
    accept_client();
  }
  return true;
}

int StopMonitor::poll_timeout_ms(Nanoseconds now) const noexcept {
  if (!file_.empty()) {
    return kFilePollMs;
  }
  constexpr Nanoseconds kMillisecond = 1'000'000;
  return now < listens_from_ ? static_cast<int>((listens_from_ - now) / kMillisecond + 1) : -1;
}

void StopMonitor::stop(Reason reason) noexcept {
  const bool first = this->reason() == Reason::none;
  if (first) {
    stopped_at_.store(monotonic_now(), std::memory_order_release);
  }
  // Also when it is not the first: the owner may have let go of that one and have the arm move again.
  on_stop_(reason);
  if (first) {
    reason_.store(reason, std::memory_order_release);
  }
}

void StopMonitor::read_signals() noexcept {
  std::array<unsigned char, 64> numbers{};
  const ssize_t count = ::read(signal_read_.get(), numbers.data(), numbers.size());
  for (ssize_t i = 0; i < count; ++i) {
    const int number = numbers[static_cast<std::size_t>(i)];
    if (number == SIGINT || number == SIGTERM || number == SIGHUP) {
      stop(Reason::stop_signal);
    }
  }
}

void StopMonitor::read_key() noexcept {
  std::array<char, 64> keys{};
  const ssize_t count = ::read(key_, keys.data(), keys.size());
  if (count > 0) {
    stop(Reason::stop_key);
  } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
    key_gone_ = true;  // polling it would never sleep again
  }
}

void StopMonitor::look_for_file() noexcept {
  if (file_.empty()) {
    return;
  }
  struct stat status{};
  // Where it cannot be told whether the file is there, somebody may be trying to stop the arm in vain.
  if (::stat(file_.c_str(), &status) == 0 || errno != ENOENT) {
    stop(Reason::stop_file);
  }
}

void StopMonitor::accept_client() noexcept {
  const int accepted = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (accepted < 0) {
    const int error = errno;
    // The client has gone again, or there was none.
    if (error == EAGAIN || error == EINTR || error == ECONNABORTED || error == EPROTO) {
      return;
    }
    // It stays in the queue, and poll() would return at once, again and again.
    listens_from_ = monotonic_now() + kListenPause;
    int none = 0;
    accept_error_.compare_exchange_strong(none, error, std::memory_order_acq_rel);
    failed_accepts_.fetch_add(1, std::memory_order_acq_rel);
    // Somebody may be trying to stop the arm in vain, as with a file that cannot be looked for.
    stop(Reason::stop_socket);
    return;
  }
  auto* const free =
      std::ranges::find_if(clients_, [](const Descriptor& client) { return client.get() < 0; });
  // Clients that connect and say nothing must not keep out one that wants to stop the arm.
  (free == clients_.end() ? clients_.front() : *free).reset(accepted);
}

void StopMonitor::read_client(Descriptor& client) noexcept {
  std::array<char, 256> words{};
  const ssize_t count = ::recv(client.get(), words.data(), words.size(), 0);
  if (count > 0) {
    stop(Reason::stop_socket);
    ::send(client.get(), kAnswer, sizeof(kAnswer) - 1, MSG_NOSIGNAL);
  } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
    client.reset();
  }
}

}  // namespace molmoact2::control
