#include "control/planned_actions.h"

#include <algorithm>

namespace molmoact2::control {

PlannedActions::PlannedActions(const ChunkOptions& options) : options_(options) {
  for (Kept& kept : kept_) {
    kept.actions.resize(options_.capacity * options_.action_dim);
  }
}

std::uint64_t PlannedActions::push(ChunkBuffer& buffer, const double* actions, std::size_t rows,
                                   const ChunkOrigin& origin) {
  const std::scoped_lock lock(mutex_);
  const std::uint64_t number = buffer.push(actions, rows, origin);
  if (number == 0) {
    return 0;
  }
  // The oldest makes room, but never the one in execution: a policy that is refused again and again would
  // otherwise lose what it has to continue.
  const std::uint64_t executing = executing_.load(std::memory_order_acquire);
  Kept& oldest = *std::ranges::min_element(kept_, {}, [executing](const Kept& kept) {
    return kept.number == executing && executing != 0 ? UINT64_MAX : kept.number;
  });
  std::copy(actions, actions + rows * options_.action_dim, oldest.actions.begin());
  oldest.rows = rows;
  oldest.origin = origin;
  oldest.number = number;
  return number;
}

std::size_t PlannedActions::read(std::uint32_t run, std::int64_t step, std::size_t rows,
                                 double* planned) const {
  const std::scoped_lock lock(mutex_);
  const std::uint64_t executing = executing_.load(std::memory_order_acquire);
  const auto* const found = std::ranges::find_if(kept_, [&](const Kept& kept) {
    return executing != 0 && kept.number == executing && kept.origin.run == run;
  });
  if (found == kept_.end() || step < found->origin.observed_step) {
    return 0;
  }
  const double first = static_cast<double>(step - found->origin.observed_step) * options_.actions_per_step;
  const double last = static_cast<double>(found->rows - 1) + kActionRounding;
  std::size_t count = 0;
  for (; count < rows && first + static_cast<double>(count) <= last; ++count) {
    JointVector target;
    sample({found->actions.data(), found->rows, options_.action_dim}, first + static_cast<double>(count),
           options_.resampling, target);
    std::copy(target.begin(), target.begin() + static_cast<std::ptrdiff_t>(options_.action_dim),
              planned + count * options_.action_dim);
  }
  return count;
}

}  // namespace molmoact2::control
