// Feetech packets: whatever comes, the parser stays within its bytes, agrees with the encoders, and goes on.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "bus/feetech/joint_scale.h"
#include "bus/feetech/packet.h"
#include "bus/feetech/servo_model.h"
#include "fuzz_check.h"

using namespace molmoact2::bus::feetech;

namespace {

using Input = std::span<const std::uint8_t>;

// Gives `stream` to the parser in pieces of the sizes that `steps` makes; `found(status)` for each packet.
template <typename Found>
void parse(StatusParser& parser, Input stream, std::uint8_t steps, const Found& found) {
  std::size_t given = 0;
  Status status;
  for (unsigned turn = 0; given < stream.size(); ++turn) {
    const std::span<std::uint8_t> space = parser.space();
    FUZZ_CHECK(!space.empty());
    const std::size_t step = 1 + (steps * (turn + 1)) % 97;
    const std::size_t taken = std::min({space.size(), stream.size() - given, step});
    std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(given), taken, space.begin());
    parser.take(taken);
    given += taken;
    while (parser.next(status)) {
      FUZZ_CHECK(status.size <= kMaxParameters);
      FUZZ_CHECK(status.servo != 0xFF);
      found(status);
    }
  }
}

void raw_stream(std::uint8_t steps, std::uint8_t size, Input input) {
  StatusParser parser;
  const std::size_t echo = std::min<std::size_t>(steps % 16, input.size());
  parser.expect(size, input.first(echo));
  std::size_t packets = 0;
  parse(parser, input, steps, [&packets](const Status&) { ++packets; });
  const std::size_t packet_size = kOverhead + std::min<std::size_t>(size, kMaxParameters);
  FUZZ_CHECK(parser.counts().garbage + packets * packet_size <= input.size());
}

// What is encoded comes out again, behind whatever came before it. The damage ends with zeros, so that none
// of it can be waiting for more bytes or end in half a beginning.
void round_trip(std::uint8_t servo, std::uint8_t error, std::uint8_t steps, Input input) {
  const std::size_t size = std::min<std::size_t>(steps % 32, input.size());
  const Input data = input.first(size);
  const Packet packet = instruction_packet(servo, static_cast<Instruction>(error), data);
  FUZZ_CHECK(packet.size() == kOverhead + size);
  std::vector<std::uint8_t> stream(input.begin() + static_cast<std::ptrdiff_t>(size), input.end());
  stream.insert(stream.end(), kMaxPacket, 0);
  stream.insert(stream.end(), packet.bytes().begin(), packet.bytes().end());
  StatusParser parser;
  parser.expect(size);
  bool last = false;
  parse(parser, stream, steps, [&](const Status& status) {
    last = status.servo == servo && status.error == error &&
           std::ranges::equal(Input(status.data).first(size), data);
  });
  FUZZ_CHECK(last || servo == 0xFF);
}

void encoders(std::uint8_t servo, std::uint8_t address, std::uint8_t size, Input input) {
  const Input servos = input.first(std::min<std::size_t>(input.size(), 40));
  for (const Packet& packet :
       {ping_packet(servo), read_packet(servo, address, size), write_packet(servo, address, input),
        reg_write_packet(servo, address, input), action_packet(), sync_read_packet(address, size, input),
        sync_write_packet(address, size, servos, input)}) {
    FUZZ_CHECK(packet.size() <= kMaxPacket);
    if (!packet.empty()) {
      FUZZ_CHECK(packet.bytes()[3] + 4U == packet.size());
    }
  }
}

void registers_and_scales(std::uint8_t place, std::uint8_t low, std::uint8_t high, Input input) {
  const Register& reg = sts3215().registers[place % sts3215().registers.size()];
  std::array<std::uint8_t, 4> bytes{};
  std::copy_n(input.begin(), std::min<std::size_t>(input.size(), 4), bytes.begin());
  const std::int32_t value = reg.decode(bytes);
  FUZZ_CHECK(value >= reg.lowest() && value <= reg.highest());
  std::array<std::uint8_t, 4> again{};
  reg.encode(value, again);
  FUZZ_CHECK(reg.decode(again) == value);

  const JointScale scale{low * 8, low * 8 + 1 + high * 8,
                         place % 2 == 0 ? JointUnit::degrees : JointUnit::percent, place % 4 < 2};
  const int ticks = scale.range_min + value % (scale.range_max - scale.range_min + 1);
  if (ticks >= scale.range_min) {
    FUZZ_CHECK(scale.ticks_of(scale.position_of(ticks)) == ticks);
  }
  for (const double far : {1e300, -1e300, std::numeric_limits<double>::max()}) {
    const int bounded = scale.ticks_of(far);
    FUZZ_CHECK(bounded >= scale.range_min && bounded <= scale.range_max);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) {
    return 0;
  }
  const Input input(data + 4, size - 4);
  switch (data[0] % 4) {
    case 0:
      raw_stream(data[1], data[2], input);
      break;
    case 1:
      round_trip(data[1], data[2], data[3], input);
      break;
    case 2:
      encoders(data[1], data[2], data[3], input);
      break;
    default:
      registers_and_scales(data[1], data[2], data[3], input);
  }
  return 0;
}
