// The model library that a Panda hands to libfranka 0.9: a client loads it and looks these functions up by
// name. Names, signatures and their column-by-column arrays are libfranka's (libfcimodels.h); J8 is the
// flange, J9 the end effector.
#include <algorithm>
#include <cstddef>

#include "emulation/franka_model.h"

namespace {

using molmoact2::emulation::FrankaLoad;
using molmoact2::emulation::FrankaModel;
using molmoact2::emulation::FrankaVector;
using molmoact2::emulation::Matrix4;

constexpr Matrix4 kIdentity{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
constexpr std::size_t kFlange = 7;
constexpr std::size_t kEffector = 8;

FrankaModel model(const double* q, const double* effector = kIdentity.data()) noexcept {
  FrankaVector joints{};
  Matrix4 pose{};
  std::copy_n(q, joints.size(), joints.begin());
  std::copy_n(effector, pose.size(), pose.begin());
  return {joints, pose};
}

FrankaLoad load(double mass, const double* centre, const double* inertia) noexcept {
  FrankaLoad load;
  load.mass = mass;
  std::copy_n(centre, load.centre.size(), load.centre.begin());
  if (inertia != nullptr) {
    std::copy_n(inertia, load.inertia.size(), load.inertia.begin());
  }
  return load;
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming,cppcoreguidelines-macro-usage,bugprone-macro-parentheses)
#define MOLMOACT2_FRANKA_POSE(NAME, FRAME) \
  void NAME(const double* q, double* pose) { std::ranges::copy(model(q).pose(FRAME), pose); }
#define MOLMOACT2_FRANKA_JACOBIAN(NAME, FRAME, BODY)             \
  void NAME(const double* q, double* jacobian) {                 \
    std::ranges::copy(model(q).jacobian(FRAME, BODY), jacobian); \
  }

#pragma GCC visibility push(default)
extern "C" {

MOLMOACT2_FRANKA_POSE(O_T_J1, 0)
MOLMOACT2_FRANKA_POSE(O_T_J2, 1)
MOLMOACT2_FRANKA_POSE(O_T_J3, 2)
MOLMOACT2_FRANKA_POSE(O_T_J4, 3)
MOLMOACT2_FRANKA_POSE(O_T_J5, 4)
MOLMOACT2_FRANKA_POSE(O_T_J6, 5)
MOLMOACT2_FRANKA_POSE(O_T_J7, 6)
MOLMOACT2_FRANKA_POSE(O_T_J8, kFlange)
void O_T_J9(const double* q, const double* effector, double* pose) {
  std::ranges::copy(model(q, effector).pose(kEffector), pose);
}

// The first joint's is the same at every position.
void O_J_J1(double* jacobian) {
  std::ranges::copy(model(FrankaVector{}.data()).jacobian(0, false), jacobian);
}
MOLMOACT2_FRANKA_JACOBIAN(O_J_J2, 1, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J3, 2, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J4, 3, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J5, 4, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J6, 5, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J7, 6, false)
MOLMOACT2_FRANKA_JACOBIAN(O_J_J8, kFlange, false)
void O_J_J9(const double* q, const double* effector, double* jacobian) {
  std::ranges::copy(model(q, effector).jacobian(kEffector, false), jacobian);
}

void Ji_J_J1(double* jacobian) {
  std::ranges::copy(model(FrankaVector{}.data()).jacobian(0, true), jacobian);
}
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J2, 1, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J3, 2, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J4, 3, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J5, 4, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J6, 5, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J7, 6, true)
MOLMOACT2_FRANKA_JACOBIAN(Ji_J_J8, kFlange, true)
void Ji_J_J9(const double* q, const double* effector, double* jacobian) {
  std::ranges::copy(model(q, effector).jacobian(kEffector, true), jacobian);
}

void M_NE(const double* q, const double* inertia, double mass, const double* centre, double* matrix) {
  std::ranges::copy(model(q).mass(load(mass, centre, inertia)), matrix);
}

void c_NE(const double* q, const double* dq, const double* inertia, double mass, const double* centre,
          double* torques) {
  FrankaVector velocities{};
  std::copy_n(dq, velocities.size(), velocities.begin());
  std::ranges::copy(model(q).coriolis(velocities, load(mass, centre, inertia)), torques);
}

void g_NE(const double* q, const double* gravity, double mass, const double* centre, double* torques) {
  const FrankaLoad borne = load(mass, centre, nullptr);
  std::ranges::copy(model(q).gravity({gravity[0], gravity[1], gravity[2]}, borne), torques);
}

}  // extern "C"
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming,cppcoreguidelines-macro-usage,bugprone-macro-parentheses)
