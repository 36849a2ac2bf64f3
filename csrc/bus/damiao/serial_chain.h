// The weight of an arm as its motors feel it: gravity's torques of a serial chain of turning joints.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace molmoact2::bus {

inline constexpr std::size_t kMaxLinks = 8;

// One link and the joint that turns it. Everything is in the frame of the link before it, or in its own at
// angle 0.
struct ChainLink {
  std::array<double, 3> position{};                    // m: of the link's frame, in the frame before
  std::array<double, 4> rotation{1.0, 0.0, 0.0, 0.0};  // w x y z: of the link's frame at angle 0
  std::array<double, 3> axis{0.0, 0.0, 1.0};           // of the joint, in the link's frame
  double mass = 0.0;                                   // kg
  std::array<double, 3> center{};                      // m: of the mass, in the link's frame
};

// Empty when usable, otherwise what is wrong.
std::string check(const std::vector<ChainLink>& links);

class SerialChain {
 public:
  // `links` from the base on must pass check(); their rotations and axes are normalized here. `gravity` in
  // the base's frame, m/s^2: (0, 0, -9.81) for an arm that stands upright.
  SerialChain(std::vector<ChainLink> links, const std::array<double, 3>& gravity);

  std::size_t joint_count() const noexcept { return links_.size(); }
  // The torques (Nm) with which the motors balance the weight at these `angles` (rad): the gradient of the
  // potential energy. Both have joint_count() numbers.
  void torques(std::span<const double> angles, std::span<double> torques) const noexcept;

 private:
  std::vector<ChainLink> links_;
  std::array<double, 3> gravity_;
};

}  // namespace molmoact2::bus
