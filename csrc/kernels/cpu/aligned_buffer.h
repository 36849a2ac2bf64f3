// Zeroed float storage for SIMD kernels.
#pragma once

#include <cstddef>

namespace molmoact2::kernels {

// Aligned to cache lines and, from a few megabytes on, to huge pages, which the kernel is asked for: weights
// are streamed from end to end, and page walks would cost a tenth of that.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t count);
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  // Makes room for `count` floats. What was stored is lost, all of it zeroed, when the buffer had to grow.
  void reserve(std::size_t count);

  float* data() { return data_; }
  const float* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  float* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace molmoact2::kernels
