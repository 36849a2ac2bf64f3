// Durations counted in buckets whose width is under 0.8 % of their value, from 1 ns to minutes, in fixed
// memory. One thread records, any thread reads; the maximum is kept exactly.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "control/clock.h"

namespace molmoact2::control {

class Histogram {
 public:
  void record(Nanoseconds duration) noexcept {
    const std::uint64_t value = duration > 0 ? static_cast<std::uint64_t>(duration) : 0;
    increment(buckets_[index_of(value)]);
    increment(count_);
    sum_.store(sum_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
    if (value > max_.load(std::memory_order_relaxed)) {
      max_.store(value, std::memory_order_relaxed);
    }
  }

  std::uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
  Nanoseconds max() const noexcept { return static_cast<Nanoseconds>(max_.load(std::memory_order_relaxed)); }
  double mean() const noexcept {
    const std::uint64_t n = count();
    return n == 0 ? 0.0 : static_cast<double>(sum_.load(std::memory_order_relaxed)) / static_cast<double>(n);
  }

  // The least bucket edge below which at least `fraction` (0..1) of the durations lie; 0 when there are none.
  Nanoseconds quantile(double fraction) const noexcept {
    const std::uint64_t total = count();
    const auto rank = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(total)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets && total > 0; ++i) {
      seen += buckets_[i].load(std::memory_order_relaxed);
      if (seen >= std::max<std::uint64_t>(rank, 1)) {
        return std::min(static_cast<Nanoseconds>(upper_edge(i)), max());
      }
    }
    return max();
  }

 private:
  // Values under 128 have a bucket each; above, each power of two is cut into 128.
  static constexpr unsigned kSubBits = 7;
  static constexpr std::uint64_t kSub = 1U << kSubBits;
  static constexpr unsigned kOctaves = 32;  // up to 2^39 ns, nine minutes; longer counts as that
  static constexpr std::size_t kBuckets = (kOctaves + 1) * kSub;

  static constexpr std::size_t index_of(std::uint64_t value) noexcept {
    if (value < kSub) {
      return static_cast<std::size_t>(value);
    }
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    const std::uint64_t index = (static_cast<std::uint64_t>(shift) + 1) * kSub + ((value >> shift) - kSub);
    return static_cast<std::size_t>(std::min<std::uint64_t>(index, kBuckets - 1));
  }
  static constexpr std::uint64_t upper_edge(std::size_t index) noexcept {
    if (index < kSub) {
      return index;
    }
    const std::uint64_t shift = index / kSub - 1;
    return ((index % kSub + kSub + 1) << shift) - 1;
  }
  // One writer: a plain add, without a locked instruction.
  static void increment(std::atomic<std::uint64_t>& counter) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
  std::atomic<std::uint64_t> count_{0};
  std::atomic<std::uint64_t> sum_{0};
  std::atomic<std::uint64_t> max_{0};
};

}  // namespace molmoact2::control
