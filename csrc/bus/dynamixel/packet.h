// Packets of Dynamixel's protocol 2.0 as bytes: no port, no time, no allocation.
//
//   FF FF FD 00  id  length(2)  instruction  parameters  crc(2)
//
// The length counts from the instruction to the end. Where instruction and parameters hold FF FF FD, a
// further FD follows it, so that a header occurs nowhere else. The combined answer to a fast read is not
// stuffed: its length is settled by the request.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace molmoact2::bus::dynamixel {

inline constexpr std::uint8_t kBroadcastId = 0xFE;  // in a request: everybody; in an answer: a combined one
inline constexpr std::uint8_t kMaxId = 0xFC;
inline constexpr std::size_t kMaxPacketBytes = 1024;  // as long as the vendor's own library takes them
inline constexpr std::size_t kPacketOverhead = 10;    // header, id, length, instruction, CRC
inline constexpr std::size_t kStatusOverhead = 11;    // and the error
inline constexpr std::uint8_t kAlertBit = 0x80;       // of the error: the servo has a hardware error
inline constexpr std::uint8_t kErrorNumberMask = 0x7F;

enum class Instruction : std::uint8_t {
  ping = 0x01,
  read = 0x02,
  write = 0x03,
  reg_write = 0x04,
  action = 0x05,
  factory_reset = 0x06,
  reboot = 0x08,
  clear = 0x10,
  status = 0x55,
  sync_read = 0x82,
  sync_write = 0x83,
  fast_sync_read = 0x8A,
  bulk_read = 0x92,
  bulk_write = 0x93,
  fast_bulk_read = 0x9A,
};

// CRC-16 with polynomial 0x8005, most significant bit first, continuing from `crc`.
std::uint16_t crc16(std::span<const std::uint8_t> bytes, std::uint16_t crc = 0) noexcept;

// Writes one packet, stuffed and with its CRC; returns its size, 0 where it has no room.
std::size_t encode(std::uint8_t id, Instruction instruction, std::span<const std::uint8_t> parameters,
                   std::span<std::uint8_t> packet) noexcept;

struct Packet {
  std::uint8_t id = 0;
  Instruction instruction = Instruction::ping;  // any byte may have come
  std::span<const std::uint8_t> parameters;  // without stuffing and CRC; of a status, the error is the first

  // One packet from several servos: [error id data crc] for each, the last crc being the packet's own.
  bool is_combined() const noexcept { return id == kBroadcastId && instruction == Instruction::status; }
};

// Finds packets in a stream that may begin, break off and be damaged anywhere. After damage it goes on one
// byte behind the false header, so that every undamaged packet is found once the bytes behind it have come.
class PacketParser {
 public:
  // Where bytes are to be put next: never empty after next() gave false.
  std::span<std::uint8_t> room() noexcept;
  // So many bytes were put there.
  void add(std::size_t count) noexcept { end_ += count; }
  // The next whole packet; its parameters stay until the next call of next(). False: more bytes are needed.
  bool next(Packet& packet) noexcept;

  // Forgets everything; a packet longer than `longest` bytes will be taken for damage. Knowing the longest
  // that can come keeps a damaged length from swallowing what follows.
  void expect(std::size_t longest = kMaxPacketBytes) noexcept;

  // Headers behind which no valid packet came.
  std::uint64_t damaged() const noexcept { return damaged_; }

 private:
  std::span<const std::uint8_t> pending() const noexcept {
    return std::span(buffer_).subspan(begin_, end_ - begin_);
  }
  // Drops what cannot begin a packet; true when a header stands first.
  bool find_header() noexcept;

  std::array<std::uint8_t, 2 * kMaxPacketBytes> buffer_{};
  std::array<std::uint8_t, kMaxPacketBytes> plain_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t longest_ = kMaxPacketBytes;
  std::uint64_t damaged_ = 0;
};

}  // namespace molmoact2::bus::dynamixel
