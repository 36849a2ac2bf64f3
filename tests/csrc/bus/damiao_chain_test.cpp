// Gravity's torques against the slope of the potential energy, which is worked out here the long way.
#include <array>
#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "bus/damiao/serial_chain.h"
#include "check.h"

using namespace molmoact2::bus;

namespace {

using Vector = std::array<double, 3>;
using Matrix = std::array<Vector, 3>;  // rows

constexpr Vector kGravity{0.3, -1.1, -9.7};

Matrix matrix_of(const std::array<double, 4>& quaternion) {
  double norm = 0;
  for (const double q : quaternion) norm += q * q;
  const auto [w, x, y, z] =
      std::array<double, 4>{quaternion[0] / std::sqrt(norm), quaternion[1] / std::sqrt(norm),
                            quaternion[2] / std::sqrt(norm), quaternion[3] / std::sqrt(norm)};
  return {Vector{1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
          Vector{2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
          Vector{2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}};
}

Vector times(const Matrix& matrix, const Vector& vector) {
  Vector result{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t k = 0; k < 3; ++k) result[i] += matrix[i][k] * vector[k];
  }
  return result;
}

Matrix times(const Matrix& a, const Matrix& b) {
  Matrix result{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t j = 0; j < 3; ++j) result[i][j] += a[i][k] * b[k][j];
    }
  }
  return result;
}

// Rotation about a unit axis, after Rodrigues.
Matrix turn(const Vector& axis, double angle) {
  const double c = std::cos(angle);
  const double s = std::sin(angle);
  const auto [x, y, z] = axis;
  return {Vector{c + x * x * (1 - c), x * y * (1 - c) - z * s, x * z * (1 - c) + y * s},
          Vector{y * x * (1 - c) + z * s, c + y * y * (1 - c), y * z * (1 - c) - x * s},
          Vector{z * x * (1 - c) - y * s, z * y * (1 - c) + x * s, c + z * z * (1 - c)}};
}

double energy(const std::vector<ChainLink>& links, const std::vector<double>& angles) {
  Matrix rotation{Vector{1, 0, 0}, Vector{0, 1, 0}, Vector{0, 0, 1}};
  Vector origin{};
  double sum = 0;
  for (std::size_t i = 0; i < links.size(); ++i) {
    const Vector shift = times(rotation, links[i].position);
    for (std::size_t k = 0; k < 3; ++k) origin[k] += shift[k];
    rotation = times(times(rotation, matrix_of(links[i].rotation)), turn(links[i].axis, angles[i]));
    const Vector center = times(rotation, links[i].center);
    for (std::size_t k = 0; k < 3; ++k) sum -= links[i].mass * kGravity[k] * (origin[k] + center[k]);
  }
  return sum;
}

}  // namespace

CASE("the torques of any chain are the slope of its potential energy") {
  std::mt19937 random(11);
  const auto draw = [&random](double size) {
    return std::uniform_real_distribution<double>(-size, size)(random);
  };
  for (int round = 0; round < 50; ++round) {
    std::vector<ChainLink> links(6);
    std::vector<double> angles;
    for (ChainLink& link : links) {
      link.position = {draw(0.3), draw(0.3), draw(0.3)};
      link.rotation = {draw(1), draw(1), draw(1), draw(1) + 1.5};
      const double around = draw(std::numbers::pi);
      const double up = draw(1);
      link.axis = {std::sqrt(1 - up * up) * std::cos(around), std::sqrt(1 - up * up) * std::sin(around), up};
      link.mass = std::abs(draw(2));
      link.center = {draw(0.2), draw(0.2), draw(0.2)};
      angles.push_back(draw(3));
    }
    REQUIRE(check(links).empty());
    const SerialChain chain(links, kGravity);
    std::array<double, 6> torques{};
    chain.torques(angles, torques);
    for (std::size_t i = 0; i < 6; ++i) {
      constexpr double kStep = 1e-5;
      std::vector<double> above = angles;
      std::vector<double> below = angles;
      above[i] += kStep;
      below[i] -= kStep;
      const double slope = (energy(links, above) - energy(links, below)) / (2 * kStep);
      CHECK_NEAR(torques[i], slope, 1e-7);  // Nm; the differences' own error
    }
  }
}

CASE("a chain that cannot be is refused") {
  std::vector<ChainLink> links(2);
  CHECK(check(links).empty());
  links[1].mass = -1;
  CHECK(!check(links).empty());
  links[1] = ChainLink{};
  links[1].axis = {0, 0, 0};
  CHECK(!check(links).empty());
  links[1] = ChainLink{};
  links[0].center[2] = std::nan("");
  CHECK(!check(links).empty());
  CHECK(!check({}).empty());
  CHECK(!check(std::vector<ChainLink>(kMaxLinks + 1)).empty());
}
