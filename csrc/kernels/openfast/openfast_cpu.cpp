#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "kernels/openfast/openfast.h"

namespace molmoact2::kernels {
namespace {

constexpr double kPastUnicode = 0x110000;

bool usable_shape(int steps, int dims) {
  return steps >= 1 && steps <= DctBasis::kMaxLength && dims >= 1 && dims <= kMaxActionDims;
}

std::size_t element_count(int steps, int dims) {
  return static_cast<std::size_t>(steps) * static_cast<std::size_t>(dims);
}

OpenFastStatus quantize(const DctBasis& basis, const double* chunk, int dims, double scale,
                        double* coefficients) {
  const std::size_t count = element_count(basis.length(), dims);
  basis.forward(chunk, dims, coefficients);
  bool finite = true;
  for (std::size_t i = 0; i < count; ++i) {
    coefficients[i] = std::rint(coefficients[i] * scale);
    // Every input reaches some coefficient, and neither NaN nor infinity is lost on the way.
    finite = finite && std::isfinite(coefficients[i]);
  }
  return finite ? OpenFastStatus::ok : OpenFastStatus::not_finite;
}

}  // namespace

const char* describe(OpenFastStatus status) {
  switch (status) {
    case OpenFastStatus::ok:
      return "no error";
    case OpenFastStatus::bad_shape:
      return "the chunk's shape is not usable";
    case OpenFastStatus::not_finite:
      return "the chunk holds values that are not finite, or too large";
    case OpenFastStatus::outside_alphabet:
      return "a coefficient lies outside the tokenizer's alphabet";
    case OpenFastStatus::token_out_of_range:
      return "a token id is not in the vocabulary";
    case OpenFastStatus::not_text:
      return "the tokens' bytes are not valid UTF-8";
    case OpenFastStatus::coefficient_count:
      return "the tokens do not hold one coefficient per step and dimension";
    case OpenFastStatus::cuda_failed:
      return "a CUDA kernel could not be launched";
  }
  return "unknown status";
}

OpenFastCodec::OpenFastCodec(ByteLevelBpe bpe, double scale, std::int32_t min_token)
    : bpe_(std::move(bpe)), scale_(scale), min_token_(min_token) {
  if (!std::isfinite(scale) || scale <= 0.0) throw std::invalid_argument("scale must be positive and finite");
}

OpenFastStatus OpenFastCodec::encode(const double* chunk, int steps, int dims,
                                     std::vector<std::int32_t>& tokens) const {
  tokens.clear();
  if (!usable_shape(steps, dims)) return OpenFastStatus::bad_shape;
  std::vector<double> coefficients(element_count(steps, dims));
  const OpenFastStatus status = quantize(*bases_.basis(steps), chunk, dims, scale_, coefficients.data());
  if (status != OpenFastStatus::ok) return status;

  std::vector<char32_t> text;
  text.reserve(coefficients.size());
  for (const double coefficient : coefficients) {
    const double code = std::max(coefficient - static_cast<double>(min_token_), 0.0);
    if (code >= kPastUnicode) return OpenFastStatus::outside_alphabet;
    text.push_back(static_cast<char32_t>(code));
  }
  if (!bpe_.encode(text, tokens)) {
    tokens.clear();
    return OpenFastStatus::outside_alphabet;
  }
  return OpenFastStatus::ok;
}

OpenFastStatus OpenFastCodec::decode(std::span<const std::int64_t> tokens, int steps, int dims,
                                     double* chunk) const {
  if (!usable_shape(steps, dims)) return OpenFastStatus::bad_shape;
  const std::size_t expected = element_count(steps, dims);
  std::vector<double> coefficients(expected);
  std::size_t count = 0;
  Utf8Decoder utf8;
  for (const std::int64_t token : tokens) {
    if (token < 0 || token >= vocabulary_size()) return OpenFastStatus::token_out_of_range;
    for (const char byte : bpe_.bytes_of(static_cast<std::int32_t>(token))) {
      const Utf8Decoder::Step step = utf8.feed(static_cast<std::uint8_t>(byte));
      if (step == Utf8Decoder::Step::invalid) return OpenFastStatus::not_text;
      if (step == Utf8Decoder::Step::needs_more) continue;
      if (utf8.code_point() == kReplacementCharacter) return OpenFastStatus::not_text;
      if (count == expected) return OpenFastStatus::coefficient_count;
      coefficients[count] = static_cast<double>(utf8.code_point());
      ++count;
    }
  }
  if (!utf8.complete()) return OpenFastStatus::not_text;
  if (count != expected) return OpenFastStatus::coefficient_count;
  // Small integers are exact in double, so the sum is the public code's; its division is kept as well.
  for (double& coefficient : coefficients) coefficient = (coefficient + min_token_) / scale_;
  bases_.basis(steps)->inverse(coefficients.data(), dims, chunk);
  return OpenFastStatus::ok;
}

OpenFastStatus quantize_chunk(const double* chunk, int steps, int dims, double scale, double* coefficients) {
  if (!usable_shape(steps, dims)) return OpenFastStatus::bad_shape;
  return quantize(DctBasis(steps), chunk, dims, scale, coefficients);
}

}  // namespace molmoact2::kernels
