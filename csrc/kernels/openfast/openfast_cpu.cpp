#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
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

constexpr std::size_t kCopyBlock = 16;

VocabularyText vocabulary_text(const ByteLevelBpe& bpe) {
  VocabularyText text;
  text.offsets.push_back(0);
  for (std::int32_t id = 0; id < bpe.vocabulary_size(); ++id) {
    for (const char byte : bpe.bytes_of(id)) text.bytes.push_back(static_cast<std::uint8_t>(byte));
    text.offsets.push_back(static_cast<std::int32_t>(text.bytes.size()));
  }
  text.bytes.resize(text.bytes.size() + kCopyBlock);
  return text;
}

// A character that does not stand for zero.
struct Code {
  std::uint32_t index;
  char32_t character;
};

// The character of coefficient zero; beyond Unicode where there is none.
char32_t zero_character(std::int32_t min_token) {
  return static_cast<char32_t>(-static_cast<std::int64_t>(min_token));
}

struct Parsed {
  OpenFastStatus fault = OpenFastStatus::ok;  // the first in the text
  std::size_t characters = 0;
  std::size_t codes = 0;
  bool complete = true;  // the text does not end within a character
};

// codes: (expected,).
Parsed parse(std::span<const std::uint8_t> text, std::size_t expected, char32_t zero, Code* codes) {
  constexpr std::uint64_t kEveryByte = 0x0101010101010101U;
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  Parsed parsed;
  Utf8Decoder utf8;
  const auto put = [&](char32_t character) {
    if (character != zero) {
      codes[parsed.codes++] = {static_cast<std::uint32_t>(parsed.characters), character};
    }
    ++parsed.characters;
  };
  for (std::size_t at = 0; at < text.size();) {
    // Eight characters of one byte each, most of them zero: the usual text.
    if constexpr (std::endian::native == std::endian::little) {
      while (zero < 0x80 && utf8.complete() && at + kWord <= text.size() &&
             parsed.characters + kWord <= expected) {
        std::uint64_t word = 0;
        std::memcpy(&word, text.data() + at, kWord);
        if ((word & (kEveryByte << 7)) != 0) break;
        for (std::uint64_t others = word ^ (kEveryByte * zero); others != 0;) {
          const auto byte = static_cast<std::uint32_t>(std::countr_zero(others)) / 8;
          codes[parsed.codes++] = {static_cast<std::uint32_t>(parsed.characters) + byte, text[at + byte]};
          others &= ~(std::uint64_t{0xFF} << (8 * byte));
        }
        parsed.characters += kWord;
        at += kWord;
      }
      if (at == text.size()) break;
    }
    const Utf8Decoder::Step step = utf8.feed(text[at++]);
    if (step == Utf8Decoder::Step::needs_more) continue;
    if (step == Utf8Decoder::Step::invalid || utf8.code_point() == kReplacementCharacter) {
      parsed.fault = OpenFastStatus::not_text;
      return parsed;
    }
    if (parsed.characters == expected) {
      parsed.fault = OpenFastStatus::coefficient_count;
      return parsed;
    }
    put(utf8.code_point());
  }
  parsed.complete = utf8.complete();
  return parsed;
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
    : bpe_(std::move(bpe)), text_(vocabulary_text(bpe_)), scale_(scale), min_token_(min_token) {
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
  const auto limit = static_cast<std::size_t>(text_limit(steps * dims));
  const auto text = std::make_unique_for_overwrite<std::uint8_t[]>(limit + kCopyBlock);
  std::size_t length = 0;
  bool unknown_token = false;
  for (const std::int64_t token : tokens) {
    unknown_token = token < 0 || token >= vocabulary_size();
    if (unknown_token || length >= limit) break;
    const auto begin = static_cast<std::size_t>(text_.offsets[static_cast<std::size_t>(token)]);
    const auto size = static_cast<std::size_t>(text_.offsets[static_cast<std::size_t>(token) + 1]) - begin;
    // One block for most tokens: their lengths are too irregular to branch on.
    std::memcpy(text.get() + length, text_.bytes.data() + begin, kCopyBlock);
    if (size > kCopyBlock) {
      const std::size_t room = limit + kCopyBlock - length;
      std::memcpy(text.get() + length, text_.bytes.data() + begin, std::min(size, room));
    }
    length += size;
  }
  length = std::min(length, limit);

  const std::size_t expected = element_count(steps, dims);
  const auto codes = std::make_unique_for_overwrite<Code[]>(expected);
  const Parsed parsed = parse({text.get(), length}, expected, zero_character(min_token_), codes.get());
  if (parsed.fault != OpenFastStatus::ok) return parsed.fault;
  if (unknown_token) return OpenFastStatus::token_out_of_range;
  if (!parsed.complete) return OpenFastStatus::not_text;
  if (parsed.characters != expected) return OpenFastStatus::coefficient_count;

  const auto terms = std::make_unique_for_overwrite<DctBasis::Term[]>(parsed.codes);
  const auto width = static_cast<std::uint32_t>(dims);
  std::uint32_t row = 0;  // codes before the frequency at hand
  int frequency = 0;
  for (std::size_t i = 0; i < parsed.codes; ++i) {
    for (; codes[i].index - row >= width; row += width) ++frequency;
    // Small integers are exact in double, so the sum is the public code's; its division is kept as well.
    const double coefficient = (static_cast<double>(codes[i].character) + min_token_) / scale_;
    terms[i] = {frequency, static_cast<int>(codes[i].index - row), coefficient};
  }
  bases_.basis(steps)->inverse({terms.get(), parsed.codes}, dims, chunk);
  return OpenFastStatus::ok;
}

OpenFastStatus quantize_chunk(const double* chunk, int steps, int dims, double scale, double* coefficients) {
  if (!usable_shape(steps, dims)) return OpenFastStatus::bad_shape;
  return quantize(DctBasis(steps), chunk, dims, scale, coefficients);
}

}  // namespace molmoact2::kernels
