// Servos for the tests of the bus and the port: tables of bytes that answer on the device's end of a serial
// line.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "bus/dynamixel/packet.h"
#include "bus/serial_terminal.h"

namespace molmoact2::bus::dynamixel {

using Bytes = std::vector<std::uint8_t>;

class FakeServos {
 public:
  using Table = std::array<std::uint8_t, 256>;

  FakeServos(SerialTerminal& terminal, std::initializer_list<std::uint8_t> ids) : terminal_(terminal) {
    for (const std::uint8_t id : ids) {
      tables_[id] = {};
      tables_[id][7] = id;
    }
    thread_ = std::thread([this] { run(); });
  }
  FakeServos(const FakeServos&) = delete;
  FakeServos& operator=(const FakeServos&) = delete;
  ~FakeServos() {
    ended_ = true;
    thread_.join();
  }

  // What goes wrong, while it is set.
  std::atomic<int> absent{-1};          // a servo that says nothing, nor do those that answer after it
  std::atomic<int> damaged_answers{0};  // so many of the next answers have a wrong byte
  std::atomic<int> dropped_requests{0};
  std::atomic<bool> refuses_writes{false};  // as with a watchdog that has fired
  std::atomic<int> error{0};                // in every answer
  // Where the low bytes of the goal position are seen too; set before goals are written.
  std::atomic<int> goal_seen_at{-1};

  void put(std::uint8_t id, std::size_t address, std::uint32_t value, std::size_t size) {
    const std::scoped_lock lock(mutex_);
    for (std::size_t i = 0; i < size; ++i) {
      tables_.at(id)[address + i] = static_cast<std::uint8_t>(value >> 8U * i & 0xFFU);
    }
  }
  std::uint32_t get(std::uint8_t id, std::size_t address, std::size_t size) {
    const std::scoped_lock lock(mutex_);
    std::uint32_t value = 0;
    for (std::size_t i = size; i-- > 0;) {
      value = value << 8U | tables_.at(id)[address + i];
    }
    return value;
  }
  int requests(Instruction instruction) {
    const std::scoped_lock lock(mutex_);
    return requests_[instruction];
  }

 private:
  void run() {
    PacketParser parser;
    parser.expect();
    while (!ended_) {
      for (const std::uint8_t byte : terminal_.receive(5)) {
        parser.room()[0] = byte;
        parser.add(1);
        Packet packet;
        if (parser.next(packet)) {
          const std::scoped_lock lock(mutex_);
          carry_out(packet);
        }
      }
    }
  }

  void carry_out(const Packet& request) {
    ++requests_[request.instruction];
    if (dropped_requests > 0) {
      --dropped_requests;
      return;
    }
    const std::span<const std::uint8_t> parameters = request.parameters;
    switch (request.instruction) {
      case Instruction::sync_read:
      case Instruction::fast_sync_read: {
        std::vector<Wanted> wanted;
        for (const std::uint8_t id : parameters.subspan(4)) {
          wanted.push_back({id, word(parameters, 0), word(parameters, 2)});
        }
        answer_all(wanted, request.instruction == Instruction::fast_sync_read);
        break;
      }
      case Instruction::bulk_read:
      case Instruction::fast_bulk_read: {
        std::vector<Wanted> wanted;
        for (std::size_t at = 0; at + 5 <= parameters.size(); at += 5) {
          wanted.push_back({parameters[at], word(parameters, at + 1), word(parameters, at + 3)});
        }
        answer_all(wanted, request.instruction == Instruction::fast_bulk_read);
        break;
      }
      case Instruction::sync_write: {
        const std::size_t size = word(parameters, 2);
        for (std::size_t at = 4; at + size < parameters.size(); at += size + 1) {
          write(parameters[at], word(parameters, 0), parameters.subspan(at + 1, size));
        }
        break;
      }
      default:
        answer_one(request);
    }
  }

  static constexpr std::size_t kGoalAddress = 116;

  struct Wanted {
    std::uint8_t id;
    std::size_t address;
    std::size_t size;
  };

  static std::size_t word(std::span<const std::uint8_t> bytes, std::size_t at) {
    return bytes[at] | static_cast<std::size_t>(bytes[at + 1]) << 8U;
  }

  bool there(std::uint8_t id) const { return tables_.contains(id) && absent != id; }

  void write(std::uint8_t id, std::size_t address, std::span<const std::uint8_t> data) {
    if (there(id) && !refuses_writes) {
      std::ranges::copy(data, tables_[id].begin() + static_cast<std::ptrdiff_t>(address));
      if (address == kGoalAddress && goal_seen_at >= 0) {
        std::ranges::copy(data.first(2), tables_[id].begin() + goal_seen_at);
      }
    }
  }

  void answer_one(const Packet& request) {
    const std::span<const std::uint8_t> parameters = request.parameters;
    for (const auto& [id, table] : tables_) {
      if (!there(id) || (request.id != id && request.id != kBroadcastId)) continue;
      Bytes data{static_cast<std::uint8_t>(error)};
      if (request.instruction == Instruction::ping) {
        data.insert(data.end(), {table[0], table[1], table[6]});
      } else if (request.instruction == Instruction::read) {
        const std::uint8_t* const from = table.data() + word(parameters, 0);
        data.insert(data.end(), from, from + word(parameters, 2));
      } else if (request.instruction == Instruction::write) {
        write(id, word(parameters, 0), parameters.subspan(2));
      }
      say(id, data);
    }
  }

  void answer_all(const std::vector<Wanted>& wanted, bool fast) {
    std::size_t length = 1;
    for (const Wanted& one : wanted) length += 4 + one.size;
    Bytes combined{0xFF,
                   0xFF,
                   0xFD,
                   0x00,
                   kBroadcastId,
                   static_cast<std::uint8_t>(length & 0xFFU),
                   static_cast<std::uint8_t>(length >> 8U),
                   0x55};
    for (const Wanted& one : wanted) {
      if (!there(one.id)) break;
      const std::uint8_t* const from = tables_[one.id].data() + one.address;
      const Bytes data(from, from + one.size);
      if (fast) {
        combined.insert(combined.end(), {static_cast<std::uint8_t>(error), one.id});
        combined.insert(combined.end(), data.begin(), data.end());
        const std::uint16_t crc = crc16(combined);
        combined.insert(combined.end(),
                        {static_cast<std::uint8_t>(crc & 0xFFU), static_cast<std::uint8_t>(crc >> 8U)});
      } else {
        Bytes status{static_cast<std::uint8_t>(error)};
        status.insert(status.end(), data.begin(), data.end());
        say(one.id, status);
      }
    }
    if (fast) put_on_wire(combined);
  }

  void say(std::uint8_t id, const Bytes& parameters) {
    Bytes packet(kMaxPacketBytes);
    packet.resize(encode(id, Instruction::status, parameters, packet));
    put_on_wire(packet);
  }

  void put_on_wire(Bytes packet) {
    if (damaged_answers > 0) {
      --damaged_answers;
      packet[packet.size() / 2] = static_cast<std::uint8_t>(packet[packet.size() / 2] ^ 0x10U);
    }
    terminal_.send(packet);
  }

  SerialTerminal& terminal_;
  std::mutex mutex_;
  std::map<std::uint8_t, Table> tables_;
  std::map<Instruction, int> requests_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace molmoact2::bus::dynamixel
