#include "control/status.h"

#include <array>

namespace molmoact2::control {

namespace {

struct ReasonEntry {
  const char* name;
  const char* text;
};

constexpr std::array<const char*, kStateCount> kStates{"idle", "running", "holding", "stopping", "fault"};

constexpr std::array<ReasonEntry, kReasonCount> kReasons{{
    {"none", "nothing to report"},
    {"not_reset", "no measured pose has been given yet"},
    {"starting", "moving slowly from the measured pose to the first target"},
    {"start_too_far", "the first target is farther from the measured pose than a start may be"},
    {"start_outside_limits",
     "the measured pose is farther outside the position limits than a joint may move in one period"},
    {"waiting_for_chunk", "no chunk of actions has arrived yet"},
    {"chunk_exhausted", "every action of the last chunk was executed before a new chunk arrived"},
    {"chunk_late", "the chunk arrived after all of its actions were due"},
    {"chunk_empty", "the chunk has no actions"},
    {"chunk_out_of_order", "the chunk comes from an older observation than the one being executed"},
    {"chunk_from_future", "the chunk claims an observation that has not happened yet"},
    {"chunk_of_other_run", "the chunk was made for an observation before the loop was restarted"},
    {"target_not_finite", "the target holds NaN or infinity"},
    {"measured_not_finite", "the measured pose holds NaN or infinity"},
    {"state_missing", "the robot has not reported its pose yet"},
    {"state_stale", "the robot's last pose is older than allowed"},
    {"state_lost", "the robot has not reported its pose for too long"},
    {"bus_write_failed", "the command could not be written to the robot"},
    {"arm_not_following",
     "the arm is farther from its command than the jump limit; the command goes back to where the arm is"},
    {"chunk_stale", "the action that is due comes from an observation older than allowed"},
    {"camera_stale", "a camera's newest image is older than allowed"},
    {"overruns_repeated", "the loop missed whole periods more often than allowed"},
    {"temperature_high", "a joint is warmer than its warning level, or its temperature is not a number"},
    {"temperature_limit", "a joint is hotter than its limit"},
    {"current_high", "a joint draws more current than its warning level, or its current is not a number"},
    {"current_limit", "a joint draws more current than its limit"},
    {"jump", "the target is farther from the measured pose than the jump limit"},
    {"position_limit", "the target was limited in position"},
    {"velocity_limit", "the target was limited in velocity"},
    {"acceleration_limit", "the target was limited in acceleration"},
    {"jerk_limit", "the target was limited in jerk"},
    {"stop_requested", "a stop was requested"},
    {"stop_signal", "the process was asked to end"},
    {"stop_key", "a key was pressed"},
    {"stop_file", "the emergency stop's file appeared, or can no longer be watched"},
    {"stop_socket", "the emergency stop's socket was written to"},
}};

}  // namespace

const char* name(State state) noexcept { return kStates[static_cast<std::size_t>(state)]; }
const char* name(Reason reason) noexcept { return kReasons[static_cast<std::size_t>(reason)].name; }
const char* text(Reason reason) noexcept { return kReasons[static_cast<std::size_t>(reason)].text; }

}  // namespace molmoact2::control
