// Orthonormal DCT-II along the time axis of a chunk, and its inverse, as one matrix product in double.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace molmoact2::kernels {

// The cosines of one chunk length. Immutable once built, so that threads may share it.
class DctBasis {
 public:
  // length: time steps, 1..kMaxLength; std::invalid_argument otherwise.
  explicit DctBasis(int length);

  // A table has length^2 doubles: 8 MiB at the limit, 7 KiB at the release's 30 steps.
  static constexpr int kMaxLength = 1024;

  int length() const { return length_; }
  // (frequency, time) and (frequency,), as below.
  std::span<const double> cosines() const { return cosines_; }
  std::span<const double> norms() const { return norms_; }

  // chunk, coefficients: (length, dims) row-major; coefficients[k] = norm[k] * sum_t cos[k][t] * chunk[t].
  void forward(const double* chunk, int dims, double* coefficients) const;

  // One coefficient that is not zero.
  struct Term {
    int frequency;
    int dim;
    double coefficient;
  };

  // The transpose of forward(): chunk[t] = sum_k cos[k][t] * norm[k] * coefficients[k]. The terms, in order
  // of frequency, name what is not zero: after quantization a small part. Cosines of even frequencies are the
  // same from both ends of the chunk and those of odd ones opposite, so that their sums, each in the order of
  // the terms, are made for one half only; the second half is the first sum less the second. chunk: (length,
  // dims).
  void inverse(std::span<const Term> terms, int dims, double* chunk) const;

 private:
  const double* cosines(int frequency) const {
    return cosines_.data() + static_cast<std::size_t>(frequency) * static_cast<std::size_t>(length_);
  }

  int length_;
  int half_;                          // (length + 1) / 2, rounded up to whole vectors
  std::vector<double> half_cosines_;  // (frequency, half_): the first half of the below, then zeros
  std::vector<double> cosines_;       // (frequency, time): cos(pi * (2t + 1) * k / (2 * length))
  std::vector<double> norms_;         // (frequency,): sqrt(1 / length) for 0, else sqrt(2 / length)
};

// The bases of the chunk lengths in use, which are few: one per embodiment. Thread-safe.
class DctBasisCache {
 public:
  std::shared_ptr<const DctBasis> basis(int length);

 private:
  static constexpr std::size_t kMaxBases = 8;

  std::mutex mutex_;
  std::map<int, std::shared_ptr<const DctBasis>> bases_;
};

}  // namespace molmoact2::kernels
