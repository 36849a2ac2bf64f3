#include "bus/can/slcan_link.h"

#include <array>
#include <string_view>
#include <utility>

namespace molmoact2::bus {

using control::monotonic_now;
using control::Nanoseconds;

namespace {

constexpr std::array<int, 9> kBitrates{10'000,  20'000,  50'000,  100'000,  125'000,
                                       250'000, 500'000, 800'000, 1'000'000};
// Short: while a lost bus is opened again, nobody repeats the other one's targets.
constexpr Nanoseconds kSetUpTimeout = 50'000'000;
// An adapter that refuses says so within this time; many say nothing when they agree.
constexpr Nanoseconds kRefusalTimeout = 30'000'000;

// -1 where there is no such code.
int code_of(int bitrate) noexcept {
  for (std::size_t i = 0; i < kBitrates.size(); ++i) {
    if (kBitrates[i] == bitrate) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

}  // namespace

std::string check_slcan_bitrate(int bitrate) {
  if (code_of(bitrate) >= 0) {
    return {};
  }
  std::string known;
  for (const int rate : kBitrates) {
    known += (known.empty() ? "" : ", ") + std::to_string(rate);
  }
  return "slcan adapters have the bit rates " + known + ", not " + std::to_string(bitrate);
}

SlcanLink::SlcanLink(std::string path, int baud, int bitrate)
    : serial_(std::move(path), baud), bitrate_(bitrate) {}

bool SlcanLink::open(std::string& error) noexcept {
  ready_.store(false, std::memory_order_release);
  if (!serial_.open(error)) {
    return false;
  }
  const auto say = [this](std::string_view text) {
    return serial_.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()},
                         monotonic_now() + kSetUpTimeout) == LinkStatus::ok;
  };
  // The first CRs end what a program before us may have left half said; closing a closed channel is refused.
  const std::array<char, 5> settings{'S', static_cast<char>('0' + code_of(bitrate_)), '\r', 'O', '\r'};
  if (!say("\r\r\rC\r")) {
    error = serial_.path() + " takes no bytes; is it an slcan adapter?";
    serial_.close();
    return false;
  }
  const Nanoseconds settled = monotonic_now() + kRefusalTimeout;
  std::size_t got = 0;
  while (serial_.read(input_, got, settled) == LinkStatus::ok) {
  }
  if (!say({settings.data(), settings.size()})) {
    error = serial_.path() + " stopped taking bytes while it was set up";
    serial_.close();
    return false;
  }
  begin_ = end_ = 0;
  unfinished_ = false;
  parser_.reset();
  bool refused = false;
  const Nanoseconds answered = monotonic_now() + kRefusalTimeout;
  LinkStatus status = LinkStatus::ok;
  while (status == LinkStatus::ok && monotonic_now() < answered) {
    status = serial_.read(input_, got, answered);
    CanFrame frame;
    for (std::size_t i = 0; i < got; ++i) {
      refused = parser_.take(input_[i], frame) == SlcanEvent::refusal || refused;
    }
  }
  if (refused || status == LinkStatus::lost) {
    error =
        serial_.path() + (refused ? " refuses to open a CAN channel at " + std::to_string(bitrate_) + " bit/s"
                                  : " went away while it was set up");
    serial_.close();
    return false;
  }
  emptied_ = monotonic_now();
  ready_.store(true, std::memory_order_release);
  return true;
}

void SlcanLink::close() noexcept {
  if (ready_.exchange(false, std::memory_order_acq_rel)) {
    constexpr std::array<std::uint8_t, 2> kCloseChannel{'C', '\r'};
    serial_.write(kCloseChannel, monotonic_now() + kRefusalTimeout);
  }
  serial_.close();
}

LinkStatus SlcanLink::lose() noexcept {
  ready_.store(false, std::memory_order_release);
  return LinkStatus::lost;
}

LinkStatus SlcanLink::send(std::span<const CanFrame> frames, Nanoseconds deadline) noexcept {
  if (!ready_.load(std::memory_order_acquire)) {
    return LinkStatus::lost;
  }
  while (!frames.empty()) {
    std::size_t bytes = 0;
    std::size_t count = 0;
    if (unfinished_) {
      output_[bytes++] = '\r';
    }
    while (count < frames.size() && count < kFramesAtOnce) {
      bytes += encode_slcan(frames[count], std::span(output_).subspan(bytes));
      ++count;
    }
    const LinkStatus status = serial_.write({output_.data(), bytes}, deadline);
    unfinished_ = status == LinkStatus::timed_out;
    if (status != LinkStatus::ok) {
      return status == LinkStatus::lost ? lose() : status;
    }
    frames = frames.subspan(count);
  }
  return LinkStatus::ok;
}

LinkStatus SlcanLink::fill(Nanoseconds deadline) noexcept {
  begin_ = end_ = 0;
  std::size_t got = 0;
  LinkStatus status = serial_.read(input_, got, 0);
  if (status == LinkStatus::ok) {
    input_time_ = emptied_;
  } else if (status == LinkStatus::timed_out) {
    emptied_ = monotonic_now();
    status = serial_.read(input_, got, deadline);
    input_time_ = monotonic_now();
  }
  if (status != LinkStatus::ok) {
    return status == LinkStatus::lost ? lose() : status;
  }
  end_ = got;
  if (got < input_.size()) {
    emptied_ = monotonic_now();
  }
  return LinkStatus::ok;
}

LinkStatus SlcanLink::receive(CanFrame& frame, Nanoseconds deadline) noexcept {
  if (!ready_.load(std::memory_order_acquire)) {
    return LinkStatus::lost;
  }
  constexpr int kFills = 16;  // a line that never ceases to talk nonsense is no reason to stay
  for (int i = 0; i < kFills; ++i) {
    while (begin_ < end_) {
      const SlcanEvent event = parser_.take(input_[begin_++], frame);
      if (event == SlcanEvent::frame) {
        frame.time = input_time_;
        return LinkStatus::ok;
      }
      if (event == SlcanEvent::malformed) {
        malformed_.fetch_add(1, std::memory_order_relaxed);
      }
    }
    const LinkStatus status = fill(deadline);
    if (status != LinkStatus::ok) {
      return status;
    }
  }
  return LinkStatus::timed_out;
}

}  // namespace molmoact2::bus
