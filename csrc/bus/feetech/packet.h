// Feetech's protocol as bytes: instruction packets out, status packets in. No port, no time, no state of a
// bus.
//
//   instruction  FF FF ID LEN INST P1..Pn CHK     LEN = n + 2, CHK = ~(ID + LEN + INST + sum P), low byte
//   status       FF FF ID LEN ERR  D1..Dn CHK
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace molmoact2::bus::feetech {

enum class Instruction : std::uint8_t {
  ping = 1,
  read = 2,
  write = 3,
  reg_write = 4,
  action = 5,
  sync_read = 0x82,
  sync_write = 0x83,
};

inline constexpr std::uint8_t kBroadcast = 0xFE;  // answered only for ping and sync read
inline constexpr std::uint8_t kMaxServo = 0xFD;
inline constexpr std::size_t kOverhead = 6;  // bytes of a packet besides its parameters or data
inline constexpr std::size_t kMaxParameters = 253;
inline constexpr std::size_t kMaxPacket = kOverhead + kMaxParameters;

// Bits of a status packet's ERR.
inline constexpr std::uint8_t kVoltageError = 1;
inline constexpr std::uint8_t kAngleError = 2;
inline constexpr std::uint8_t kTemperatureError = 4;
inline constexpr std::uint8_t kCurrentError = 8;
inline constexpr std::uint8_t kOverloadError = 32;

class Packet {
 public:
  std::span<const std::uint8_t> bytes() const noexcept { return std::span(bytes_).first(size_); }
  std::size_t size() const noexcept { return size_; }
  // What no packet can hold was asked for.
  bool empty() const noexcept { return size_ == 0; }

 private:
  friend class PacketWriter;
  std::array<std::uint8_t, kMaxPacket> bytes_{};
  std::size_t size_ = 0;
};

// Each is an empty packet where its parameters exceed kMaxParameters or do not fit together.
Packet instruction_packet(std::uint8_t servo, Instruction instruction,
                          std::span<const std::uint8_t> parameters) noexcept;
Packet ping_packet(std::uint8_t servo) noexcept;
Packet read_packet(std::uint8_t servo, std::uint8_t address, std::uint8_t size) noexcept;
Packet write_packet(std::uint8_t servo, std::uint8_t address, std::span<const std::uint8_t> data) noexcept;
// Written by the servo only at action_packet().
Packet reg_write_packet(std::uint8_t servo, std::uint8_t address,
                        std::span<const std::uint8_t> data) noexcept;
Packet action_packet() noexcept;
// The servos answer one after the other, in the order asked.
Packet sync_read_packet(std::uint8_t address, std::uint8_t size,
                        std::span<const std::uint8_t> servos) noexcept;
// `data` holds `size` bytes for each servo in turn. No servo answers.
Packet sync_write_packet(std::uint8_t address, std::uint8_t size, std::span<const std::uint8_t> servos,
                         std::span<const std::uint8_t> data) noexcept;

struct Status {
  std::uint8_t servo = 0;
  std::uint8_t error = 0;
  std::array<std::uint8_t, kMaxParameters> data{};
  std::size_t size = 0;
};

// Finds status packets in a stream of bytes, whatever lies between them. One per exchange; takes no memory.
//
// A corrupted length must not swallow the packets after it, so only one length is accepted, the one that the
// exchange asks for; after bytes that are no packet, the search goes on at the byte after their beginning.
class StatusParser {
 public:
  struct Counts {
    std::uint32_t checksum_errors = 0;
    std::uint32_t wrong_lengths = 0;  // what looked like the beginning of a packet of another size
    std::uint32_t garbage = 0;        // bytes that belonged to no packet
  };

  StatusParser() noexcept = default;
  // Forgets everything. Packets with `data_size` bytes of data are looked for; `echo` are the bytes that the
  // adapter is known to send back first, the request itself: empty where it does not.
  void expect(std::size_t data_size, std::span<const std::uint8_t> echo = {}) noexcept;

  // Where the next bytes go: read into it, then take(). Never empty after next() gave false.
  std::span<std::uint8_t> space() noexcept { return std::span(buffer_).subspan(end_); }
  void take(std::size_t count) noexcept { end_ += count; }

  // The next packet, in the order of arrival. False: there is none until more bytes come.
  bool next(Status& status) noexcept;

  const Counts& counts() const noexcept { return counts_; }

 private:
  bool skip_echo() noexcept;
  void compact() noexcept;

  std::array<std::uint8_t, 2 * kMaxPacket> buffer_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t data_size_ = 0;
  std::array<std::uint8_t, kMaxPacket> echo_{};
  std::size_t echo_size_ = 0;
  Counts counts_;
};

// Sign and magnitude, the sign in bit `sign_bit`: the servo's way to write negative numbers. Magnitudes
// beyond the register saturate.
std::uint32_t encode_sign_magnitude(std::int32_t value, unsigned sign_bit) noexcept;
std::int32_t decode_sign_magnitude(std::uint32_t encoded, unsigned sign_bit) noexcept;

}  // namespace molmoact2::bus::feetech
