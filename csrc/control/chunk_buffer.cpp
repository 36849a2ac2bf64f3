#include "control/chunk_buffer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace molmoact2::control {

namespace {

constexpr std::uint32_t kFresh = 0x100;
constexpr std::uint32_t kSlotMask = 0xFF;
constexpr std::int64_t kHistory = 1024;  // steps; a second at the fastest loop, ten at a usual one

std::size_t history_slot(std::int64_t step) noexcept {
  return static_cast<std::size_t>(static_cast<std::uint64_t>(step) % kHistory);
}

// From 1 to 0 without a slope at either end, so that velocities are continuous where they were before.
double falling(double share) noexcept { return 1.0 - share * share * (3.0 - 2.0 * share); }

}  // namespace

std::string check(const ChunkOptions& options) {
  if (options.action_dim == 0 || options.action_dim > kMaxJoints) {
    return "action_dim must be 1 to " + std::to_string(kMaxJoints) + ", got " +
           std::to_string(options.action_dim);
  }
  if (!(options.actions_per_step > 0.0 && options.actions_per_step <= 1.0)) {
    return "actions_per_step must be above 0 and at most 1, got " + std::to_string(options.actions_per_step) +
           ": chunk_rate_hz may be at most rate_hz";
  }
  if (options.capacity == 0 || options.blend_steps < 0) {
    return "capacity must be at least 1 and blend_steps at least 0";
  }
  return {};
}

ChunkBuffer::ChunkBuffer(const ChunkOptions& options) : options_(options) {
  for (Chunk& slot : slots_) {
    slot.actions.resize(options_.capacity * options_.action_dim);
  }
  if (options_.mode == SpliceMode::rtc) {
    history_.resize(static_cast<std::size_t>(kHistory));
  }
}

std::uint64_t ChunkBuffer::push(const double* actions, std::size_t rows, const ChunkOrigin& origin) noexcept {
  if (rows > options_.capacity) {
    return 0;
  }
  Chunk& slot = slots_[back_];
  std::copy(actions, actions + rows * options_.action_dim, slot.actions.begin());
  slot.rows = rows;
  slot.origin = origin;
  slot.number = ++pushed_;
  const std::uint64_t number = slot.number;
  back_ = middle_.exchange(back_ | kFresh, std::memory_order_acq_rel) & kSlotMask;
  return number;
}

void ChunkBuffer::clear(std::uint32_t run) noexcept {
  run_ = run;
  has_current_ = false;
  has_last_target_ = false;
  blending_ = false;
  history_begin_ = history_end_ = 0;
  last_rejection_ = Reason::none;
  // What already arrived belongs to the past, whatever run it names.
  if ((middle_.load(std::memory_order_relaxed) & kFresh) != 0) {
    spare_ = middle_.exchange(spare_, std::memory_order_acq_rel) & kSlotMask;
  }
}

double ChunkBuffer::position_in(const Chunk& chunk, std::int64_t step) const noexcept {
  return static_cast<double>(step - chunk.origin.observed_step) * options_.actions_per_step;
}

// An action is in force until the next one is due, the last one for as long.
bool ChunkBuffer::covers(const Chunk& chunk, std::int64_t step) const noexcept {
  return step >= chunk.origin.observed_step &&
         position_in(chunk, step) < static_cast<double>(chunk.rows) - kActionRounding;
}

void ChunkBuffer::sample_at(const Chunk& chunk, std::int64_t step, JointVector& target) const noexcept {
  sample({chunk.actions.data(), chunk.rows, options_.action_dim}, position_in(chunk, step),
         options_.resampling, target);
}

Reason ChunkBuffer::judge(const Chunk& chunk, std::int64_t step) const noexcept {
  if (chunk.origin.run != run_) {
    return Reason::chunk_of_other_run;
  }
  if (chunk.rows == 0) {
    return Reason::chunk_empty;
  }
  if (chunk.origin.observed_step > step) {
    return Reason::chunk_from_future;
  }
  if (has_current_ && chunk.origin.observed_step < slots_[current_].origin.observed_step) {
    return Reason::chunk_out_of_order;
  }
  if (!covers(chunk, step)) {
    return Reason::chunk_late;
  }
  return Reason::none;
}

void ChunkBuffer::take_arrival(std::int64_t step, ChunkInfo& info) noexcept {
  if ((middle_.load(std::memory_order_relaxed) & kFresh) == 0) {
    return;
  }
  // A step that is asked for again was not executed. A chunk that cannot be executed, because it is not
  // finite or jumps, must not keep out every other one for ever.
  const bool goes_on = has_current_ && covers(slots_[current_], step) && step != last_step_;
  if (options_.mode == SpliceMode::sync && goes_on) {
    return;
  }
  spare_ = middle_.exchange(spare_, std::memory_order_acq_rel) & kSlotMask;
  info.rejected = judge(slots_[spare_], step);
  if (info.rejected != Reason::none) {
    last_rejection_ = info.rejected;
    return;
  }
  const bool had_current = has_current_;
  if (options_.mode == SpliceMode::blend) {
    begin_blend(step, had_current);
  }
  std::swap(previous_, spare_);    // the new chunk
  std::swap(current_, previous_);  // becomes the present one, the present one the previous
  has_current_ = true;
  last_rejection_ = Reason::none;
  info.switched = true;
  if (options_.mode == SpliceMode::rtc) {
    check_frozen(step, info);
  }
}

