// Servos for tests, on the device's end of a pseudo-terminal: registers in memory, answers without pacing,
// and what goes wrong with them as the case wishes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bus/feetech/packet.h"
#include "bus/feetech/servo_model.h"
#include "serial_terminal.h"

namespace molmoact2::bus::feetech {

struct TestServo {
  std::array<std::uint8_t, 256> memory{};
  std::uint8_t error = 0;
  bool absent = false;

  std::int32_t get(const char* name) const {
    const Register& where = *sts3215().find(name);
    return where.decode(std::span(memory).subspan(where.address, where.size));
  }
  void set(const char* name, std::int32_t value) {
    const Register& where = *sts3215().find(name);
    where.encode(value, std::span(memory).subspan(where.address, where.size));
  }
};

class TestArm {
 public:
  // Changes an answer on its way; an empty one is dropped.
  using Damage = std::function<void(std::uint8_t servo, std::vector<std::uint8_t>& answer)>;

  explicit TestArm(int servos, bool echo = false) : echo_(echo) {
    for (int id = 1; id <= servos; ++id) {
      TestServo& servo = servos_[static_cast<std::uint8_t>(id)];
      servo.set("model_number", 777);
      servo.set("id", id);
      servo.set("present_position", 2000 + id);
      servo.set("present_temperature", 30 + id);
      servo.set("present_current", 100 * id);
      servo.set("present_voltage", 74);
      servo.set("present_load", -50);
      servo.set("min_position_limit", 1000);
      servo.set("max_position_limit", 3000);
      servo.set("torque_enable", 1);
    }
    plug();
  }
  TestArm(const TestArm&) = delete;
  TestArm& operator=(const TestArm&) = delete;
  ~TestArm() { unplug(); }

  // Stays the same over an unplugging.
  std::string path() const { return link_.string(); }

  void plug() {
    terminal_ = std::make_unique<SerialTerminal>();
    std::filesystem::create_symlink(terminal_->path(), link_);
    ended_ = false;
    thread_ = std::thread([this] { run(); });
  }
  void unplug() {
    std::filesystem::remove(link_);
    ended_ = true;
    if (thread_.joinable()) thread_.join();
    terminal_.reset();
  }

  // Looks at, or changes, servo, damage or counts while nothing is answered.
  template <typename Use>
  auto with(Use use) {
    const std::scoped_lock lock(mutex_);
    return use(*this);
  }
  TestServo& servo(int id) { return servos_[static_cast<std::uint8_t>(id)]; }

  Damage damage;
  std::map<std::uint8_t, int> requests;  // by instruction

 private:
  void run() {
    std::vector<std::uint8_t> stream;
    while (!ended_) {
      const std::vector<std::uint8_t> heard = terminal_->receive(5);
      const std::scoped_lock lock(mutex_);
      if (echo_) terminal_->send(heard);
      stream.insert(stream.end(), heard.begin(), heard.end());
      while (take_request(stream)) {
      }
    }
  }

  bool take_request(std::vector<std::uint8_t>& stream) {
    while (stream.size() >= 6) {
      const std::size_t size = std::size_t{stream[3]} + 4;
      if (stream[0] != 0xFF || stream[1] != 0xFF || stream[2] == 0xFF) {
        stream.erase(stream.begin());
        continue;
      }
      if (stream.size() < size) return false;
      const std::vector<std::uint8_t> request(stream.begin(),
                                              stream.begin() + static_cast<std::ptrdiff_t>(size));
      stream.erase(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
      answer(request);
      return true;
    }
    return false;
  }

  void answer(const std::vector<std::uint8_t>& request) {
    const std::uint8_t id = request[2];
    const auto instruction = static_cast<Instruction>(request[4]);
    ++requests[request[4]];
    const std::span parameters(request.begin() + 5, request.end() - 1);
    if (instruction == Instruction::sync_read) {
      for (const std::uint8_t servo : parameters.subspan(2)) read(servo, parameters[0], parameters[1]);
    } else if (instruction == Instruction::sync_write) {
      const std::size_t size = parameters[1];
      for (std::size_t at = 2; at < parameters.size(); at += size + 1) {
        write(parameters[at], parameters[0], parameters.subspan(at + 1, size));
      }
    } else if (instruction == Instruction::read) {
      read(id, parameters[0], parameters[1]);
    } else if (instruction == Instruction::ping) {
      send(id, {});
    } else if (instruction == Instruction::write) {
      write(id, parameters[0], parameters.subspan(1));
      send(id, {});
    }
  }

  void read(std::uint8_t id, std::size_t address, std::size_t size) {
    const auto found = servos_.find(id);
    if (found != servos_.end()) send(id, std::span(found->second.memory).subspan(address, size));
  }
  void write(std::uint8_t id, std::size_t address, std::span<const std::uint8_t> data) {
    const auto found = servos_.find(id);
    if (found != servos_.end() && !found->second.absent) {
      std::copy(data.begin(), data.end(),
                found->second.memory.begin() + static_cast<std::ptrdiff_t>(address));
    }
  }
  void send(std::uint8_t id, std::span<const std::uint8_t> data) {
    const auto found = servos_.find(id);
    if (found == servos_.end() || found->second.absent) return;
    const Packet packet = instruction_packet(id, static_cast<Instruction>(found->second.error), data);
    std::vector<std::uint8_t> bytes(packet.bytes().begin(), packet.bytes().end());
    if (damage) damage(id, bytes);
    terminal_->send(bytes);
  }

  static std::filesystem::path unused_path() {
    static std::atomic<int> count{0};
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() /
        ("molmoact2-arm-" + std::to_string(::getpid()) + "-" + std::to_string(++count));
    std::filesystem::remove(path);
    return path;
  }

  bool echo_;
  std::filesystem::path link_ = unused_path();
  std::map<std::uint8_t, TestServo> servos_;
  std::unique_ptr<SerialTerminal> terminal_;
  std::mutex mutex_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace molmoact2::bus::feetech
