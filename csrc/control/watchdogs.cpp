#include "control/watchdogs.h"

#include <algorithm>
#include <utility>

namespace molmoact2::control {

namespace {

std::string check(const MotorLevels& levels, std::size_t joint_count, const std::string& what) {
  for (std::size_t i = 0; i < joint_count; ++i) {
    if (!(levels.warn[i] > 0.0 && levels.limit[i] >= levels.warn[i])) {
      std::string wrong = what;
      wrong.append("_warn of joint ").append(std::to_string(i));
      return wrong.append(" must be above 0 and at most ").append(what).append("_limit");
    }
  }
  if (!(levels.hysteresis >= 0.0) || !std::isfinite(levels.hysteresis) || levels.duration < 0) {
    return what + "_hysteresis must be finite and at least 0, and its duration at least 0";
  }
  return {};
}

// A time that lies ahead is as bad as one long past: its clock is not ours, so it is no sign of life.
bool older_than(Nanoseconds age_max, Nanoseconds time, Nanoseconds now) noexcept {
  return now - time > age_max || time - now > age_max;
}

}  // namespace

std::string check(const WatchdogOptions& options, std::size_t joint_count) {
  if (!(options.silence_hold > 0 && options.silence_fault >= options.silence_hold)) {
    return "silence_hold_s must be above 0 and silence_fault_s at least as long";
  }
  if (options.chunk_age_max < 0) {
    return "chunk_age_max_s must be above 0, or absent";
  }
  if (options.cameras > kMaxCameras) {
    return "at most " + std::to_string(kMaxCameras) + " cameras, got " + std::to_string(options.cameras);
  }
  if (options.camera_age_max <= 0 || options.overrun_window <= 0) {
    return "camera_age_max_s and overrun_window_s must be above 0";
  }
  if (options.overruns_max > kMaxOverruns) {
    return "overruns_max may be at most " + std::to_string(kMaxOverruns) + ", got " +
           std::to_string(options.overruns_max);
  }
  const std::string wrong = check(options.temperature, joint_count, "temperature");
  return wrong.empty() ? check(options.current, joint_count, "current") : wrong;
}

void Watchdogs::begin(Nanoseconds now) noexcept {
  begun_ = now;
  overrun_count_ = 0;
  temperature_ = MotorWatch{};
  current_ = MotorWatch{};
}

void Watchdogs::overrun(Nanoseconds now) noexcept {
  overruns_[overrun_count_ % overruns_.size()] = now;
  ++overrun_count_;
}

bool Watchdogs::camera_stale(Nanoseconds now) const noexcept {
  for (std::size_t camera = 0; camera < options_.cameras; ++camera) {
    // A run that has just begun waits as long for its first frame.
    if (older_than(options_.camera_age_max, std::max(frames_.of(camera), begun_), now)) {
      return true;
    }
  }
  return false;
}

bool Watchdogs::overruns_repeated(Nanoseconds now) const noexcept {
  if (options_.overruns_max == 0 || overrun_count_ <= options_.overruns_max) {
    return false;
  }
  // The one that makes them too many, counted from the newest.
  const Nanoseconds decisive = overruns_[(overrun_count_ - options_.overruns_max - 1) % overruns_.size()];
  return now - decisive <= options_.overrun_window;
}

Watchdogs::MotorVerdict Watchdogs::judge_motors(const MotorLevels& levels, MotorWatch& watch,
                                                const JointVector& readings, Nanoseconds now) const noexcept {
  const auto lasts = [&levels, now](Nanoseconds& since, bool above) {
    if (!above) {
      since = 0;
    } else if (since == 0) {
      since = now;
    }
    return above && now - since >= levels.duration;
  };
  MotorVerdict verdict;
  for (std::size_t i = 0; i < joint_count_; ++i) {
    if (!std::isfinite(levels.warn[i])) {
      continue;
    }
    const double reading = readings[i];
    // A joint that has a level must have a reading: NaN holds, without ever being a fault.
    const bool above = !(reading <= levels.warn[i]);
    const std::uint32_t bit = 1U << i;
    if (lasts(watch.above_warn_since[i], above)) {
      watch.warned |= bit;
    } else if (reading < levels.warn[i] - levels.hysteresis || (levels.hysteresis == 0.0 && !above)) {
      watch.warned &= ~bit;
    }
    verdict.over = lasts(watch.above_limit_since[i], reading > levels.limit[i]) || verdict.over;
  }
  verdict.high = watch.warned != 0;
  return verdict;
}

Verdict Watchdogs::judge(const WatchdogInput& input) noexcept {
  const MeasuredState& measured = *input.measured;
  MotorVerdict temperature;
  MotorVerdict current;
  if (measured.has_temperatures) {
    temperature = judge_motors(options_.temperature, temperature_, measured.temperatures, input.now);
  }
  if (measured.has_currents) {
    JointVector magnitudes = measured.currents;
    std::ranges::transform(magnitudes, magnitudes.begin(), [](double amperes) { return std::abs(amperes); });
    current = judge_motors(options_.current, current_, magnitudes, input.now);
  }
  const bool overruns = overruns_repeated(input.now);

  const std::array<std::pair<bool, Reason>, 5> faults{{
      {older_than(options_.silence_fault, measured.time, input.now), Reason::state_lost},
      {input.now - input.last_write > options_.silence_fault, Reason::bus_write_failed},
      {overruns && options_.overruns_fault, Reason::overruns_repeated},
      {temperature.over, Reason::temperature_limit},
      {current.over, Reason::current_limit},
  }};
  const std::array<std::pair<bool, Reason>, 7> holds{{
      {older_than(options_.silence_hold, measured.time, input.now), Reason::state_stale},
      {input.now - input.last_write > options_.silence_hold, Reason::bus_write_failed},
      {camera_stale(input.now), Reason::camera_stale},
      {input.executes && options_.chunk_age_max > 0 && input.observed_time != 0 &&
           older_than(options_.chunk_age_max, input.observed_time, input.now),
       Reason::chunk_stale},
      {overruns, Reason::overruns_repeated},
      {temperature.high, Reason::temperature_high},
      {current.high, Reason::current_high},
  }};
  const auto first = [](const auto& conditions) {
    const auto found = std::ranges::find_if(conditions, [](const auto& each) { return each.first; });
    return found == conditions.end() ? Reason::none : found->second;
  };
  return {first(faults), first(holds)};
}

}  // namespace molmoact2::control
