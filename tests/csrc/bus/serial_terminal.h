// The device's end of a serial line: the master of a pseudo-terminal, whose slave is what a link opens.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): posix_openpt is not in <cstdlib>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace molmoact2::bus {

class SerialTerminal {
 public:
  SerialTerminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    std::array<char, 128> name{};
    if (master_ < 0 || ::grantpt(master_) != 0 || ::unlockpt(master_) != 0 ||
        ::ptsname_r(master_, name.data(), name.size()) != 0) {
      throw std::runtime_error("no pseudo-terminal to test with");
    }
    path_ = name.data();
    // Without a slave that stays open, the master reads an error after a client's last close.
    slave_ = ::open(path_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  SerialTerminal(const SerialTerminal&) = delete;
  SerialTerminal& operator=(const SerialTerminal&) = delete;
  ~SerialTerminal() { unplug(); }

  const std::string& path() const { return path_; }

  // The cable is pulled: clients see a hang-up.
  void unplug() {
    for (int* descriptor : {&slave_, &master_}) {
      if (*descriptor >= 0) ::close(*descriptor);
      *descriptor = -1;
    }
  }

  void send(std::span<const std::uint8_t> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(master_, bytes.data(), bytes.size());
      if (written <= 0) return;
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  // What the client has sent; empty after `timeout_ms` of silence.
  std::vector<std::uint8_t> receive(int timeout_ms) const {
    std::vector<std::uint8_t> bytes(4096);
    pollfd poll{master_, POLLIN, 0};
    if (::poll(&poll, 1, timeout_ms) <= 0) return {};
    const ssize_t got = ::read(master_, bytes.data(), bytes.size());
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }

 private:
  int master_;
  int slave_ = -1;
  std::string path_;
};

}  // namespace molmoact2::bus
