#include "control/chunk_buffer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace molmoact2::control {

namespace {
constexpr std::uint32_t kFresh = 0x100;
constexpr std::uint32_t kSlotMask = 0xFF;

// 50 * (30 / 50) is not exactly 30 in floating point: positions this close to a whole action count as whole.
constexpr double kRounding = 1e-9;
}  // namespace

ChunkBuffer::ChunkBuffer(const ChunkOptions& options) : options_(options) {
  for (Chunk& slot : slots_) {
    slot.actions.resize(options_.capacity * options_.action_dim);
  }
}

std::uint64_t ChunkBuffer::push(const double* actions, std::size_t rows, std::int64_t observed_step,
                                std::uint32_t run, Nanoseconds observed_time) noexcept {
  if (rows > options_.capacity) {
    return 0;
  }
  Chunk& slot = slots_[back_];
  std::copy(actions, actions + rows * options_.action_dim, slot.actions.begin());
  slot.rows = rows;
  slot.observed_step = observed_step;
  slot.observed_time = observed_time;
  slot.run = run;
  slot.number = ++pushed_;
  const std::uint64_t number = slot.number;
  back_ = middle_.exchange(back_ | kFresh, std::memory_order_acq_rel) & kSlotMask;
  return number;
}

void ChunkBuffer::clear(std::uint32_t run) noexcept {
  run_ = run;
  has_current_ = false;
  has_last_target_ = false;
  seam_.fill(0.0);
  last_rejection_ = Reason::none;
  // What already arrived belongs to the past, whatever run it names.
  if ((middle_.load(std::memory_order_relaxed) & kFresh) != 0) {
    spare_ = middle_.exchange(spare_, std::memory_order_acq_rel) & kSlotMask;
  }
}

double ChunkBuffer::position_in(const Chunk& chunk, std::int64_t step) const noexcept {
  return static_cast<double>(step - chunk.observed_step) * options_.actions_per_step;
}

// An action is in force until the next one is due, the last one for as long.
bool ChunkBuffer::covers(const Chunk& chunk, std::int64_t step) const noexcept {
  return step >= chunk.observed_step &&
         position_in(chunk, step) < static_cast<double>(chunk.rows) - kRounding;
}

Reason ChunkBuffer::judge(const Chunk& chunk, std::int64_t step) const noexcept {
  if (chunk.run != run_) {
    return Reason::chunk_of_other_run;
  }
  if (chunk.rows == 0) {
    return Reason::chunk_empty;
  }
  if (chunk.observed_step > step) {
    return Reason::chunk_from_future;
  }
  if (has_current_ && chunk.observed_step < slots_[current_].observed_step) {
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
  if (options_.mode == SpliceMode::sync && has_current_ && covers(slots_[current_], step)) {
    return;
  }
  spare_ = middle_.exchange(spare_, std::memory_order_acq_rel) & kSlotMask;
  info.rejected = judge(slots_[spare_], step);
  if (info.rejected != Reason::none) {
    last_rejection_ = info.rejected;
    return;
  }
  JointVector expected;
  const bool seam = options_.mode == SpliceMode::blend && expected_at(step, expected);
  std::swap(current_, spare_);
  has_current_ = true;
  last_rejection_ = Reason::none;
  info.switched = true;
  seam_.fill(0.0);
  if (seam) {
    JointVector fresh;
    sample(slots_[current_], step, fresh);
    for (std::size_t i = 0; i < options_.action_dim; ++i) {
      // A chunk that is not finite must not spoil the one after it.
      const double distance = expected[i] - fresh[i];
      seam_[i] = std::isfinite(distance) ? distance : 0.0;
    }
    seam_step_ = step;
  }
}

// Where the present chunk would have the arm at `step`, or where it left it. False: it never had a target.
bool ChunkBuffer::expected_at(std::int64_t step, JointVector& target) const noexcept {
  if (has_current_ && covers(slots_[current_], step)) {
    sample(slots_[current_], step, target);
    add_seam(step, target);
    return true;
  }
  target = last_target_;
  return has_last_target_;
}

// A second switch within a fade starts from the faded targets, so that every seam is continuous in position.
void ChunkBuffer::add_seam(std::int64_t step, JointVector& target) const noexcept {
  const std::int64_t since = step - seam_step_ + 1;
  if (options_.mode != SpliceMode::blend || since > options_.blend_steps) {
    return;
  }
  const double weight = 1.0 - static_cast<double>(since) / static_cast<double>(options_.blend_steps + 1);
  for (std::size_t i = 0; i < options_.action_dim; ++i) {
    target[i] += seam_[i] * weight;
  }
}

void ChunkBuffer::sample(const Chunk& chunk, std::int64_t step, JointVector& target) const noexcept {
  const double position = position_in(chunk, step);
  const double whole = std::floor(position + kRounding);
  const double part = std::max(0.0, position - whole);
  const auto row = static_cast<std::size_t>(whole);
  const std::size_t after = std::min(row + 1, chunk.rows - 1);
  const double* here = &chunk.actions[row * options_.action_dim];
  const double* there = &chunk.actions[after * options_.action_dim];
  for (std::size_t i = 0; i < options_.action_dim; ++i) {
    // On a whole action its value passes through untouched, whatever its neighbour holds.
    target[i] = part > kRounding ? here[i] + (there[i] - here[i]) * part : here[i];
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
  info.observed_step = chunk.observed_step;
  info.observed_time = chunk.observed_time;
  info.action = position_in(chunk, step);
  if (!covers(chunk, step)) {
    info.reason = last_rejection_ == Reason::none ? Reason::chunk_exhausted : last_rejection_;
    return false;
  }
  const double left = static_cast<double>(chunk.rows) - info.action;
  info.remaining_steps = static_cast<std::int64_t>(std::ceil(left / options_.actions_per_step - kRounding));
  info.reason = Reason::none;
  sample(chunk, step, target);
  add_seam(step, target);
  last_target_ = target;
  has_last_target_ = true;
  return true;
}

}  // namespace molmoact2::control
