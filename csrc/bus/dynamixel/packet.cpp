#include "bus/dynamixel/packet.h"

#include <algorithm>
#include <cstring>

namespace molmoact2::bus::dynamixel {

namespace {

constexpr std::array<std::uint8_t, 4> kHeader{0xFF, 0xFF, 0xFD, 0x00};
constexpr std::uint8_t kStuffing = 0xFD;
constexpr std::size_t kIdAt = 4;
constexpr std::size_t kLengthAt = 5;
constexpr std::size_t kBodyAt = 7;  // instruction and parameters
constexpr std::size_t kCrcBytes = 2;

constexpr std::array<std::uint16_t, 256> make_crc_table() noexcept {
  std::array<std::uint16_t, 256> table{};
  for (std::size_t byte = 0; byte < table.size(); ++byte) {
    auto crc = static_cast<std::uint16_t>(byte << 8U);
    for (int bit = 0; bit < 8; ++bit) {
      const bool carry = (crc & 0x8000U) != 0;
      crc = static_cast<std::uint16_t>(crc << 1U);
      if (carry) {
        crc ^= 0x8005U;
      }
    }
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<std::uint16_t, 256> kCrcTable = make_crc_table();

// Tells where FF FF FD ends in the bytes shown to it one after the other.
class HeaderWatch {
 public:
  bool ends_with(std::uint8_t byte) noexcept {
    last_ = (last_ << 8U | byte) & 0xFFFFFFU;
    return last_ == 0xFFFFFDU;
  }

 private:
  std::uint32_t last_ = 0;
};

// Returns how many bytes are left; `plain` has room for all.
std::size_t unstuff(std::span<const std::uint8_t> stuffed, std::span<std::uint8_t> plain) noexcept {
  HeaderWatch watch;
  std::size_t size = 0;
  bool dropping = false;
  for (const std::uint8_t byte : stuffed) {
    const bool drop = dropping && byte == kStuffing;
    dropping = watch.ends_with(byte);
    if (!drop) {
      plain[size++] = byte;
    }
  }
  return size;
}

}  // namespace

std::uint16_t crc16(std::span<const std::uint8_t> bytes, std::uint16_t crc) noexcept {
  for (const std::uint8_t byte : bytes) {
    crc = static_cast<std::uint16_t>(crc << 8U) ^ kCrcTable[static_cast<std::uint8_t>(crc >> 8U) ^ byte];
  }
  return crc;
}

std::size_t encode(std::uint8_t id, Instruction instruction, std::span<const std::uint8_t> parameters,
                   std::span<std::uint8_t> packet) noexcept {
  const std::size_t room = std::min(packet.size(), kMaxPacketBytes);
  if (room < kPacketOverhead + parameters.size()) {
    return 0;
  }
  std::ranges::copy(kHeader, packet.begin());
  packet[kIdAt] = id;
  packet[kBodyAt] = static_cast<std::uint8_t>(instruction);
  std::size_t size = kBodyAt + 1;
  HeaderWatch watch;
  watch.ends_with(packet[kBodyAt]);
  for (const std::uint8_t byte : parameters) {
    const bool stuffed = watch.ends_with(byte);
    if (size + (stuffed ? 2 : 1) + kCrcBytes > room) {
      return 0;
    }
    packet[size++] = byte;
    if (stuffed) {
      packet[size++] = kStuffing;
      watch.ends_with(kStuffing);
    }
  }
  const std::size_t length = size + kCrcBytes - kBodyAt;
  packet[kLengthAt] = static_cast<std::uint8_t>(length & 0xFFU);
  packet[kLengthAt + 1] = static_cast<std::uint8_t>(length >> 8U);
  const std::uint16_t crc = crc16(packet.first(size));
  packet[size++] = static_cast<std::uint8_t>(crc & 0xFFU);
  packet[size++] = static_cast<std::uint8_t>(crc >> 8U);
  return size;
}

void PacketParser::expect(std::size_t longest) noexcept {
  begin_ = end_ = 0;
  longest_ = std::clamp(longest, kPacketOverhead, kMaxPacketBytes);
}

std::span<std::uint8_t> PacketParser::room() noexcept {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return std::span(buffer_).subspan(end_);
}

bool PacketParser::find_header() noexcept {
  const std::span<const std::uint8_t> bytes = pending();
  const auto found = std::ranges::search(bytes, kHeader);
  if (!found.empty()) {
    begin_ += static_cast<std::size_t>(found.begin() - bytes.begin());
    return true;
  }
  // Its first bytes may stand at the end.
  std::size_t kept = std::min(bytes.size(), kHeader.size() - 1);
  while (kept > 0 && !std::ranges::equal(bytes.last(kept), std::span(kHeader).first(kept))) {
    --kept;
  }
  begin_ = end_ - kept;
  return false;
}

bool PacketParser::next(Packet& packet) noexcept {
  while (find_header()) {
    const std::span<const std::uint8_t> bytes = pending();
    if (bytes.size() < kBodyAt) {
      return false;
    }
    const std::size_t length = bytes[kLengthAt] | static_cast<std::size_t>(bytes[kLengthAt + 1]) << 8U;
    const std::size_t size = kBodyAt + length;
    const bool possible = length >= 1 + kCrcBytes && size <= longest_;
    if (possible && bytes.size() < size) {
      return false;
    }
    if (!possible || crc16(bytes.first(size - kCrcBytes)) !=
                         (bytes[size - 2] | static_cast<unsigned>(bytes[size - 1]) << 8U)) {
      ++damaged_;
      ++begin_;
      continue;
    }
    packet.id = bytes[kIdAt];
    packet.instruction = static_cast<Instruction>(bytes[kBodyAt]);
    begin_ += size;
    const std::span<const std::uint8_t> body = bytes.subspan(kBodyAt, length - kCrcBytes);
    if (packet.is_combined()) {
      std::ranges::copy(body, plain_.begin());
      packet.parameters = std::span<const std::uint8_t>(plain_).subspan(1, body.size() - 1);
    } else {
      packet.parameters = std::span<const std::uint8_t>(plain_).subspan(1, unstuff(body, plain_) - 1);
    }
    return true;
  }
  return false;
}

}  // namespace molmoact2::bus::dynamixel
