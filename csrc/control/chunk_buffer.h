// Chunks of actions on their way from the policy to the loop. What is spliced is decided by how many steps
// were executed since the chunk's observation, never by how long the policy took.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "control/clock.h"
#include "control/joints.h"
#include "control/resampling.h"
#include "control/status.h"

namespace molmoact2::control {

enum class SpliceMode : std::uint8_t {
  sync,   // a new chunk waits until every action of the present one was executed, or one of them was not
  async,  // a new chunk takes over at once, at the action that its observation makes due
  blend,  // as async; over blend_steps the weight moves from the old chunk to the new one
  rtc,    // as async; the policy made the chunk continue what is executed, and that is checked
};

struct ChunkOptions {
  std::size_t action_dim = 0;
  std::size_t capacity = 0;  // most actions in a chunk
  SpliceMode mode = SpliceMode::async;
  double actions_per_step = 1.0;  // chunk rate / loop rate: 0.6 for 30 Hz actions in a 50 Hz loop
  std::int64_t blend_steps = 1;   // loop steps of the change of weight, in mode blend
  Resampling resampling = Resampling::linear;
};

// Empty when usable, otherwise what is wrong.
std::string check(const ChunkOptions& options);

// Which observation a chunk was made from.
struct ChunkOrigin {
  std::int64_t observed_step = 0;  // the step that was due when it was made: row 0 is the action for it
  std::uint32_t run = 0;           // must equal the consumer's
  Nanoseconds observed_time = 0;   // when its oldest image was exposed; 0: unknown
  std::size_t frozen_rows = 0;     // first rows that the policy was made to repeat from the chunk before
};

// What next() did, for the record.
struct ChunkInfo {
  std::uint64_t chunk = 0;           // which push this target comes from, counted from 1; 0: none
  double action = 0.0;               // position in the chunk, whole numbers are the chunk's own actions
  std::int64_t remaining_steps = 0;  // loop steps that the chunk still covers, this one included
  std::int64_t observed_step = 0;    // the step at which the chunk's observation was made
  Nanoseconds observed_time = 0;     // when that was, as push() was told; 0: unknown
  bool switched = false;             // this step is the first from this chunk
  // At a switch, for a chunk with frozen rows: the largest distance between them and the targets that were
  // given for their steps, and the steps given since the observation for which no row was frozen.
  double frozen_error = 0.0;
  std::int64_t unfrozen_steps = 0;
  Reason reason = Reason::waiting_for_chunk;  // none with a target, otherwise why there is none
  Reason rejected = Reason::none;             // why a chunk that arrived at this step was not taken
};

// push() belongs to one producer thread, the rest to one consumer thread; neither waits for the other. When
// two chunks arrive between two steps, the later one is used.
class ChunkBuffer {
 public:
  // `options` must pass check().
  explicit ChunkBuffer(const ChunkOptions& options);

  // `actions` is row-major (rows, action_dim); rows <= capacity, 0 allowed. Every row is executed, so a
  // padded tail must be cut before. Returns the chunk's number, or 0 when rows > capacity.
  std::uint64_t push(const double* actions, std::size_t rows, const ChunkOrigin& origin) noexcept;

  // The target for `step` (counted by the consumer, one more for each executed step). False: there is none.
  bool next(std::int64_t step, JointVector& target, ChunkInfo& info) noexcept;

  // Forgets every chunk; chunks of another run that are still on their way are not taken.
  void clear(std::uint32_t run = 0) noexcept;

  const ChunkOptions& options() const noexcept { return options_; }

 private:
  struct Chunk {
    std::vector<double> actions;
    std::size_t rows = 0;
    ChunkOrigin origin;
    std::uint64_t number = 0;
  };

  Reason judge(const Chunk& chunk, std::int64_t step) const noexcept;
  void take_arrival(std::int64_t step, ChunkInfo& info) noexcept;
  void check_frozen(std::int64_t step, ChunkInfo& info) const noexcept;
  void begin_blend(std::int64_t step, bool had_current) noexcept;
  void blend(std::int64_t step, JointVector& target) noexcept;
  bool covers(const Chunk& chunk, std::int64_t step) const noexcept;
  double position_in(const Chunk& chunk, std::int64_t step) const noexcept;
  void sample_at(const Chunk& chunk, std::int64_t step, JointVector& target) const noexcept;

  ChunkOptions options_;
  // One slot is being written, one waits in `middle_`, three belong to the consumer.
  std::array<Chunk, 5> slots_;
  std::atomic<std::uint32_t> middle_{1};  // slot index, plus kFresh when the consumer has not seen it
  std::uint32_t back_ = 0;                // producer's
  std::uint64_t pushed_ = 0;              // producer's
  std::uint32_t current_ = 2;
  std::uint32_t previous_ = 3;
  std::uint32_t spare_ = 4;
  std::uint32_t run_ = 0;
  bool has_current_ = false;
  bool has_last_target_ = false;
  std::int64_t last_step_ = 0;  // for which there was a target last
  JointVector last_target_{};
  Reason last_rejection_ = Reason::none;  // since the present chunk was taken

  // Mode blend. The path left is the previous chunk plus `residual_`, what was left of the blend before.
  std::int64_t blend_begin_ = 0;
  bool blending_ = false;
  bool overlaps_ = false;  // the previous chunk still covers steps
  JointVector residual_{};
  JointVector distance_{};  // from the new chunk to the path left; stays as it is once that has ended

  // Mode rtc: targets by step, the newest kHistory of them.
  std::vector<JointVector> history_;
  std::int64_t history_begin_ = 0;  // the first step in it
  std::int64_t history_end_ = 0;    // the step after the last
};

}  // namespace molmoact2::control