void ChunkBuffer::check_frozen(std::int64_t step, ChunkInfo& info) const noexcept {
  const Chunk& chunk = slots_[current_];
  if (chunk.origin.frozen_rows == 0) {
    return;
  }
  // Between the last frozen row and the one after it a target is no longer given by frozen rows alone.
  const double last_frozen = static_cast<double>(chunk.origin.frozen_rows - 1) + kActionRounding;
  const std::int64_t begin = std::max(chunk.origin.observed_step, history_begin_);
  for (std::int64_t past = begin; past < std::min(step, history_end_); ++past) {
    if (position_in(chunk, past) > last_frozen) {
      ++info.unfrozen_steps;
      continue;
    }
    JointVector frozen;
    sample_at(chunk, past, frozen);
    const JointVector& given = history_[history_slot(past)];
    for (std::size_t i = 0; i < options_.action_dim; ++i) {
      const double error = std::abs(frozen[i] - given[i]);
      // A chunk that is not finite continues nothing.
      info.frozen_error = std::isnan(error) ? HUGE_VAL : std::max(info.frozen_error, error);
    }
  }
}

// Notes where the targets would have gone on without the chunk that arrived.
void ChunkBuffer::begin_blend(std::int64_t step, bool had_current) noexcept {
  const bool overlaps = had_current && covers(slots_[current_], step);
  JointVector left = last_target_;
  JointVector residual{};
  if (overlaps) {
    JointVector old;
    sample_at(slots_[current_], step, old);
    left = old;
    blend(step, left);
    for (std::size_t i = 0; i < options_.action_dim; ++i) {
      const double rest = left[i] - old[i];
      residual[i] = std::isfinite(rest) ? rest : 0.0;
    }
  }
  residual_ = residual;
  blending_ = overlaps || has_last_target_;
  overlaps_ = overlaps;
  blend_begin_ = step;
  if (blending_ && !overlaps_) {
    JointVector fresh;
    sample_at(slots_[spare_], step, fresh);
    for (std::size_t i = 0; i < options_.action_dim; ++i) {
      // A chunk that is not finite must not spoil the one after it.
      const double distance = left[i] - fresh[i];
      distance_[i] = std::isfinite(distance) ? distance : 0.0;
    }
  }
}

// Moves the weight from the path that was left to the present chunk, whose own target comes in. Where that
// path has ended, its last distance fades; so every splice is continuous in position, also one within a
// blend.
void ChunkBuffer::blend(std::int64_t step, JointVector& target) noexcept {
  const std::int64_t since = step - blend_begin_ + 1;
  if (!blending_ || since > options_.blend_steps) {
    return;
  }
  if (overlaps_ && covers(slots_[previous_], step)) {
    JointVector left;
    sample_at(slots_[previous_], step, left);
    for (std::size_t i = 0; i < options_.action_dim; ++i) {
      const double distance = left[i] + residual_[i] - target[i];
      distance_[i] = std::isfinite(distance) ? distance : 0.0;
    }
  }
  const double weight = falling(static_cast<double>(since) / static_cast<double>(options_.blend_steps + 1));
  for (std::size_t i = 0; i < options_.action_dim; ++i) {
    target[i] += distance_[i] * weight;
  }
}

bool ChunkBuffer::next(std::int64_t step, JointVector& target, ChunkInfo& info) noexcept {
  info = ChunkInfo{};
  take_arrival(step, info);
  if (!has_current_) {
    info.reason = last_rejection_ == Reason::none ? Reason::waiting_for_chunk : last_rejection_;
    return false;
  }
  const Chunk& chunk = slots_[current_];
  info.chunk = chunk.number;
  info.observed_step = chunk.origin.observed_step;
  info.observed_time = chunk.origin.observed_time;
  info.action = position_in(chunk, step);
  if (!covers(chunk, step)) {
    info.reason = last_rejection_ == Reason::none ? Reason::chunk_exhausted : last_rejection_;
    return false;
  }
  const double left = static_cast<double>(chunk.rows) - info.action;
  info.remaining_steps =
      static_cast<std::int64_t>(std::ceil(left / options_.actions_per_step - kActionRounding));
  info.reason = Reason::none;
  sample_at(chunk, step, target);
  if (options_.mode == SpliceMode::blend) {
    blend(step, target);
  }
  last_target_ = target;
  last_step_ = step;
  has_last_target_ = true;
  if (options_.mode == SpliceMode::rtc) {
    if (step != history_end_ && step + 1 != history_end_) {
      history_begin_ = step;
    }
    history_[history_slot(step)] = target;
    history_end_ = step + 1;
    history_begin_ = std::max(history_begin_, history_end_ - kHistory);
  }
  return true;
}

}  // namespace molmoact2::control
