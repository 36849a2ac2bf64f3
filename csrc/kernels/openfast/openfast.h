// OpenFAST: a chunk of normalized actions as a short sequence of tokens, and back.
//
// Encoding: orthonormal DCT-II along time, times `scale`, rounded half to even, minus `min_token`, floored at
// 0, flattened time-major; each integer is one Unicode character of a text that byte-level BPE tokenizes.
// Decoding undoes every step but the rounding and the floor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/openfast/byte_level_bpe.h"
#include "kernels/openfast/dct.h"
#include "kernels/openfast/utf8.h"

#ifdef MOLMOACT2_HAVE_CUDA
struct CUstream_st;  // cudaStream_t is a pointer to it
#endif

namespace molmoact2::kernels {

inline constexpr int kMaxActionDims = 4096;

enum class OpenFastStatus : std::uint8_t {
  ok,
  bad_shape,           // steps outside 1..DctBasis::kMaxLength, or dims outside 1..kMaxActionDims
  not_finite,          // encode: the chunk holds NaN, infinity, or what overflows
  outside_alphabet,    // encode: a coefficient has no character in the tokenizer's alphabet
  token_out_of_range,  // decode: an id is not in the vocabulary
  not_text,            // decode: the bytes are no UTF-8, or hold U+FFFD, which stands for such bytes
  coefficient_count,   // decode: not exactly steps * dims coefficients
  cuda_failed,         // a kernel could not be launched
};

// One sentence for people, without a final period.
const char* describe(OpenFastStatus status);

// The bytes of a vocabulary one after another: id i has bytes[offsets[i]] .. bytes[offsets[i + 1] - 1].
struct VocabularyText {
  std::vector<std::int32_t> offsets;
  std::vector<std::uint8_t> bytes;  // padded with a few at the end, so that they can be copied in blocks
};

// A text of this many bytes without a fault holds more characters than the chunk has coefficients, so that
// nothing past it can matter.
MOLMOACT2_HOST_DEVICE constexpr int text_limit(int coefficients) {
  return kMaxUtf8Bytes * coefficients + kMaxUtf8Bytes;
}

// Thread-safe; the cosine tables are built on the first use of a chunk length.
class OpenFastCodec {
 public:
  // scale: positive and finite, else std::invalid_argument.
  OpenFastCodec(ByteLevelBpe bpe, double scale, std::int32_t min_token);

  const VocabularyText& text() const { return text_; }
  std::int32_t vocabulary_size() const { return bpe_.vocabulary_size(); }
  double scale() const { return scale_; }
  std::int32_t min_token() const { return min_token_; }

  // chunk: (steps, dims) row-major. On anything but ok, tokens is left empty.
  OpenFastStatus encode(const double* chunk, int steps, int dims, std::vector<std::int32_t>& tokens) const;

  // chunk: (steps, dims) row-major, written only on ok.
  OpenFastStatus decode(std::span<const std::int64_t> tokens, int steps, int dims, double* chunk) const;

 private:
  ByteLevelBpe bpe_;
  VocabularyText text_;
  double scale_;
  std::int32_t min_token_;
  mutable DctBasisCache bases_;
};

// The encoder's first half: scaled DCT coefficients rounded half to even, before `min_token` and the floor;
// what a tokenizer is fitted on. chunk, coefficients: (steps, dims) row-major, not overlapping.
OpenFastStatus quantize_chunk(const double* chunk, int steps, int dims, double scale, double* coefficients);

#ifdef MOLMOACT2_HAVE_CUDA

// OpenFastCodec::decode() on a GPU, for chunks of one shape: the same status and the same bits. The codec's
// tables and the cosines are uploaded once, to the device that is current, whose decoder it then is.
class CudaOpenFastDecoder {
 public:
  // std::invalid_argument when the shape is outside its bounds, std::runtime_error when the device has no
  // memory for the tables.
  CudaOpenFastDecoder(const OpenFastCodec& codec, int steps, int dims);
  CudaOpenFastDecoder(const CudaOpenFastDecoder&) = delete;
  CudaOpenFastDecoder& operator=(const CudaOpenFastDecoder&) = delete;
  ~CudaOpenFastDecoder();

  int steps() const;
  int dims() const;

  // Queues two kernels on `stream`; nothing is allocated or synchronized. Every pointer is to device memory:
  // tokens (capacity,), of which the first *count count; chunk (steps, dims), written only where *status, an
  // OpenFastStatus, becomes ok. A count below 0 or above `capacity` is reported there as bad_shape. Calls
  // share a workspace and must follow one another on the device. Returns ok or cuda_failed.
  OpenFastStatus decode(const std::int64_t* tokens, int capacity, const std::int32_t* count, double* chunk,
                        std::int32_t* status, CUstream_st* stream) const;

 private:
  class Tables;
  std::unique_ptr<Tables> tables_;
};

#endif

}  // namespace molmoact2::kernels
