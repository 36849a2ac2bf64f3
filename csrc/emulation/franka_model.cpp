#include "emulation/franka_model.h"

#include <algorithm>
#include <cmath>

namespace molmoact2::emulation {

namespace {

// Craig's convention: length, offset and twist (in quarter turns) before each joint.
constexpr FrankaVector kLength{0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088};
constexpr FrankaVector kOffset{0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0};
constexpr std::array<int, kFrankaJoints> kQuarters{0, -1, 1, 1, -1, 1, 1};
constexpr double kFlangeOffset = 0.107;

constexpr FrankaVector kMass{3.0, 3.0, 2.6, 2.5, 2.0, 1.4, 0.5};
constexpr std::array<Vector3, kFrankaJoints> kCentre{{{0.0, -0.03, -0.06},
                                                      {0.0, -0.06, 0.03},
                                                      {0.04, 0.02, -0.04},
                                                      {-0.04, 0.04, 0.03},
                                                      {0.0, 0.03, -0.10},
                                                      {0.05, -0.01, 0.01},
                                                      {0.0, 0.0, 0.06}}};
constexpr double kBallRadius = 0.07;  // each link's inertia is that of a ball with its mass

Vector3 operator+(const Vector3& a, const Vector3& b) noexcept {
  return {a[0] + b[0], a[1] + b[1], a[2] + b[2]};
}

Vector3 operator-(const Vector3& a, const Vector3& b) noexcept {
  return {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
}

Vector3 operator*(double factor, const Vector3& a) noexcept {
  return {factor * a[0], factor * a[1], factor * a[2]};
}

double dot(const Vector3& a, const Vector3& b) noexcept { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

Vector3 cross(const Vector3& a, const Vector3& b) noexcept {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

Vector3 column(const Matrix3& m, std::size_t index) noexcept {
  return {m[3 * index], m[3 * index + 1], m[3 * index + 2]};
}

Vector3 apply(const Matrix3& m, const Vector3& v) noexcept {
  return v[0] * column(m, 0) + v[1] * column(m, 1) + v[2] * column(m, 2);
}

Matrix3 multiply(const Matrix3& a, const Matrix3& b) noexcept {
  Matrix3 product{};
  for (std::size_t i = 0; i < 3; ++i) {
    std::ranges::copy(apply(a, column(b, i)), product.data() + 3 * i);
  }
  return product;
}

Matrix3 transpose(const Matrix3& m) noexcept {
  return {m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]};
}

Matrix3 rotation_of(const Matrix4& pose) noexcept {
  return {pose[0], pose[1], pose[2], pose[4], pose[5], pose[6], pose[8], pose[9], pose[10]};
}

Vector3 origin_of(const Matrix4& pose) noexcept { return {pose[12], pose[13], pose[14]}; }

// A rotation about x by quarter turns, then about the new z by `angle`.
Matrix3 joint_rotation(int quarters, double angle) noexcept {
  const double cos_twist = quarters == 0 ? 1.0 : 0.0;
  const double sin_twist = quarters;
  const double c = std::cos(angle);
  const double s = std::sin(angle);
  return {c, s * cos_twist, s * sin_twist, -s, c * cos_twist, c * sin_twist, 0.0, -sin_twist, cos_twist};
}

}  // namespace

FrankaModel::FrankaModel(const FrankaVector& joints, const Matrix4& flange_to_effector) noexcept {
  Frame frame{{1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0}, {}};
  for (std::size_t i = 0; i < kFrankaJoints; ++i) {
    const Vector3 start = frame.origin + kLength[i] * column(frame.rotation, 0);
    frame.rotation = multiply(frame.rotation, joint_rotation(kQuarters[i], joints[i]));
    frame.origin = start + kOffset[i] * column(frame.rotation, 2);
    frames_[i] = frame;
  }
  frame.origin = frame.origin + kFlangeOffset * column(frame.rotation, 2);
  frames_[kFrankaJoints] = frame;
  frame.origin = frame.origin + apply(frame.rotation, origin_of(flange_to_effector));
  frame.rotation = multiply(frame.rotation, rotation_of(flange_to_effector));
  frames_[kFrankaJoints + 1] = frame;
}

Matrix4 FrankaModel::pose(std::size_t frame) const noexcept {
  const Matrix3& r = frames_[frame].rotation;
  const Vector3& p = frames_[frame].origin;
  return {r[0], r[1], r[2], 0.0, r[3], r[4], r[5], 0.0, r[6], r[7], r[8], 0.0, p[0], p[1], p[2], 1.0};
}

Vector3 FrankaModel::axis(std::size_t joint) const noexcept { return column(frames_[joint].rotation, 2); }

Jacobian FrankaModel::jacobian(std::size_t frame, bool body) const noexcept {
  Jacobian jacobian{};
  const Matrix3 back = transpose(frames_[frame].rotation);
  for (std::size_t joint = 0; joint <= std::min(frame, kFrankaJoints - 1); ++joint) {
    const Vector3 angular = axis(joint);
    const Vector3 linear = cross(angular, frames_[frame].origin - frames_[joint].origin);
    double* const place = jacobian.data() + 6 * joint;
    std::ranges::copy(body ? apply(back, linear) : linear, place);
    std::ranges::copy(body ? apply(back, angular) : angular, place + 3);
  }
  return jacobian;
}

std::array<FrankaModel::Body, kFrankaJoints + 1> FrankaModel::bodies(const FrankaLoad& load) const noexcept {
  std::array<Body, kFrankaJoints + 1> bodies{};
  for (std::size_t i = 0; i < kFrankaJoints; ++i) {
    const double moment = 0.4 * kMass[i] * kBallRadius * kBallRadius;
    bodies[i].mass = kMass[i];
    bodies[i].centre = frames_[i].origin + apply(frames_[i].rotation, kCentre[i]);
    bodies[i].inertia = {moment, 0.0, 0.0, 0.0, moment, 0.0, 0.0, 0.0, moment};
  }
  const Frame& flange = frames_[kFrankaJoints];
  bodies[kFrankaJoints].mass = load.mass;
  bodies[kFrankaJoints].centre = flange.origin + apply(flange.rotation, load.centre);
  bodies[kFrankaJoints].inertia =
      multiply(multiply(flange.rotation, load.inertia), transpose(flange.rotation));
  return bodies;
}

std::array<double, kFrankaJoints * kFrankaJoints> FrankaModel::mass(const FrankaLoad& load) const noexcept {
  std::array<double, kFrankaJoints * kFrankaJoints> matrix{};
  const auto bodies = this->bodies(load);
  for (std::size_t k = 0; k < bodies.size(); ++k) {
    const std::size_t last = std::min(k, kFrankaJoints - 1);
    for (std::size_t i = 0; i <= last; ++i) {
      const Vector3 moved = cross(axis(i), bodies[k].centre - frames_[i].origin);
      const Vector3 turned = apply(bodies[k].inertia, axis(i));
      for (std::size_t j = 0; j <= last; ++j) {
        const Vector3 other = cross(axis(j), bodies[k].centre - frames_[j].origin);
        matrix[kFrankaJoints * i + j] += bodies[k].mass * dot(moved, other) + dot(turned, axis(j));
      }
    }
  }
  return matrix;
}

FrankaVector FrankaModel::gravity(const Vector3& gravity, const FrankaLoad& load) const noexcept {
  FrankaVector torques{};
  const auto bodies = this->bodies(load);
  for (std::size_t k = 0; k < bodies.size(); ++k) {
    for (std::size_t i = 0; i <= std::min(k, kFrankaJoints - 1); ++i) {
      const Vector3 moved = cross(axis(i), bodies[k].centre - frames_[i].origin);
      torques[i] -= bodies[k].mass * dot(moved, gravity);
    }
  }
  return torques;
}

FrankaVector FrankaModel::coriolis(const FrankaVector& velocities, const FrankaLoad& load) const noexcept {
  FrankaVector torques{};
  const auto bodies = this->bodies(load);
  Vector3 turning{};       // angular velocity of the present link
  Vector3 turning_more{};  // its angular acceleration
  Vector3 pulled{};        // acceleration of its joint's origin
  Vector3 before{};        // where the origin of the link before it is
  for (std::size_t k = 0; k < bodies.size(); ++k) {
    if (k < kFrankaJoints) {
      const Vector3 way = frames_[k].origin - before;
      pulled = pulled + cross(turning_more, way) + cross(turning, cross(turning, way));
      before = frames_[k].origin;
      const Vector3 own = velocities[k] * axis(k);
      turning_more = turning_more + cross(turning, own);
      turning = turning + own;
    }
    const Vector3 arm = bodies[k].centre - before;
    const Vector3 acceleration = pulled + cross(turning_more, arm) + cross(turning, cross(turning, arm));
    const Vector3 force = bodies[k].mass * acceleration;
    const Vector3 moment =
        apply(bodies[k].inertia, turning_more) + cross(turning, apply(bodies[k].inertia, turning));
    for (std::size_t i = 0; i <= std::min(k, kFrankaJoints - 1); ++i) {
      torques[i] += dot(axis(i), cross(bodies[k].centre - frames_[i].origin, force) + moment);
    }
  }
  return torques;
}

}  // namespace molmoact2::emulation
