#include "bus/feetech/packet.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace molmoact2::bus::feetech {

namespace {

constexpr std::uint8_t kHeader = 0xFF;

// Of everything from the id to the last parameter.
std::uint8_t checksum(std::span<const std::uint8_t> bytes) noexcept {
  const unsigned sum = std::accumulate(bytes.begin(), bytes.end(), 0U);
  return static_cast<std::uint8_t>(~sum & 0xFFU);
}

}  // namespace

// Appends parameters to a packet; what does not fit empties it.
class PacketWriter {
 public:
  PacketWriter(std::uint8_t servo, Instruction instruction) noexcept {
    packet_.bytes_[0] = kHeader;
    packet_.bytes_[1] = kHeader;
    packet_.bytes_[2] = servo;
    packet_.bytes_[4] = static_cast<std::uint8_t>(instruction);
  }

  PacketWriter& add(std::uint8_t byte) noexcept { return add(std::span(&byte, 1)); }
  PacketWriter& add(std::span<const std::uint8_t> bytes) noexcept {
    fits_ = fits_ && count_ + bytes.size() <= kMaxParameters;
    if (fits_) {
      std::ranges::copy(bytes, packet_.bytes_.begin() + static_cast<std::ptrdiff_t>(5 + count_));
      count_ += bytes.size();
    }
    return *this;
  }

  Packet finish() noexcept {
    if (fits_) {
      packet_.bytes_[3] = static_cast<std::uint8_t>(count_ + 2);
      packet_.bytes_[5 + count_] = checksum(std::span(packet_.bytes_).subspan(2, count_ + 3));
      packet_.size_ = kOverhead + count_;
    }
    return packet_;
  }

 private:
  Packet packet_;
  std::size_t count_ = 0;
  bool fits_ = true;
};

Packet instruction_packet(std::uint8_t servo, Instruction instruction,
                          std::span<const std::uint8_t> parameters) noexcept {
  return PacketWriter(servo, instruction).add(parameters).finish();
}

Packet ping_packet(std::uint8_t servo) noexcept { return PacketWriter(servo, Instruction::ping).finish(); }

Packet read_packet(std::uint8_t servo, std::uint8_t address, std::uint8_t size) noexcept {
  return PacketWriter(servo, Instruction::read).add(address).add(size).finish();
}

Packet write_packet(std::uint8_t servo, std::uint8_t address, std::span<const std::uint8_t> data) noexcept {
  return PacketWriter(servo, Instruction::write).add(address).add(data).finish();
}

Packet reg_write_packet(std::uint8_t servo, std::uint8_t address,
                        std::span<const std::uint8_t> data) noexcept {
  return PacketWriter(servo, Instruction::reg_write).add(address).add(data).finish();
}

Packet action_packet() noexcept { return PacketWriter(kBroadcast, Instruction::action).finish(); }

Packet sync_read_packet(std::uint8_t address, std::uint8_t size,
                        std::span<const std::uint8_t> servos) noexcept {
  return PacketWriter(kBroadcast, Instruction::sync_read).add(address).add(size).add(servos).finish();
}

Packet sync_write_packet(std::uint8_t address, std::uint8_t size, std::span<const std::uint8_t> servos,
                         std::span<const std::uint8_t> data) noexcept {
  if (data.size() != servos.size() * size) {
    return {};
  }
  PacketWriter writer(kBroadcast, Instruction::sync_write);
  writer.add(address).add(size);
  for (std::size_t i = 0; i < servos.size(); ++i) {
    writer.add(servos[i]).add(data.subspan(i * size, size));
  }
  return writer.finish();
}

void StatusParser::expect(std::size_t data_size, std::span<const std::uint8_t> echo) noexcept {
  begin_ = 0;
  end_ = 0;
  data_size_ = std::min(data_size, kMaxParameters);
  echo_size_ = std::min(echo.size(), echo_.size());
  std::copy_n(echo.begin(), echo_size_, echo_.begin());
  counts_ = {};
}

// True where the echo is over: skipped, or not what arrives.
bool StatusParser::skip_echo() noexcept {
  if (echo_size_ == 0) {
    return true;
  }
  const std::size_t count = std::min(end_ - begin_, echo_size_);
  if (std::ranges::equal(std::span(buffer_).subspan(begin_, count), std::span(echo_).first(count))) {
    if (count < echo_size_) {
      return false;
    }
    begin_ += echo_size_;
  }
  echo_size_ = 0;
  return true;
}

void StatusParser::compact() noexcept {
  std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
            buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
  end_ -= begin_;
  begin_ = 0;
}

bool StatusParser::next(Status& status) noexcept {
  const std::size_t size = kOverhead + data_size_;
  if (skip_echo()) {
    for (; end_ - begin_ >= size; ++begin_, ++counts_.garbage) {
      const std::span<const std::uint8_t> packet = std::span(buffer_).subspan(begin_, size);
      // No servo has the id FF, so a third FF means that the packet begins one byte later.
      if (packet[0] != kHeader || packet[1] != kHeader || packet[2] == kHeader) {
        continue;
      }
      if (packet[3] != data_size_ + 2) {
        ++counts_.wrong_lengths;
        continue;
      }
      if (packet[size - 1] != checksum(packet.subspan(2, size - 3))) {
        ++counts_.checksum_errors;
        continue;
      }
      status.servo = packet[2];
      status.error = packet[4];
      status.size = data_size_;
      std::copy_n(packet.begin() + 5, data_size_, status.data.begin());
      begin_ += size;
      return true;
    }
  }
  compact();
  return false;
}

std::uint32_t encode_sign_magnitude(std::int32_t value, unsigned sign_bit) noexcept {
  const std::uint32_t sign = 1U << sign_bit;
  const auto magnitude = static_cast<std::uint32_t>(std::abs(static_cast<std::int64_t>(value)));
  return std::min(magnitude, sign - 1U) | (value < 0 ? sign : 0U);
}

std::int32_t decode_sign_magnitude(std::uint32_t encoded, unsigned sign_bit) noexcept {
  const std::uint32_t sign = 1U << sign_bit;
  const auto magnitude = static_cast<std::int32_t>(encoded & (sign - 1U));
  return (encoded & sign) != 0 ? -magnitude : magnitude;
}

}  // namespace molmoact2::bus::feetech
