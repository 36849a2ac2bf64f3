#include "emulation/emulated_camera.h"

#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

#include "emulation/yuyv.h"

namespace molmoact2::emulation {
namespace {

constexpr std::uint32_t kMostBuffers = 32;
constexpr std::uint32_t kRateDivisors = 2;  // the file's rate, and half of it
constexpr std::uint32_t kVersion = (6U << 16U) | (1U << 8U);
constexpr std::size_t kPage = 4096;
constexpr auto kLookEvery = std::chrono::milliseconds(1);
// No frame comes so soon after the last that looking for it would be worth a wake-up.
constexpr double kQuietShare = 0.75;
constexpr std::uint64_t kNoSequence = ~std::uint64_t{0};

template <std::size_t N>
void copy_text(__u8 (&field)[N], std::string_view text) {
  std::ranges::fill(field, __u8{0});
  std::copy_n(text.begin(), std::min(text.size(), N - 1), field);
}

template <typename T>
T& as(void* argument) {
  return *static_cast<T*>(argument);
}

std::uint32_t distance(std::uint32_t a, std::uint32_t b) { return a > b ? a - b : b - a; }

}  // namespace

std::shared_ptr<EmulatedCamera> EmulatedCamera::open(const std::string& frame_file, int flags, int& error) {
  std::unique_ptr<FrameFile> file = FrameFile::open(frame_file.c_str(), error);
  if (file == nullptr) return nullptr;
  if (file->pluggings() % 2 == 0) {
    error = ENOENT;
    return nullptr;
  }
  int ends[2] = {-1, -1};
  const int client = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event watched{};
  watched.events = EPOLLIN;
  if (client < 0 || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0 ||
      ::epoll_ctl(client, EPOLL_CTL_ADD, ends[0], &watched) != 0) {
    error = errno;
    for (const int descriptor : {client, ends[0], ends[1]}) {
      if (descriptor >= 0) ::close(descriptor);
    }
    return nullptr;
  }
  if ((flags & O_CLOEXEC) == 0) ::fcntl(client, F_SETFD, 0);
  if ((flags & O_NONBLOCK) != 0) ::fcntl(client, F_SETFL, O_NONBLOCK);
  return std::shared_ptr<EmulatedCamera>(new EmulatedCamera(std::move(file), client, ends[0], ends[1]));
}

EmulatedCamera::EmulatedCamera(std::unique_ptr<FrameFile> file, int client, int ready, int device)
    : file_(std::move(file)),
      plugging_(file_->pluggings()),
      client_(client),
      ready_(ready),
      device_(device) {}

EmulatedCamera::~EmulatedCamera() {
  shut_down();
  ::close(ready_);
}

void EmulatedCamera::shut_down() noexcept {
  std::unique_lock lock(mutex_);
  shut_ = true;
  stop_streaming(lock);
  free_buffers();
  if (device_ >= 0) ::close(std::exchange(device_, -1));
}

bool EmulatedCamera::gone() const noexcept { return shut_ || file_->pluggings() != plugging_; }

int EmulatedCamera::control(unsigned long request, void* argument) {
  std::unique_lock lock(mutex_);
  if (gone()) return -ENODEV;
  // Callers extend the sign, or not: a request has 32 bits.
  return answer(request & 0xffffffffUL, argument, lock);
}

int EmulatedCamera::answer(unsigned long request, void* argument, std::unique_lock<std::mutex>& lock) {
  switch (request) {
    case VIDIOC_QUERYCAP:
      return query_capability(as<v4l2_capability>(argument));
    case VIDIOC_ENUM_FMT:
      return enumerate_format(as<v4l2_fmtdesc>(argument));
    case VIDIOC_ENUM_FRAMESIZES:
      return enumerate_size(as<v4l2_frmsizeenum>(argument));
    case VIDIOC_ENUM_FRAMEINTERVALS:
      return enumerate_interval(as<v4l2_frmivalenum>(argument));
    case VIDIOC_G_FMT:
      return get_format(as<v4l2_format>(argument));
    case VIDIOC_S_FMT:
      return set_format(as<v4l2_format>(argument), false);
    case VIDIOC_TRY_FMT:
      return set_format(as<v4l2_format>(argument), true);
    case VIDIOC_G_PARM:
      return get_rate(as<v4l2_streamparm>(argument));
    case VIDIOC_S_PARM:
      return set_rate(as<v4l2_streamparm>(argument));
    case VIDIOC_REQBUFS:
      return request_buffers(as<v4l2_requestbuffers>(argument));
    case VIDIOC_QUERYBUF:
      return query_buffer(as<v4l2_buffer>(argument));
    case VIDIOC_QBUF:
      return queue_buffer(as<v4l2_buffer>(argument));
    case VIDIOC_DQBUF:
      return dequeue_buffer(as<v4l2_buffer>(argument), lock);
    case VIDIOC_STREAMON:
      return stream_on(as<std::uint32_t>(argument));
    case VIDIOC_STREAMOFF:
      return stream_off(as<std::uint32_t>(argument), lock);
    case VIDIOC_ENUMINPUT: {
      auto& input = as<v4l2_input>(argument);
      if (input.index != 0) return -EINVAL;
      input = {};
      copy_text(input.name, "Camera 1");
      input.type = V4L2_INPUT_TYPE_CAMERA;
      return 0;
    }
    case VIDIOC_G_INPUT:
      as<int>(argument) = 0;
      return 0;
    case VIDIOC_S_INPUT:
      return as<int>(argument) == 0 ? 0 : -EINVAL;
    // It has no brightness to set and no events to tell of.
    case VIDIOC_QUERYCTRL:
    case VIDIOC_QUERY_EXT_CTRL:
    case VIDIOC_QUERYMENU:
    case VIDIOC_G_CTRL:
    case VIDIOC_S_CTRL:
    case VIDIOC_G_EXT_CTRLS:
    case VIDIOC_S_EXT_CTRLS:
    case VIDIOC_TRY_EXT_CTRLS:
    case VIDIOC_SUBSCRIBE_EVENT:
      return -EINVAL;
    default:
      return -ENOTTY;
  }
}

int EmulatedCamera::query_capability(v4l2_capability& capability) const {
  capability = {};
  copy_text(capability.driver, "molmoact2");
  copy_text(capability.card, file_->name());
  copy_text(capability.bus_info, "platform:molmoact2-emulated");
  capability.version = kVersion;
  capability.device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_EXT_PIX_FORMAT;
  capability.capabilities = capability.device_caps | V4L2_CAP_DEVICE_CAPS;
  return 0;
}

int EmulatedCamera::enumerate_format(v4l2_fmtdesc& description) const {
  const std::uint32_t index = description.index;
  if (description.type != V4L2_BUF_TYPE_VIDEO_CAPTURE || index > (file_->has_jpeg() ? 1U : 0U))
    return -EINVAL;
  description = {};
  description.index = index;
  description.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  description.pixelformat = index == 0 ? V4L2_PIX_FMT_YUYV : V4L2_PIX_FMT_MJPEG;
  description.flags = index == 0 ? 0U : V4L2_FMT_FLAG_COMPRESSED;
  copy_text(description.description, index == 0 ? "YUYV 4:2:2" : "Motion-JPEG");
  return 0;
}

// Halves are offered where a picture has whole blocks; a JPEG picture has one size.
std::vector<std::uint32_t> EmulatedCamera::scales(std::uint32_t pixel_format) const {
  if (pixel_format == V4L2_PIX_FMT_MJPEG && file_->has_jpeg()) return {1};
  if (pixel_format != V4L2_PIX_FMT_YUYV) return {};
  if (file_->width() % 4 == 0 && file_->height() % 4 == 0) return {1, 2};
  return {1};
}

int EmulatedCamera::enumerate_size(v4l2_frmsizeenum& size) const {
  const std::vector<std::uint32_t> offered = scales(size.pixel_format);
  if (size.index >= offered.size()) return -EINVAL;
  size.type = V4L2_FRMSIZE_TYPE_DISCRETE;
  size.discrete = {file_->width() / offered[size.index], file_->height() / offered[size.index]};
  return 0;
}

v4l2_fract EmulatedCamera::interval(std::uint32_t divisor) const {
  const auto per_1000_s = static_cast<std::uint32_t>(std::lround(file_->rate_hz() * 1000.0));
  const std::uint32_t common = std::gcd(1000U * divisor, per_1000_s);
  return {1000U * divisor / common, per_1000_s / common};
}

int EmulatedCamera::enumerate_interval(v4l2_frmivalenum& interval_) const {
  const std::vector<std::uint32_t> offered = scales(interval_.pixel_format);
  const bool has_size = std::ranges::any_of(offered, [&](std::uint32_t scale) {
    return interval_.width == file_->width() / scale && interval_.height == file_->height() / scale;
  });
  if (!has_size || interval_.index >= kRateDivisors) return -EINVAL;
  interval_.type = V4L2_FRMIVAL_TYPE_DISCRETE;
  interval_.discrete = interval(interval_.index + 1);
  return 0;
}

std::uint32_t EmulatedCamera::image_bytes(const Choice& choice) const {
  if (choice.pixel_format == V4L2_PIX_FMT_MJPEG) return static_cast<std::uint32_t>(file_->jpeg_capacity());
  return (file_->width() / choice.scale) * (file_->height() / choice.scale) * 2;
}

std::uint32_t EmulatedCamera::buffer_stride() const {
  return static_cast<std::uint32_t>((image_bytes(choice_) + kPage - 1) / kPage * kPage);
}

void EmulatedCamera::describe(const Choice& choice, v4l2_format& format) const {
  const bool compressed = choice.pixel_format == V4L2_PIX_FMT_MJPEG;
  v4l2_pix_format& picture = format.fmt.pix;
  picture = {};
  picture.width = file_->width() / choice.scale;
  picture.height = file_->height() / choice.scale;
  picture.pixelformat = choice.pixel_format;
  picture.field = V4L2_FIELD_NONE;
  picture.bytesperline = compressed ? 0 : picture.width * 2;
  picture.sizeimage = image_bytes(choice);
  picture.colorspace = compressed ? V4L2_COLORSPACE_JPEG : V4L2_COLORSPACE_SRGB;
}

int EmulatedCamera::get_format(v4l2_format& format) const {
  if (format.type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return -EINVAL;
  describe(choice_, format);
  return 0;
}

int EmulatedCamera::set_format(v4l2_format& format, bool try_only) {
  if (format.type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return -EINVAL;
  Choice choice = choice_;
  choice.pixel_format = scales(format.fmt.pix.pixelformat).empty() ? std::uint32_t{V4L2_PIX_FMT_YUYV}
                                                                   : format.fmt.pix.pixelformat;
  // What is not offered becomes what is nearest to it, and the client has to look.
  const auto mismatch = [&](std::uint32_t scale) {
    return distance(file_->width() / scale, format.fmt.pix.width) +
           distance(file_->height() / scale, format.fmt.pix.height);
  };
  choice.scale = std::ranges::min(scales(choice.pixel_format), {}, mismatch);
  describe(choice, format);
  if (try_only) return 0;
  if (!buffers_.empty()) return -EBUSY;
  choice_ = choice;
  return 0;
}

int EmulatedCamera::get_rate(v4l2_streamparm& parameters) const {
  if (parameters.type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return -EINVAL;
  parameters.parm.capture = {};
  parameters.parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
  parameters.parm.capture.timeperframe = interval(choice_.rate_divisor);
  return 0;
}

int EmulatedCamera::set_rate(v4l2_streamparm& parameters) {
  if (parameters.type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return -EINVAL;
  if (streaming_) return -EBUSY;
  const v4l2_fract wanted = parameters.parm.capture.timeperframe;
  choice_.rate_divisor = 1;
  if (wanted.denominator != 0) {
    const double wanted_periods = file_->rate_hz() * wanted.numerator / wanted.denominator;
    choice_.rate_divisor = wanted_periods > 1.5 ? kRateDivisors : 1;
  }
  return get_rate(parameters);
}

int EmulatedCamera::request_buffers(v4l2_requestbuffers& request) {
  if (request.type != V4L2_BUF_TYPE_VIDEO_CAPTURE || request.memory != V4L2_MEMORY_MMAP) return -EINVAL;
  if (streaming_) return -EBUSY;
  request.capabilities = V4L2_BUF_CAP_SUPPORTS_MMAP;
  free_buffers();
  if (request.count == 0) return 0;
  if (!file_->claim()) return -EBUSY;
  request.count = std::min(request.count, kMostBuffers);
  const std::size_t bytes = std::size_t{request.count} * buffer_stride();
  memory_ = ::memfd_create("v4l2-buffers", MFD_CLOEXEC);
  void* data = MAP_FAILED;
  if (memory_ >= 0 && ::ftruncate(memory_, static_cast<off_t>(bytes)) == 0) {
    data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_, 0);
  }
  if (data == MAP_FAILED) {
    free_buffers();
    return -ENOMEM;
  }
  mapped_ = static_cast<std::uint8_t*>(data);
  mapped_bytes_ = bytes;
  buffers_.assign(request.count, Buffer{});
  return 0;
}

void EmulatedCamera::free_buffers() {
  if (mapped_ != nullptr) ::munmap(std::exchange(mapped_, nullptr), mapped_bytes_);
  if (memory_ >= 0) ::close(std::exchange(memory_, -1));
  buffers_.clear();
  queued_.clear();
  done_.clear();
  file_->release();
}

void* EmulatedCamera::map(void* address, std::size_t length, int protection, int flags,
                          off_t offset) noexcept {
  const std::unique_lock lock(mutex_);
  const auto start = static_cast<std::size_t>(offset);
  if (offset < 0 || buffers_.empty() || start % buffer_stride() != 0 || start >= mapped_bytes_ ||
      length > buffer_stride()) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  return ::mmap(address, length, protection, flags, memory_, offset);
}

void EmulatedCamera::describe(std::uint32_t index, v4l2_buffer& buffer) const {
  const Buffer& known = buffers_[index];
  buffer = {};
  buffer.index = index;
  buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  buffer.memory = V4L2_MEMORY_MMAP;
  buffer.field = V4L2_FIELD_NONE;
  buffer.m.offset = index * buffer_stride();
  buffer.length = buffer_stride();
  buffer.bytesused = known.bytes_used;
  buffer.sequence = known.sequence;
  buffer.timestamp.tv_sec = known.time_ns / 1'000'000'000;
  buffer.timestamp.tv_usec = known.time_ns % 1'000'000'000 / 1'000;
  buffer.flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_TSTAMP_SRC_SOE | known.flags;
  if (known.place == Buffer::Place::queued) buffer.flags |= V4L2_BUF_FLAG_QUEUED;
  if (known.place == Buffer::Place::done) buffer.flags |= V4L2_BUF_FLAG_DONE;
}

int EmulatedCamera::query_buffer(v4l2_buffer& buffer) const {
  if (buffer.type != V4L2_BUF_TYPE_VIDEO_CAPTURE || buffer.index >= buffers_.size()) return -EINVAL;
  describe(buffer.index, buffer);
  return 0;
}

int EmulatedCamera::queue_buffer(v4l2_buffer& buffer) {
  if (buffer.type != V4L2_BUF_TYPE_VIDEO_CAPTURE || buffer.memory != V4L2_MEMORY_MMAP ||
      buffer.index >= buffers_.size() || buffers_[buffer.index].place != Buffer::Place::idle) {
    return -EINVAL;
  }
  Buffer& known = buffers_[buffer.index];
  known = {};
  known.place = Buffer::Place::queued;
  queued_.push_back(buffer.index);
  describe(buffer.index, buffer);
  return 0;
}

int EmulatedCamera::dequeue_buffer(v4l2_buffer& buffer, std::unique_lock<std::mutex>& lock) {
  if (buffer.type != V4L2_BUF_TYPE_VIDEO_CAPTURE || buffer.memory != V4L2_MEMORY_MMAP) return -EINVAL;
  if (!streaming_) return -EINVAL;
  if (done_.empty()) {
    const int flags = ::fcntl(client_, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) != 0) return -EAGAIN;
    changed_.wait(lock, [this] { return !done_.empty() || !streaming_ || gone(); });
    if (gone()) return -ENODEV;
    if (done_.empty()) return -EINVAL;
  }
  const std::uint32_t index = done_.front();
  done_.pop_front();
  take_wake_up();
  describe(index, buffer);
  buffer.flags &= ~std::uint32_t{V4L2_BUF_FLAG_DONE};
  buffers_[index].place = Buffer::Place::idle;
  return 0;
}

int EmulatedCamera::stream_on(std::uint32_t type) {
  if (type != V4L2_BUF_TYPE_VIDEO_CAPTURE || buffers_.empty()) return -EINVAL;
  if (streaming_) return 0;
  streaming_ = true;
  thread_ = std::thread(&EmulatedCamera::stream, this);
  return 0;
}

int EmulatedCamera::stream_off(std::uint32_t type, std::unique_lock<std::mutex>& lock) {
  if (type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return -EINVAL;
  stop_streaming(lock);
  queued_.clear();
  done_.clear();
  std::ranges::fill(buffers_, Buffer{});
  while (take_wake_up()) {
  }
  return 0;
}

bool EmulatedCamera::take_wake_up() const noexcept {
  char byte = 0;
  // It does not block. NOLINTNEXTLINE(clang-analyzer-unix.BlockInCriticalSection)
  return ::recv(ready_, &byte, 1, MSG_DONTWAIT) > 0;
}

void EmulatedCamera::stop_streaming(std::unique_lock<std::mutex>& lock) {
  streaming_ = false;
  changed_.notify_all();
  if (thread_.joinable()) {
    std::thread ended = std::move(thread_);
    ++joining_;
    lock.unlock();
    ended.join();
    lock.lock();
    --joining_;
    changed_.notify_all();
  }
  // Buffers go only when nobody writes into them, also where another caller waits for the thread.
  changed_.wait(lock, [this] { return joining_ == 0; });
}

void EmulatedCamera::stream() {
  const auto quiet = std::chrono::duration<double>(kQuietShare / file_->rate_hz());
  std::uint64_t seen = file_->written();
  std::uint64_t first_sequence = kNoSequence;
  std::unique_lock lock(mutex_);
  while (streaming_) {
    if (gone()) {
      vanish();
      return;
    }
    const std::uint64_t written = file_->written();
    if (written == seen) {
      changed_.wait_for(lock, kLookEvery, [this] { return !streaming_; });
      continue;
    }
    // Older ones have been overwritten, or are about to be.
    seen = std::max(seen, written > file_->slots() ? written - file_->slots() + 1 : 0);
    lock.unlock();
    while (seen < written) deliver(++seen, first_sequence);
    lock.lock();
    changed_.wait_for(lock, quiet, [this] { return !streaming_; });
  }
}

void EmulatedCamera::vanish() noexcept {
  if (device_ >= 0) ::close(std::exchange(device_, -1));
  changed_.notify_all();
}

void EmulatedCamera::deliver(std::uint64_t number, std::uint64_t& first_sequence) {
  StoredFrame frame;
  if (!file_->look(number, frame)) return;
  if (first_sequence == kNoSequence) first_sequence = frame.sequence;
  const std::uint64_t sequence = frame.sequence - first_sequence;
  if (sequence % choice_.rate_divisor != 0) return;
  std::uint32_t index = 0;
  {
    const std::unique_lock lock(mutex_);
    if (queued_.empty()) return;  // nowhere to put it: the frame is lost, its number is not
    index = queued_.front();
    queued_.pop_front();
  }
  const std::uint32_t bytes = fill(index, frame);
  const bool whole = file_->still_holds(number);
  const std::unique_lock lock(mutex_);
  if (!whole) {
    queued_.push_front(index);
    return;
  }
  Buffer& buffer = buffers_[index];
  buffer.place = Buffer::Place::done;
  buffer.bytes_used = bytes;
  const bool marked = frame.damaged && choice_.pixel_format == V4L2_PIX_FMT_YUYV;
  buffer.flags = marked ? V4L2_BUF_FLAG_ERROR : 0U;
  buffer.sequence = static_cast<std::uint32_t>(sequence / choice_.rate_divisor);
  buffer.time_ns = frame.time_ns;
  done_.push_back(index);
  (void)::send(device_, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  changed_.notify_all();
}

std::uint32_t EmulatedCamera::fill(std::uint32_t index, const StoredFrame& frame) noexcept {
  std::uint8_t* const out = mapped_ + std::size_t{index} * buffer_stride();
  if (choice_.pixel_format == V4L2_PIX_FMT_MJPEG) {
    std::ranges::copy(frame.jpeg, out);
    return static_cast<std::uint32_t>(frame.jpeg.size());
  }
  const std::uint32_t bytes = image_bytes(choice_);
  rgb_to_yuyv(frame.pixels, file_->width(), file_->height(), choice_.scale, {out, bytes});
  return frame.damaged ? bytes / 2 : bytes;
}

}  // namespace molmoact2::emulation
