// One writer publishes a value, any number of readers copy it; neither ever waits for the other.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace molmoact2::control {

template <typename T>
class Seqlock {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // Writer only.
  void store(const T& value) noexcept {
    std::array<std::uint64_t, kWords> words{};
    std::memcpy(words.data(), &value, sizeof(T));
    const std::uint64_t sequence = sequence_.load(std::memory_order_relaxed);
    sequence_.store(sequence + 1, std::memory_order_relaxed);  // odd: a write is under way
    // Release on every word orders it after the odd mark, acquire on the reader's side before the second
    // look.
    for (std::size_t i = 0; i < kWords; ++i) {
      words_[i].store(words[i], std::memory_order_release);
    }
    sequence_.store(sequence + 2, std::memory_order_release);
  }

  // Copies the newest value and returns which publication it was, counted from 1. Returns 0, leaving `value`
  // alone, when nothing was published yet or the writer was caught in the middle at every attempt.
  std::uint64_t load(T& value) const noexcept {
    std::array<std::uint64_t, kWords> words;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::uint64_t before = sequence_.load(std::memory_order_acquire);
      if (before == 0) {
        return 0;
      }
      if (before % 2 == 1) {
        continue;
      }
      for (std::size_t i = 0; i < kWords; ++i) {
        words[i] = words_[i].load(std::memory_order_acquire);
      }
      if (sequence_.load(std::memory_order_relaxed) == before) {
        std::memcpy(static_cast<void*>(&value), words.data(), sizeof(T));
        return before / 2;
      }
    }
    return 0;
  }

 private:
  static constexpr std::size_t kWords = (sizeof(T) + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t);
  static constexpr int kAttempts = 64;  // a write takes some tens of nanoseconds

  std::atomic<std::uint64_t> sequence_{0};
  std::array<std::atomic<std::uint64_t>, kWords> words_{};
};

}  // namespace molmoact2::control
