// A Franka arm as a chain of rigid bodies: poses, Jacobians, and what gravity, motion and acceleration ask of
// its joints. Kinematics from the maker's data sheet; masses are those of franka_urdf.py, about the right
// size and no more. Matrices are column by column, rad, metres, kilograms.
#pragma once

#include <array>
#include <cstddef>

namespace molmoact2::emulation {

inline constexpr std::size_t kFrankaJoints = 7;
// Frames: of the seven joints, then the flange, then the end effector.
inline constexpr std::size_t kFrankaFrames = 9;

using FrankaVector = std::array<double, kFrankaJoints>;
using Vector3 = std::array<double, 3>;
using Matrix3 = std::array<double, 9>;
using Matrix4 = std::array<double, 16>;
using Jacobian = std::array<double, 6 * kFrankaJoints>;  // rows: linear x, y, z, angular x, y, z

// What the flange bears besides the arm, the hand included.
struct FrankaLoad {
  double mass = 0.0;
  Vector3 centre{};   // in the flange's frame
  Matrix3 inertia{};  // about the centre
};

class FrankaModel {
 public:
  // `flange_to_effector` is the end effector's pose in the flange.
  FrankaModel(const FrankaVector& joints, const Matrix4& flange_to_effector) noexcept;

  // Frame 0 to 8.
  Matrix4 pose(std::size_t frame) const noexcept;
  // Of the frame's origin, in the base's axes or, `body`, in its own.
  Jacobian jacobian(std::size_t frame, bool body) const noexcept;

  std::array<double, kFrankaJoints * kFrankaJoints> mass(const FrankaLoad& load) const noexcept;
  // Torques that hold the arm against `gravity`, an acceleration in the base's axes.
  FrankaVector gravity(const Vector3& gravity, const FrankaLoad& load) const noexcept;
  // Torques that velocities ask for, at no acceleration and without gravity.
  FrankaVector coriolis(const FrankaVector& velocities, const FrankaLoad& load) const noexcept;

 private:
  struct Frame {
    Matrix3 rotation{};
    Vector3 origin{};
  };
  struct Body {
    double mass = 0.0;
    Vector3 centre{};   // in the base's axes
    Matrix3 inertia{};  // about the centre, in the base's axes
  };

  // Bodies of the joints in their order, then the load, which moves with the last.
  std::array<Body, kFrankaJoints + 1> bodies(const FrankaLoad& load) const noexcept;
  Vector3 axis(std::size_t joint) const noexcept;

  std::array<Frame, kFrankaFrames> frames_{};
};

}  // namespace molmoact2::emulation
