// What the loop is going to execute, for a policy that continues it. Copies of the newest chunks stay on the
// producers' side, under a lock that the loop never takes; the loop only says which of them it executes.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "control/chunk_buffer.h"

namespace molmoact2::control {

class PlannedActions {
 public:
  explicit PlannedActions(const ChunkOptions& options);

  // --- the loop's thread ---
  void executing(std::uint64_t chunk) noexcept { executing_.store(chunk, std::memory_order_release); }

  // --- any other thread ---

  // Pushes to `buffer` and keeps a copy; several threads may. Returns what ChunkBuffer::push returned.
  std::uint64_t push(ChunkBuffer& buffer, const double* actions, std::size_t rows, const ChunkOrigin& origin);

  // The targets of the chunk being executed from `step` on, one chunk period apart: at most `rows` of them go
  // to `planned`, row-major (rows, action_dim). Returns how many: fewer where the chunk ends, none without a
  // chunk of this run that covers `step`. What mode blend adds is not in them.
  std::size_t read(std::uint32_t run, std::int64_t step, std::size_t rows, double* planned) const;

 private:
  struct Kept {
    std::vector<double> actions;
    std::size_t rows = 0;
    ChunkOrigin origin;
    std::uint64_t number = 0;
  };

  ChunkOptions options_;
  std::atomic<std::uint64_t> executing_{0};  // 0: none
  mutable std::mutex mutex_;
  std::array<Kept, 4> kept_;  // guarded by mutex_
};

}  // namespace molmoact2::control
