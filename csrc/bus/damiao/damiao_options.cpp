#include "bus/damiao/damiao_options.h"

#include <cmath>

#include "control/joints.h"

namespace molmoact2::bus {

using control::kMaxJoints;

std::string check(const DamiaoOptions& options, std::size_t buses) {
  if (options.joints.empty() || options.joints.size() > kMaxJoints) {
    return "1 to " + std::to_string(kMaxJoints) + " joints are possible, got " +
           std::to_string(options.joints.size());
  }
  if (buses < 1 || buses > kMaxBuses) {
    return "1 to " + std::to_string(kMaxBuses) + " buses are possible, got " + std::to_string(buses);
  }
  for (std::size_t i = 0; i < options.joints.size(); ++i) {
    const DamiaoJoint& joint = options.joints[i];
    const std::string which = "joint " + std::to_string(i) + ": ";
    if (joint.bus >= buses) {
      return which + "there is no bus " + std::to_string(joint.bus);
    }
    if (joint.id < 1 || joint.id >= kRegisterId || joint.feedback_id >= kRegisterId ||
        joint.id == joint.feedback_id) {
      return which + "ids must differ and be below 0x7FF, got " + std::to_string(joint.id) + " and " +
             std::to_string(joint.feedback_id);
    }
    const auto above_zero = [](double value) { return value > 0.0 && std::isfinite(value); };
    if (!above_zero(joint.ranges.position) || !above_zero(joint.ranges.velocity) ||
        !above_zero(joint.ranges.torque)) {
      return which + "the ranges must be above 0";
    }
    if (!(joint.kp >= 0.0 && joint.kp <= kKpMax) || !(joint.kd >= 0.0 && joint.kd <= kKdMax)) {
      return which + "kp is 0 to 500 and kd 0 to 5, got " + std::to_string(joint.kp) + " and " +
             std::to_string(joint.kd);
    }
    if (!std::isfinite(joint.offset) || !std::isfinite(joint.scale) || joint.scale == 0.0) {
      return which + "scale must be finite and not 0, offset finite";
    }
    for (std::size_t other = 0; other < i; ++other) {
      const DamiaoJoint& before = options.joints[other];
      if (before.bus == joint.bus && (before.id == joint.id || before.feedback_id == joint.feedback_id)) {
        return which + "its ids are those of joint " + std::to_string(other) + " on the same bus";
      }
    }
  }
  for (const ArmWeight& weight : options.weights) {
    if (weight.first_joint + weight.chain.joint_count() > options.joints.size() ||
        weight.factors.size() != weight.chain.joint_count()) {
      return "a weight must lie within the joints and have a factor for each of its links";
    }
  }
  if (options.exchange_timeout <= 0 || options.ramp < 0 || options.silence <= 0 || options.keep_period <= 0 ||
      options.reopen_period <= 0) {
    return "times must be above 0";
  }
  return {};
}

}  // namespace molmoact2::bus
