// The reader's side of the file through which an emulated camera's pictures come. Its layout is told in
// drivers/molmoact2_emulators/camera_frames.py, which writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace molmoact2::emulation {

// What lies in a slot; the spans point into the file and hold only while `FrameFile::still_holds` says so.
struct StoredFrame {
  std::uint64_t sequence = 0;
  std::int64_t time_ns = 0;  // CLOCK_MONOTONIC of the exposure
  bool damaged = false;
  std::span<const std::uint8_t> pixels;  // RGB, rows from the top
  std::span<const std::uint8_t> jpeg;    // empty: there is none
};

class FrameFile {
 public:
  // Null, with `error` an errno: no file (ENOENT), no frame file of this version (EINVAL).
  static std::unique_ptr<FrameFile> open(const char* path, int& error) noexcept;
  FrameFile(const FrameFile&) = delete;
  FrameFile& operator=(const FrameFile&) = delete;
  ~FrameFile();

  std::uint32_t width() const noexcept { return width_; }
  std::uint32_t height() const noexcept { return height_; }
  double rate_hz() const noexcept { return rate_hz_; }
  bool has_jpeg() const noexcept { return jpeg_capacity_ > 0; }
  std::size_t jpeg_capacity() const noexcept { return jpeg_capacity_; }
  std::uint32_t slots() const noexcept { return slots_; }
  const std::string& name() const noexcept { return name_; }

  std::uint64_t written() const noexcept;
  // Odd while the device is there; another number than before: it was gone in between.
  std::uint64_t pluggings() const noexcept;

  // Looks at the `number`-th frame, counted from 1. False: it is being overwritten, or already was.
  bool look(std::uint64_t number, StoredFrame& frame) const noexcept;
  // Whether that frame has been there all the time since `look`.
  bool still_holds(std::uint64_t number) const noexcept;

  // Nobody else may stream from the device until `release`; false: somebody else does. Works between
  // processes.
  bool claim() const noexcept;
  void release() const noexcept;

 private:
  FrameFile(int descriptor, const std::uint8_t* data, std::size_t size) noexcept
      : descriptor_(descriptor), data_(data), size_(size) {}
  bool read_header() noexcept;
  std::uint64_t word(std::size_t offset) const noexcept;
  std::size_t slot_of(std::uint64_t number) const noexcept;
  std::uint64_t guard_of(std::uint64_t number) const noexcept;

  int descriptor_;
  const std::uint8_t* data_;
  std::size_t size_;
  std::uint32_t header_bytes_ = 0;
  std::uint32_t width_ = 0;
  std::uint32_t height_ = 0;
  double rate_hz_ = 0.0;
  std::uint32_t slots_ = 0;
  std::uint32_t slot_bytes_ = 0;
  std::uint32_t slot_header_bytes_ = 0;
  std::uint32_t jpeg_capacity_ = 0;
  std::string name_;
};

}  // namespace molmoact2::emulation
