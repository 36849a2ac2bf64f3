// The text protocol of slcan adapters: lines as python-can writes them, and anything that a serial line may
// make of them.
#include "bus/can/slcan_codec.h"

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"

using namespace molmoact2::bus;

namespace {

std::string line_of(const CanFrame& frame) {
  std::array<std::uint8_t, kSlcanLineBytes> line{};
  const std::size_t size = encode_slcan(frame, line);
  return {line.begin(), line.begin() + static_cast<std::ptrdiff_t>(size)};
}

std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

struct Heard {
  std::vector<CanFrame> frames;
  std::vector<SlcanEvent> events;  // but for none
};

Heard hear(SlcanParser& parser, std::string_view text) {
  Heard heard;
  for (const std::uint8_t byte : bytes_of(text)) {
    CanFrame frame;
    const SlcanEvent event = parser.take(byte, frame);
    if (event == SlcanEvent::none) continue;
    heard.events.push_back(event);
    if (event == SlcanEvent::frame) heard.frames.push_back(frame);
  }
  return heard;
}

}  // namespace

CASE("a frame is the line that python-can writes for it") {
  CHECK_EQ(line_of({.id = 0x01, .length = 3, .data = {0xDE, 0xAD, 0x0F}}), "t0013DEAD0F\r");
  CHECK_EQ(line_of({.id = 0x1ABCDEF0, .extended = true, .length = 1, .data = {0x07}}), "T1ABCDEF0107\r");
  CHECK_EQ(line_of({.id = 0x7FF, .remote = true, .length = 8}), "r7FF8\r");
  CHECK_EQ(line_of({.id = 0x5, .extended = true, .remote = true}), "R000000050\r");
  CHECK_EQ(line_of({.id = 0x11, .length = 8, .data = {1, 2, 3, 4, 5, 6, 7, 8}}), "t01180102030405060708\r");
}

CASE("what is no frame has no line") {
  std::array<std::uint8_t, kSlcanLineBytes> line{};
  CHECK_EQ(encode_slcan({.id = 0x800}, line), 0U);
  CHECK_EQ(encode_slcan({.id = 0x2000'0000, .extended = true}, line), 0U);
  CHECK_EQ(encode_slcan({.id = 1, .length = 9}, line), 0U);
  CHECK_EQ(encode_slcan({.id = 1, .length = 8}, std::span(line).first(20)), 0U);
}

CASE("every frame comes back from its line, with and without an adapter's time stamp") {
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    CanFrame frame;
    frame.extended = random() % 2 == 0;
    frame.remote = random() % 4 == 0;
    frame.id = static_cast<std::uint32_t>(random()) & (frame.extended ? kExtendedIdMax : kStandardIdMax);
    frame.length = static_cast<std::uint8_t>(random() % 9);
    for (std::size_t k = 0; k < frame.length && !frame.remote; ++k) frame.data[k] = random() & 0xFFU;
    std::string line = line_of(frame);
    if (i % 3 == 0) line.insert(line.size() - 1, "0f3B");
    SlcanParser parser;
    const Heard heard = hear(parser, line);
    REQUIRE(heard.frames.size() == 1);
    const CanFrame& back = heard.frames[0];
    CHECK(back.id == frame.id && back.extended == frame.extended && back.remote == frame.remote);
    CHECK(back.length == frame.length && back.data == frame.data);
  }
}

CASE("lines that are none are told from frames and from an adapter's answers") {
  SlcanParser parser;
  for (const char* garbled :
       {"t00180102\r", "t0G180102030405060708\r", "t0019010203040506070809\r", "t8001AA\r", "T2000000010A\r",
        "t001801020304050607\r", "t0011 2\r", "zt9\r", "\xFFV1\r"}) {
    const Heard heard = hear(parser, garbled);
    REQUIRE(heard.events.size() == 1);
    CHECK_EQ(heard.events[0], SlcanEvent::malformed);
  }
  const Heard answers = hear(parser, "\rz\rZ\rV1013\rN0001\r");
  CHECK_EQ(answers.events.size(), 5U);
  for (const SlcanEvent event : answers.events) CHECK_EQ(event, SlcanEvent::answer);
  CHECK_EQ(hear(parser, "\a").events[0], SlcanEvent::refusal);
  const Heard merged = hear(parser, "zt0111FF\r");
  REQUIRE(merged.frames.size() == 1);
  CHECK_EQ(merged.frames[0].id, 0x11U);
}

CASE("after garbage of any length the next line is heard") {
  SlcanParser parser;
  const Heard heard = hear(parser, std::string(500, 't') + "\r" + "t0111AB\r");
  REQUIRE(heard.events.size() == 2);
  CHECK_EQ(heard.events[0], SlcanEvent::malformed);
  REQUIRE(heard.frames.size() == 1);
  CHECK_EQ(heard.frames[0].data[0], 0xABU);
}
