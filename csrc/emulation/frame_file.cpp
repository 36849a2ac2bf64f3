#include "emulation/frame_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>

namespace molmoact2::emulation {
namespace {

constexpr std::string_view kMagic = "MA2FRAME";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kSmallestHeader = 96;
constexpr std::size_t kSmallestSlotHeader = 32;
constexpr std::size_t kWritten = 48;
constexpr std::size_t kPluggings = 56;
constexpr std::size_t kName = 64;
constexpr std::size_t kNameBytes = 32;
constexpr std::uint32_t kLargestSide = 4096;
constexpr double kFastest = 1000.0;

template <typename T>
T value_at(const std::uint8_t* data) noexcept {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

}  // namespace

std::unique_ptr<FrameFile> FrameFile::open(const char* path, int& error) noexcept {
  const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (descriptor < 0 || ::fstat(descriptor, &status) != 0) {
    error = errno;
    if (descriptor >= 0) ::close(descriptor);
    return nullptr;
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  error = EINVAL;
  void* const data =
      size < kSmallestHeader ? MAP_FAILED : ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    ::close(descriptor);
    return nullptr;
  }
  std::unique_ptr<FrameFile> file(new (std::nothrow)
                                      FrameFile(descriptor, static_cast<const std::uint8_t*>(data), size));
  if (file == nullptr) {
    error = ENOMEM;
    ::munmap(data, size);
    ::close(descriptor);
    return nullptr;
  }
  return file->read_header() ? std::move(file) : nullptr;
}

FrameFile::~FrameFile() {
  // munmap takes what mmap gave, which was not const.
  ::munmap(const_cast<std::uint8_t*>(data_), size_);
  ::close(descriptor_);
}

bool FrameFile::read_header() noexcept {
  if (std::memcmp(data_, kMagic.data(), kMagic.size()) != 0 ||
      value_at<std::uint32_t>(data_ + 8) != kVersion) {
    return false;
  }
  header_bytes_ = value_at<std::uint32_t>(data_ + 12);
  width_ = value_at<std::uint32_t>(data_ + 16);
  height_ = value_at<std::uint32_t>(data_ + 20);
  rate_hz_ = value_at<double>(data_ + 24);
  slots_ = value_at<std::uint32_t>(data_ + 32);
  slot_bytes_ = value_at<std::uint32_t>(data_ + 36);
  slot_header_bytes_ = value_at<std::uint32_t>(data_ + 40);
  jpeg_capacity_ = value_at<std::uint32_t>(data_ + 44);
  std::array<char, kNameBytes + 1> name{};
  std::memcpy(name.data(), data_ + kName, kNameBytes);
  name_ = name.data();
  const auto side_fits = [](std::uint32_t side) {
    return side >= 2 && side <= kLargestSide && side % 2 == 0;
  };
  const std::size_t in_slot =
      slot_header_bytes_ + std::size_t{width_} * height_ * 3 + std::size_t{jpeg_capacity_};
  return side_fits(width_) && side_fits(height_) && rate_hz_ > 0.0 && rate_hz_ <= kFastest && slots_ > 0 &&
         header_bytes_ >= kSmallestHeader && header_bytes_ % 8 == 0 && slot_bytes_ % 8 == 0 &&
         slot_header_bytes_ >= kSmallestSlotHeader && in_slot <= slot_bytes_ &&
         header_bytes_ + std::size_t{slots_} * slot_bytes_ <= size_;
}

std::uint64_t FrameFile::word(std::size_t offset) const noexcept {
  // The mapping begins at a page, so that every word lies where words lie.
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(data_ + offset), __ATOMIC_ACQUIRE);
}

std::uint64_t FrameFile::written() const noexcept { return word(kWritten); }

std::uint64_t FrameFile::pluggings() const noexcept { return word(kPluggings); }

std::size_t FrameFile::slot_of(std::uint64_t number) const noexcept {
  return header_bytes_ + static_cast<std::size_t>((number - 1) % slots_) * slot_bytes_;
}

std::uint64_t FrameFile::guard_of(std::uint64_t number) const noexcept {
  // Every writing into a slot adds two.
  return 2 * ((number - 1) / slots_ + 1);
}

bool FrameFile::look(std::uint64_t number, StoredFrame& frame) const noexcept {
  const std::size_t slot = slot_of(number);
  if (word(slot) != guard_of(number)) return false;
  const std::uint8_t* const header = data_ + slot;
  frame.sequence = value_at<std::uint64_t>(header + 8);
  frame.time_ns = value_at<std::int64_t>(header + 16);
  frame.damaged = value_at<std::uint32_t>(header + 24) != 0;
  const std::size_t pixels = std::size_t{width_} * height_ * 3;
  frame.pixels = {header + slot_header_bytes_, pixels};
  frame.jpeg = {header + slot_header_bytes_ + pixels,
                std::min(value_at<std::uint32_t>(header + 28), jpeg_capacity_)};
  return still_holds(number);
}

bool FrameFile::still_holds(std::uint64_t number) const noexcept {
  // What was copied was copied before this look. The thread sanitizer does not know fences; it does not see
  // the writer, which is another process, either.
#if !defined(__SANITIZE_THREAD__)
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
  return word(slot_of(number)) == guard_of(number);
}

bool FrameFile::claim() const noexcept { return ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0; }

void FrameFile::release() const noexcept { ::flock(descriptor_, LOCK_UN); }

}  // namespace molmoact2::emulation
