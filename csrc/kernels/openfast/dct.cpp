#include "kernels/openfast/dct.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace molmoact2::kernels {
namespace {

constexpr int kVector = 4;  // numbers that the innermost loop takes at once

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

DctBasis::DctBasis(int length)
    : length_(length), half_(((length + 1) / 2 + kVector - 1) / kVector * kVector) {
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
  half_cosines_.resize(size * static_cast<std::size_t>(half_));
  for (int k = 0; k < length; ++k) {
    std::copy_n(cosines(k), (length + 1) / 2, half_cosines_.begin() + static_cast<std::ptrdiff_t>(k) * half_);
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

void DctBasis::inverse(std::span<const Term> terms, int dims, double* chunk) const {
  // (dims, even and odd, half): time is contiguous.
  std::vector<double> sums(2 * static_cast<std::size_t>(half_) * static_cast<std::size_t>(dims));
  for (const Term& term : terms) {
    const double coefficient = term.coefficient * norms_[static_cast<std::size_t>(term.frequency)];
    const double* cosine = half_cosines_.data() + static_cast<std::ptrdiff_t>(term.frequency) * half_;
    double* sum = sums.data() + static_cast<std::ptrdiff_t>(2 * term.dim + term.frequency % 2) * half_;
    for (int t = 0; t < half_; t += kVector) {
      for (int lane = 0; lane < kVector; ++lane) sum[lane] += coefficient * cosine[lane];
      sum += kVector;
      cosine += kVector;
    }
  }
  double* first = chunk;
  double* last = chunk + static_cast<std::ptrdiff_t>(length_ - 1) * dims;
  for (int t = 0; t < (length_ + 1) / 2; ++t) {
    const double* even = sums.data() + t;
    for (int d = 0; d < dims; ++d) {
      const double odd = even[half_];
      last[d] = *even - odd;
      first[d] = *even + odd;  // in the middle of the chunk, where both are one, odd is zero
      even += static_cast<std::ptrdiff_t>(2) * half_;
    }
    first += dims;
    last -= dims;
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
