// slcan lines: whatever comes, the parser stays within its bytes, agrees with the encoder, and hears the next
// line.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bus/can/slcan_codec.h"
#include "fuzz_check.h"

using namespace molmoact2::bus;

namespace {

using Input = std::span<const std::uint8_t>;

bool same(const CanFrame& a, const CanFrame& b) {
  return a.id == b.id && a.extended == b.extended && a.remote == b.remote && a.length == b.length &&
         a.data == b.data;
}

void check_frame(const CanFrame& frame) {
  FUZZ_CHECK(frame.length <= kCanDataBytes);
  FUZZ_CHECK(frame.id <= (frame.extended ? kExtendedIdMax : kStandardIdMax));
  std::array<std::uint8_t, kSlcanLineBytes> line{};
  const std::size_t size = encode_slcan(frame, line);
  FUZZ_CHECK(size > 0);
  CanFrame back;
  FUZZ_CHECK(decode_slcan(Input(line).first(size - 1), back));
  FUZZ_CHECK(same(frame, back));
}

void raw_stream(Input input) {
  SlcanParser parser;
  std::size_t frames = 0;
  for (const std::uint8_t byte : input) {
    CanFrame frame;
    if (parser.take(byte, frame) == SlcanEvent::frame) {
      ++frames;
      check_frame(frame);
    }
  }
  FUZZ_CHECK(frames * 6 <= input.size());  // the shortest line: t, three digits, the length, CR
}

// What is encoded comes out again, behind whatever came before it.
void round_trip(Input input) {
  if (input.size() < 14) {
    return;
  }
  CanFrame frame;
  frame.extended = (input[0] & 1U) != 0;
  frame.remote = (input[0] & 2U) != 0;
  frame.id = static_cast<std::uint32_t>(input[1]) | static_cast<std::uint32_t>(input[2]) << 8U |
             static_cast<std::uint32_t>(input[3]) << 16U | static_cast<std::uint32_t>(input[4]) << 24U;
  frame.length = static_cast<std::uint8_t>(input[5] % 12);
  std::copy_n(input.begin() + 6, frame.remote ? 0 : std::min<std::size_t>(frame.length, kCanDataBytes),
              frame.data.begin());
  std::array<std::uint8_t, kSlcanLineBytes> line{};
  const std::size_t room = input[0] % 4 == 0 ? input[13] % line.size() : line.size();
  const std::size_t size = encode_slcan(frame, std::span(line).first(room));
  const bool possible =
      frame.length <= kCanDataBytes && frame.id <= (frame.extended ? kExtendedIdMax : kStandardIdMax);
  FUZZ_CHECK(possible || size == 0);
  FUZZ_CHECK(room < line.size() || possible == (size > 0));
  if (size == 0) {
    return;
  }
  SlcanParser parser;
  CanFrame heard;
  for (const std::uint8_t byte : input.subspan(14)) {
    parser.take(byte, heard);
  }
  parser.take('\r', heard);
  SlcanEvent event = SlcanEvent::none;
  for (std::size_t i = 0; i < size; ++i) {
    FUZZ_CHECK(event == SlcanEvent::none);
    event = parser.take(line[i], heard);
  }
  FUZZ_CHECK(event == SlcanEvent::frame);
  FUZZ_CHECK(same(heard, frame));
}

// Lines of the right letters, so that more of them are nearly frames.
void nearly_lines(Input input) {
  constexpr std::array<std::uint8_t, 24> kAlphabet{'t', 'T', 'r', 'R', 'z', 'Z', '\r', '\a',
                                                   '0', '1', '2', '3', '4', '5', '6',  '7',
                                                   '8', '9', 'A', 'B', 'c', 'd', 'F',  'x'};
  std::vector<std::uint8_t> text;
  text.reserve(input.size());
  for (const std::uint8_t byte : input) {
    text.push_back(kAlphabet[byte % kAlphabet.size()]);
  }
  raw_stream(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) {
    return 0;
  }
  const Input input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      raw_stream(input);
      break;
    case 1:
      round_trip(input);
      break;
    default:
      nearly_lines(input);
  }
  return 0;
}
