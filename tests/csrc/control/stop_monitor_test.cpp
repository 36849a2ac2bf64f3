#include "control/stop_monitor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "check.h"
#include "control/control_loop.h"
#include "control/mailbox_port.h"
#include "cycle_bench.h"

using namespace molmoact2::control;

namespace {

struct Directory {
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "molmoact2-stop-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path); }
  std::string path;
};

struct Watched {
  explicit Watched(const StopSources& sources)
      : monitor(sources, [this](Reason reason) {
          const std::scoped_lock lock(mutex);
          noted.push_back(reason);
        }) {}
  // False: nothing came within ten seconds.
  bool stopped() const {
    MonotonicClock clock;
    for (int i = 0; i < 10000 && monitor.reason() == Reason::none; ++i) {
      clock.sleep_until(clock.now() + 1'000'000);
    }
    return monitor.reason() != Reason::none;
  }

  std::vector<Reason> reasons() {
    const std::scoped_lock lock(mutex);
    return noted;
  }

  std::mutex mutex;
  std::vector<Reason> noted;  // written by the monitor's thread before it tells its reason
  StopMonitor monitor;
};

bool connect_unix(int client, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return ::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

int connect_unix(const std::string& path) {
  const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
  if (client < 0) return -1;
  return connect_unix(client, path) ? client : -1;
}

int connect_tcp(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  const int client = ::socket(AF_INET, SOCK_STREAM, 0);
  if (client < 0) return -1;
  return ::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? client : -1;
}

std::string say(int client, const std::string& words) {
  CHECK(::send(client, words.data(), words.size(), 0) == static_cast<ssize_t>(words.size()));
  char answer[64] = {};
  const ssize_t count = ::recv(client, answer, sizeof(answer), 0);
  ::close(client);
  return {answer, count > 0 ? static_cast<std::size_t>(count) : 0};
}

// While it lives, this process gets no further descriptor (EMFILE).
class NoDescriptors {
 public:
  NoDescriptors() {
    CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    for (int& descriptor : taken_) descriptor = ::dup(STDIN_FILENO);
    // The last one is the highest: each was the lowest that was free.
    const rlimit none{static_cast<rlim_t>(taken_.back()) + 1, before_.rlim_max};
    CHECK(taken_.back() >= 0 && ::setrlimit(RLIMIT_NOFILE, &none) == 0);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  ~NoDescriptors() {
    ::setrlimit(RLIMIT_NOFILE, &before_);
    for (const int descriptor : taken_) ::close(descriptor);
  }

 private:
  rlimit before_{};
  std::array<int, 32> taken_{};  // poll() refuses more entries than the limit
};

struct PseudoTerminal {
  PseudoTerminal() : master(::posix_openpt(O_RDWR | O_NOCTTY)) {
    CHECK(::grantpt(master) == 0 && ::unlockpt(master) == 0);
    slave = ::open(::ptsname(master), O_RDWR | O_NOCTTY);
  }
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;
  ~PseudoTerminal() {
    ::close(slave);
    ::close(master);
  }
  int master;
  int slave = -1;
};

}  // namespace

CASE("a file that appears stops, for as long as it is there") {
  const Directory directory;
  Watched watched({.file = directory.path + "/stop"});
  CHECK(watched.monitor.reason() == Reason::none);
  const Nanoseconds before = monotonic_now();
  std::ofstream(directory.path + "/stop").put('\n');
  REQUIRE(watched.stopped());
  CHECK(watched.monitor.reason() == Reason::stop_file);
  CHECK(watched.monitor.stopped_at() >= before && watched.monitor.stopped_at() <= monotonic_now());
  MonotonicClock clock;
  for (int i = 0; i < 10000 && watched.reasons().size() < 3; ++i) clock.sleep_until(clock.now() + 1'000'000);
  CHECK(watched.reasons().size() >= 3);
  std::filesystem::remove(directory.path + "/stop");
  clock.sleep_until(clock.now() + 100'000'000);
  const std::size_t stops = watched.reasons().size();
  clock.sleep_until(clock.now() + 100'000'000);
  CHECK_EQ(watched.reasons().size(), stops);
}

CASE("a file that is there from the beginning stops at once") {
  const Directory directory;
  std::ofstream(directory.path + "/stop").put('\n');
  const Watched watched({.file = directory.path + "/stop"});
  CHECK(watched.stopped());
}

CASE("a file that can no longer be looked for stops") {
  const Directory directory;
  const std::string inner = directory.path + "/inner";
  std::filesystem::create_directory(inner);
  const Watched watched({.file = inner + "/stop"});
  std::filesystem::remove(inner);
  std::ofstream(inner).put('\n');  // now a file: what lies in it is not absent, it cannot be (ENOTDIR)
  REQUIRE(watched.stopped());
  CHECK(watched.monitor.reason() == Reason::stop_file);
}

CASE("whatever is said on the unix socket stops and is answered; connecting alone does not") {
  const Directory directory;
  const std::string path = directory.path + "/stop.sock";
  {
    Watched watched({.socket = "unix:" + path});
    std::vector<int> silent;
    for (int i = 0; i < 12; ++i) silent.push_back(connect_unix(path));  // more than are kept
    CHECK_EQ(say(connect_unix(path), "stop\n"), std::string("stopping\n"));
    REQUIRE(watched.stopped());
    CHECK(watched.reasons() == std::vector<Reason>{Reason::stop_socket});
    CHECK_EQ(say(connect_unix(path), "again\n"), std::string("stopping\n"));
    CHECK_EQ(watched.reasons().size(), 2U);
    for (const int client : silent) ::close(client);
  }
  CHECK(!std::filesystem::exists(path));
}

CASE("clients that come and go without a word change nothing") {
  const Directory directory;
  const std::string path = directory.path + "/stop.sock";
  const Watched watched({.socket = "unix:" + path});
  for (int i = 0; i < 50; ++i) ::close(connect_unix(path));
  MonotonicClock clock;
  clock.sleep_until(clock.now() + 50'000'000);
  CHECK(watched.monitor.reason() == Reason::none);
}

CASE("a socket's file from a process that died is taken over, one in use is refused") {
  const Directory directory;
  const std::string path = directory.path + "/stop.sock";
  {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const Descriptor dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    REQUIRE(dead.get() >= 0);
    CHECK(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  }
  const Watched watched({.socket = "unix:" + path});
  CHECK_THROWS(Watched({.socket = "unix:" + path}), std::system_error);
  CHECK_EQ(say(connect_unix(path), "x"), std::string("stopping\n"));
}

CASE("a client that cannot be taken stops, is asked for now and then, and is heard once that is possible") {
  const Directory directory;
  const std::string path = directory.path + "/stop.sock";
  Watched watched({.socket = "unix:" + path});
  CHECK_EQ(watched.monitor.failed_accepts(), 0U);
  CHECK_EQ(watched.monitor.accept_error(), 0);
  const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(client >= 0);
  MonotonicClock clock;
  const Nanoseconds before = clock.now();
  {
    const NoDescriptors full;
    REQUIRE(connect_unix(client, path));
    REQUIRE(watched.stopped());
    CHECK(watched.monitor.reason() == Reason::stop_socket);
    CHECK_EQ(watched.monitor.accept_error(), EMFILE);
    for (int i = 0; i < 10000 && watched.monitor.failed_accepts() < 3; ++i) {
      clock.sleep_until(clock.now() + 1'000'000);
    }
  }
  const std::uint64_t failed = watched.monitor.failed_accepts();
  CHECK(failed >= 3);
  // However long that took: one attempt in each pause, and not as many as a processor makes.
  CHECK(std::cmp_less_equal(failed, (clock.now() - before) / StopMonitor::kListenPause + 1));
  CHECK_EQ(say(client, "stop\n"), std::string("stopping\n"));
  CHECK(watched.reasons().size() > failed);  // each attempt stopped, and then the word
}

CASE("the TCP socket listens on this computer only") {
  const Watched watched({.socket = "tcp:0"});
  CHECK(watched.monitor.port() != 0);
  CHECK_EQ(say(connect_tcp(watched.monitor.port()), "GET / HTTP/1.1\r\n"), std::string("stopping\n"));
  CHECK(watched.stopped());
  CHECK(watched.monitor.reason() == Reason::stop_socket);
}

CASE("the numbers of SIGINT, SIGTERM and SIGHUP stop, other signals' do not") {
  Watched watched({});
  const unsigned char other = SIGWINCH;
  CHECK(::write(watched.monitor.signal_descriptor(), &other, 1) == 1);
  MonotonicClock clock;
  clock.sleep_until(clock.now() + 30'000'000);
  CHECK(watched.monitor.reason() == Reason::none);
  const unsigned char term = SIGTERM;
  CHECK(::write(watched.monitor.signal_descriptor(), &term, 1) == 1);
  REQUIRE(watched.stopped());
  CHECK(watched.monitor.reason() == Reason::stop_signal);
  const unsigned char more[] = {SIGINT, SIGHUP};
  CHECK(::write(watched.monitor.signal_descriptor(), more, sizeof(more)) == sizeof(more));
  for (int i = 0; i < 10000 && watched.reasons().size() < 3; ++i) clock.sleep_until(clock.now() + 1'000'000);
  CHECK(watched.reasons() == std::vector<Reason>(3, Reason::stop_signal));
}

CASE("descriptors that are no terminal of this process have no keys") {
  const PseudoTerminal terminal;  // not the controlling one, so nobody is in its foreground
  CHECK(!Watched({.key = terminal.slave}).monitor.watches_key());
  const Directory directory;
  const int file = ::open((directory.path + "/f").c_str(), O_RDWR | O_CREAT, 0600);
  CHECK(!Watched({.key = file}).monitor.watches_key());
  ::close(file);
}

CASE("sources that make no sense are refused") {
  CHECK_THROWS(Watched({.file = "/no/such/directory/stop"}), std::system_error);
  CHECK_THROWS(Watched({.socket = "udp:7"}), std::invalid_argument);
  CHECK_THROWS(Watched({.socket = "unix:"}), std::invalid_argument);
  CHECK_THROWS(Watched({.socket = "unix:/" + std::string(200, 'x')}), std::invalid_argument);
  CHECK_THROWS(Watched({.socket = "tcp:70000"}), std::invalid_argument);
  CHECK_THROWS(Watched({.socket = "tcp:"}), std::invalid_argument);
}

CASE("a monitor stops a loop that runs, every later run until it is released, and runs after that") {
  const Directory directory;
  auto port = std::make_shared<MailboxPort>(1);
  CycleOptions options = bench_options(1, 500);
  options.watchdogs.silence_hold = options.watchdogs.silence_fault = 60'000'000'000;
  ControlLoop loop(port, options, {});
  const StopMonitor monitor({.file = directory.path + "/stop"},
                            [&loop](Reason reason) { loop.cycle().latch_stop(reason); });
  MonotonicClock clock;
  const auto ended = [&] {
    for (int i = 0; i < 10000 && loop.running(); ++i) clock.sleep_until(clock.now() + 1'000'000);
    return !loop.running();
  };
  loop.start();
  port->publish_state({.positions = {3.0}, .time = monotonic_now()});
  for (int i = 0; i < 10000 && loop.cycle().telemetry().written() == 0; ++i) {
    clock.sleep_until(clock.now() + 1'000'000);
  }
  REQUIRE(loop.cycle().telemetry().written() > 0);
  std::ofstream(directory.path + "/stop").put('\n');
  REQUIRE(ended());
  CHECK(loop.cycle().latched_stop() == Reason::stop_file);
  loop.start();
  CHECK(ended());
  std::filesystem::remove(directory.path + "/stop");
  clock.sleep_until(clock.now() + 100'000'000);
  loop.cycle().release_stop();
  loop.start();
  clock.sleep_until(clock.now() + 20'000'000);
  CHECK(loop.running());
  std::ofstream(directory.path + "/stop").put('\n');
  CHECK(ended());
  CHECK(loop.cycle().latched_stop() == Reason::stop_file);
}
