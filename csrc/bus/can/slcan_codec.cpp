#include "bus/can/slcan_codec.h"

#include <algorithm>

namespace molmoact2::bus {

namespace {

constexpr std::uint8_t kCarriageReturn = '\r';
constexpr std::uint8_t kBell = '\a';
constexpr std::size_t kStandardDigits = 3;
constexpr std::size_t kExtendedDigits = 8;

std::uint8_t digit_of(std::uint32_t value) noexcept {
  constexpr const char* kDigits = "0123456789ABCDEF";
  return static_cast<std::uint8_t>(kDigits[value & 0xFU]);
}

// -1 where it is no hexadecimal digit.
int value_of(std::uint8_t digit) noexcept {
  if (digit >= '0' && digit <= '9') {
    return digit - '0';
  }
  if (digit >= 'A' && digit <= 'F') {
    return digit - 'A' + 10;
  }
  if (digit >= 'a' && digit <= 'f') {
    return digit - 'a' + 10;
  }
  return -1;
}

bool number_of(std::span<const std::uint8_t> digits, std::uint32_t& number) noexcept {
  number = 0;
  for (const std::uint8_t digit : digits) {
    const int value = value_of(digit);
    if (value < 0) {
      return false;
    }
    number = number << 4U | static_cast<std::uint32_t>(value);
  }
  return true;
}

bool begins_frame(std::uint8_t letter) noexcept {
  return letter == 't' || letter == 'T' || letter == 'r' || letter == 'R';
}

}  // namespace

std::size_t encode_slcan(const CanFrame& frame, std::span<std::uint8_t> line) noexcept {
  const std::size_t digits = frame.extended ? kExtendedDigits : kStandardDigits;
  const std::size_t data = frame.remote ? 0 : frame.length;
  const std::size_t size = 1 + digits + 1 + 2 * data + 1;
  if (frame.length > kCanDataBytes || frame.id > (frame.extended ? kExtendedIdMax : kStandardIdMax) ||
      line.size() < size) {
    return 0;
  }
  std::size_t at = 0;
  if (frame.remote) {
    line[at++] = frame.extended ? 'R' : 'r';
  } else {
    line[at++] = frame.extended ? 'T' : 't';
  }
  for (std::size_t i = digits; i > 0; --i) {
    line[at++] = digit_of(frame.id >> (4 * (i - 1)));
  }
  line[at++] = digit_of(frame.length);
  for (std::size_t i = 0; i < data; ++i) {
    line[at++] = digit_of(static_cast<std::uint32_t>(frame.data[i]) >> 4U);
    line[at++] = digit_of(frame.data[i]);
  }
  line[at++] = kCarriageReturn;
  return at;
}

bool decode_slcan(std::span<const std::uint8_t> line, CanFrame& frame) noexcept {
  if (line.empty() || !begins_frame(line[0])) {
    return false;
  }
  CanFrame decoded;
  decoded.extended = line[0] == 'T' || line[0] == 'R';
  decoded.remote = line[0] == 'r' || line[0] == 'R';
  const std::size_t digits = decoded.extended ? kExtendedDigits : kStandardDigits;
  if (line.size() < 1 + digits + 1 || !number_of(line.subspan(1, digits), decoded.id) ||
      decoded.id > (decoded.extended ? kExtendedIdMax : kStandardIdMax)) {
    return false;
  }
  const int length = value_of(line[1 + digits]);
  if (length < 0 || static_cast<std::size_t>(length) > kCanDataBytes) {
    return false;
  }
  decoded.length = static_cast<std::uint8_t>(length);
  const std::size_t data = decoded.remote ? 0 : decoded.length;
  const std::span<const std::uint8_t> rest = line.subspan(1 + digits + 1);
  if (rest.size() != 2 * data && rest.size() != 2 * data + kSlcanTimeDigits) {
    return false;
  }
  for (std::size_t i = 0; i < data; ++i) {
    std::uint32_t byte = 0;
    if (!number_of(rest.subspan(2 * i, 2), byte)) {
      return false;
    }
    decoded.data[i] = static_cast<std::uint8_t>(byte);
  }
  std::uint32_t stamp = 0;
  if (!number_of(rest.subspan(2 * data), stamp)) {
    return false;
  }
  frame = decoded;
  return true;
}

SlcanEvent SlcanParser::take(std::uint8_t byte, CanFrame& frame) noexcept {
  if (byte != kCarriageReturn && byte != kBell) {
    if (size_ == line_.size()) {
      overlong_ = true;
    } else {
      line_[size_++] = byte;
    }
    return SlcanEvent::none;
  }
  const std::span<const std::uint8_t> line(line_.data(), size_);
  const bool overlong = overlong_;
  reset();
  if (byte == kBell) {
    // Text in front of a BEL is a line that lost its CR.
    return line.empty() ? SlcanEvent::refusal : SlcanEvent::malformed;
  }
  if (overlong) {
    return SlcanEvent::malformed;
  }
  if (line.empty()) {
    return SlcanEvent::answer;
  }
  // An adapter may acknowledge a frame and deliver another within one line: `z` and then the frame's letter.
  const bool acknowledged = line[0] == 'z' || line[0] == 'Z';
  const std::span<const std::uint8_t> text = acknowledged ? line.subspan(1) : line;
  if (text.empty()) {
    return SlcanEvent::answer;
  }
  if (decode_slcan(text, frame)) {
    return SlcanEvent::frame;
  }
  const bool garbled = acknowledged || begins_frame(text[0]) ||
                       !std::ranges::all_of(text, [](std::uint8_t c) { return c > 0x20 && c < 0x7F; });
  return garbled ? SlcanEvent::malformed : SlcanEvent::answer;
}

}  // namespace molmoact2::bus
