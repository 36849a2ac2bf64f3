#include "bus/damiao/serial_chain.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace molmoact2::bus {

namespace {

using Vector = std::array<double, 3>;
using Quaternion = std::array<double, 4>;

Vector add(const Vector& a, const Vector& b) noexcept { return {a[0] + b[0], a[1] + b[1], a[2] + b[2]}; }
Vector scale(const Vector& a, double factor) noexcept {
  return {a[0] * factor, a[1] * factor, a[2] * factor};
}
double dot(const Vector& a, const Vector& b) noexcept { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
Vector cross(const Vector& a, const Vector& b) noexcept {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

Quaternion multiply(const Quaternion& a, const Quaternion& b) noexcept {
  return {a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
          a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
          a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
          a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0]};
}

// `rotation` has length 1.
Vector rotate(const Quaternion& rotation, const Vector& vector) noexcept {
  const Vector imaginary{rotation[1], rotation[2], rotation[3]};
  const Vector twice = scale(cross(imaginary, vector), 2.0);
  return add(add(vector, scale(twice, rotation[0])), cross(imaginary, twice));
}

template <std::size_t N>
double length(const std::array<double, N>& values) noexcept {
  double sum = 0.0;
  for (const double value : values) {
    sum += value * value;
  }
  return std::sqrt(sum);
}

template <std::size_t N>
bool is_finite(const std::array<double, N>& values) noexcept {
  return std::ranges::all_of(values, [](double value) { return std::isfinite(value); });
}

template <std::size_t N>
void normalize(std::array<double, N>& values) noexcept {
  const double norm = length(values);
  for (double& value : values) {
    value /= norm;
  }
}

}  // namespace

std::string check(const std::vector<ChainLink>& links) {
  if (links.empty() || links.size() > kMaxLinks) {
    return "a chain has 1 to " + std::to_string(kMaxLinks) + " links, got " + std::to_string(links.size());
  }
  for (std::size_t i = 0; i < links.size(); ++i) {
    const ChainLink& link = links[i];
    const std::string which = "link " + std::to_string(i + 1) + ": ";
    if (!is_finite(link.position) || !is_finite(link.rotation) || !is_finite(link.axis) ||
        !is_finite(link.center)) {
      return which + "every number must be finite";
    }
    if (!(link.mass >= 0.0) || !std::isfinite(link.mass)) {
      return which + "mass must be at least 0, got " + std::to_string(link.mass);
    }
    if (!(length(link.rotation) > 1e-6) || !(length(link.axis) > 1e-6)) {
      return which + "rotation and axis must not be 0";
    }
  }
  return {};
}

SerialChain::SerialChain(std::vector<ChainLink> links, const std::array<double, 3>& gravity)
    : links_(std::move(links)), gravity_(gravity) {
  for (ChainLink& link : links_) {
    normalize(link.rotation);
    normalize(link.axis);
  }
}

void SerialChain::torques(std::span<const double> angles, std::span<double> torques) const noexcept {
  std::array<Vector, kMaxLinks> origins;
  std::array<Vector, kMaxLinks> axes;
  std::array<Vector, kMaxLinks> centers;
  Vector origin{};
  Quaternion rotation{1.0, 0.0, 0.0, 0.0};
  for (std::size_t i = 0; i < links_.size(); ++i) {
    const ChainLink& link = links_[i];
    origin = add(origin, rotate(rotation, link.position));
    const Quaternion fixed = multiply(rotation, link.rotation);
    const double half = 0.5 * angles[i];
    const double sine = std::sin(half);
    rotation =
        multiply(fixed, {std::cos(half), sine * link.axis[0], sine * link.axis[1], sine * link.axis[2]});
    normalize(rotation);
    origins[i] = origin;
    axes[i] = rotate(fixed, link.axis);
    centers[i] = add(origin, rotate(rotation, link.center));
  }
  // A joint carries everything behind it: kept as mass and mass-weighted center, from the last link inwards.
  double mass = 0.0;
  Vector moment{};
  for (std::size_t i = links_.size(); i-- > 0;) {
    mass += links_[i].mass;
    moment = add(moment, scale(centers[i], links_[i].mass));
    const Vector lever = add(moment, scale(origins[i], -mass));
    torques[i] = -dot(gravity_, cross(axes[i], lever));
  }
}

}  // namespace molmoact2::bus
