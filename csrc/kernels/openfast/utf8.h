// Strict UTF-8, one byte at a time, the same on the CPU and in CUDA kernels: no overlong forms, no
// surrogates, nothing past U+10FFFF.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MOLMOACT2_HOST_DEVICE __host__ __device__
#else
#define MOLMOACT2_HOST_DEVICE
#endif

namespace molmoact2::kernels {

// U+FFFD: what decoders put where bytes are no text, and so no coefficient of its own.
inline constexpr char32_t kReplacementCharacter = 0xFFFD;
inline constexpr int kMaxUtf8Bytes = 4;  // of one character

class Utf8Decoder {
 public:
  enum class Step : std::uint8_t { needs_more, code_point, invalid };

  // Takes one byte; after Step::code_point, code_point() is the character that it completed. After
  // Step::invalid the object is spent.
  MOLMOACT2_HOST_DEVICE Step feed(std::uint8_t byte) {
    if (remaining_ > 0 || byte >= 0x80) return feed_multibyte(byte);
    code_point_ = byte;
    return Step::code_point;
  }
  MOLMOACT2_HOST_DEVICE char32_t code_point() const { return code_point_; }
  // How many bytes the character that has begun still needs. A sequence may only end at 0.
  MOLMOACT2_HOST_DEVICE int remaining() const { return remaining_; }
  MOLMOACT2_HOST_DEVICE bool complete() const { return remaining_ == 0; }

 private:
  MOLMOACT2_HOST_DEVICE Step feed_multibyte(std::uint8_t byte) {
    if (remaining_ > 0) {
      if (byte < lowest_ || byte > highest_) return Step::invalid;
      lowest_ = 0x80;
      highest_ = 0xBF;
      code_point_ = (code_point_ << 6) | (byte & 0x3FU);
      return --remaining_ == 0 ? Step::code_point : Step::needs_more;
    }
    if (byte >= 0xC2 && byte <= 0xDF) {
      code_point_ = byte & 0x1FU;
      remaining_ = 1;
    } else if (byte >= 0xE0 && byte <= 0xEF) {
      code_point_ = byte & 0x0FU;
      remaining_ = 2;
      if (byte == 0xE0) lowest_ = 0xA0;   // below: overlong
      if (byte == 0xED) highest_ = 0x9F;  // above: surrogates
    } else if (byte >= 0xF0 && byte <= 0xF4) {
      code_point_ = byte & 0x07U;
      remaining_ = 3;
      if (byte == 0xF0) lowest_ = 0x90;   // below: overlong
      if (byte == 0xF4) highest_ = 0x8F;  // above: past U+10FFFF
    } else {
      return Step::invalid;
    }
    return Step::needs_more;
  }

  char32_t code_point_ = 0;
  int remaining_ = 0;
  std::uint8_t lowest_ = 0x80;  // bounds of the next continuation byte
  std::uint8_t highest_ = 0xBF;
};

}  // namespace molmoact2::kernels
