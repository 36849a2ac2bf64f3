#include "kernels/openfast/dct.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace molmoact2::kernels {
namespace {

// cos(pi * m / (2 * length)) by symmetry from the first quadrant: equal angles give equal bits, so that a
// constant chunk has exact zeros where the mathematics has them.
double quarter_cosine(long m, long length) {
  m %= 4 * length;
  if (m > 2 * length) m = 4 * length - m;
  if (m == length) return 0.0;
  const bool second_quadrant = m > length;
  if (second_quadrant) m = 2 * length - m;
  const double value = std::cos(std::numbers::pi * static_cast<double>(m) / static_cast<double>(2 * length));
  return second_quadrant ? -value : value;
}

}  // namespace

DctBasis::DctBasis(int length) : length_(length) {
  if (length < 1 || length > kMaxLength) {
    throw std::invalid_argument("a chunk has 1 to " + std::to_string(kMaxLength) + " steps, not " +
                                std::to_string(length));
  }
  const auto size = static_cast<std::size_t>(length);
  cosines_.resize(size * size);
  norms_.assign(size, std::sqrt(2.0 / length));
  norms_[0] = std::sqrt(1.0 / length);
  auto entry = cosines_.begin();
  for (long k = 0; k < length; ++k) {
    for (long t = 0; t < length; ++t) *entry++ = quarter_cosine((2 * t + 1) * k, length);
  }
}

void DctBasis::forward(const double* chunk, int dims, double* coefficients) const {
  for (int k = 0; k < length_; ++k) {
    double* const row = coefficients + static_cast<std::ptrdiff_t>(k) * dims;
    std::fill_n(row, dims, 0.0);
    for (int t = 0; t < length_; ++t) {
      const double cosine = cosines(k)[t];
      const double* const step = chunk + static_cast<std::ptrdiff_t>(t) * dims;
      for (int d = 0; d < dims; ++d) row[d] += cosine * step[d];
    }
    // The norm comes after the sum: for frequency 0 the sum is then one of plain values, with less rounding.
    const double norm = norms_[static_cast<std::size_t>(k)];
    for (int d = 0; d < dims; ++d) row[d] *= norm;
  }
}

void DctBasis::inverse(const double* coefficients, int dims, double* chunk) const {
  const auto steps = static_cast<std::size_t>(length_);
  std::vector<double> by_dim(steps * static_cast<std::size_t>(dims),
                             0.0);  // (dims, length): time is contiguous
  for (int k = 0; k < length_; ++k) {
    const double* const cosine = cosines(k);
    const double norm = norms_[static_cast<std::size_t>(k)];
    for (int d = 0; d < dims; ++d) {
      const double coefficient = *coefficients++ * norm;
      if (coefficient == 0.0) continue;
      double* const series = by_dim.data() + static_cast<std::size_t>(d) * steps;
      for (std::size_t t = 0; t < steps; ++t) series[t] += coefficient * cosine[t];
    }
  }
  for (std::size_t t = 0; t < steps; ++t) {
    for (std::size_t at = t; at < by_dim.size(); at += steps) *chunk++ = by_dim[at];
  }
}

std::shared_ptr<const DctBasis> DctBasisCache::basis(int length) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = bases_.find(length); found != bases_.end()) return found->second;
  auto built = std::make_shared<const DctBasis>(length);
  if (bases_.size() == kMaxBases) bases_.clear();  // bounds memory; whoever uses one still holds it
  bases_.emplace(length, built);
  return built;
}

}  // namespace molmoact2::kernels
