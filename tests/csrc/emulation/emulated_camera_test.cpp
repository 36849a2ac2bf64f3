// The emulated camera without the shim before it, so that sanitizers can look: its ioctls, its thread, its
// end.
#include "emulation/emulated_camera.h"

#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "emulation/frame_file.h"
#include "emulation/yuyv.h"

namespace {

using molmoact2::emulation::EmulatedCamera;
using molmoact2::emulation::FrameFile;

constexpr std::uint32_t kWidth = 8;
constexpr std::uint32_t kHeight = 4;
constexpr std::uint32_t kSlots = 4;
constexpr std::uint32_t kHeaderBytes = 4096;
constexpr std::uint32_t kSlotBytes = 4096;
constexpr std::uint32_t kSlotHeaderBytes = 64;

// The writer's side of a frame file, in C++.
class FrameSource {
 public:
  FrameSource() {
    std::string name = "/tmp/molmoact2-frames-XXXXXX";
    const int descriptor = ::mkstemp(name.data());
    path_ = name;
    size_ = kHeaderBytes + kSlots * kSlotBytes;
    REQUIRE(::ftruncate(descriptor, static_cast<off_t>(size_)) == 0);
    data_ =
        static_cast<std::uint8_t*>(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0));
    ::close(descriptor);
    std::memcpy(data_, "MA2FRAME", 8);
    put<std::uint32_t>(8, 1);
    put<std::uint32_t>(12, kHeaderBytes);
    put<std::uint32_t>(16, kWidth);
    put<std::uint32_t>(20, kHeight);
    put<double>(24, 200.0);
    put<std::uint32_t>(32, kSlots);
    put<std::uint32_t>(36, kSlotBytes);
    put<std::uint32_t>(40, kSlotHeaderBytes);
    put<std::uint32_t>(44, 0);
    store(56, 1);
  }
  FrameSource(const FrameSource&) = delete;
  FrameSource& operator=(const FrameSource&) = delete;
  ~FrameSource() {
    ::unlink(path_.c_str());
    ::munmap(data_, size_);
  }

  const std::string& path() const { return path_; }

  void write(std::uint8_t value, bool damaged = false) {
    const std::size_t slot = kHeaderBytes + (written_ % kSlots) * kSlotBytes;
    const std::uint64_t guard = 2 * (written_ / kSlots);
    store(slot, guard + 1);
    put<std::uint64_t>(slot + 8, sequence_++);
    put<std::int64_t>(slot + 16, static_cast<std::int64_t>(written_) * 5'000'000 + 1'000'000'000);
    put<std::uint32_t>(slot + 24, damaged ? 1 : 0);
    std::memset(data_ + slot + kSlotHeaderBytes, value, kWidth * kHeight * 3);
    store(slot, guard + 2);
    store(48, ++written_);
  }
  void lose() { ++sequence_; }
  void unplug() { store(56, 2); }
  void overwrite_header(std::size_t offset, std::uint32_t value) { put<std::uint32_t>(offset, value); }

 private:
  template <typename T>
  void put(std::size_t offset, T value) {
    std::memcpy(data_ + offset, &value, sizeof(T));
  }
  void store(std::size_t offset, std::uint64_t value) {
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(data_ + offset), value, __ATOMIC_RELEASE);
  }

  std::string path_;
  std::size_t size_ = 0;
  std::uint8_t* data_ = nullptr;
  std::uint64_t written_ = 0;
  std::uint64_t sequence_ = 0;
};

// A client that has the device open, as one thread uses it.
class Client {
 public:
  explicit Client(const std::string& path, int flags = O_RDWR | O_NONBLOCK) {
    int error = 0;
    camera_ = EmulatedCamera::open(path, flags, error);
    REQUIRE(camera_ != nullptr);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() {
    camera_->shut_down();
    ::close(camera_->descriptor());
  }

  EmulatedCamera& camera() { return *camera_; }

  template <typename T>
  int control(unsigned long request, T& argument) {
    return camera_->control(request, &argument);
  }

  int start(std::uint32_t count) {
    v4l2_requestbuffers request{};
    request.count = count;
    request.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    request.memory = V4L2_MEMORY_MMAP;
    const int status = control(VIDIOC_REQBUFS, request);
    if (status != 0) return status;
    for (std::uint32_t index = 0; index < request.count; ++index) {
      const int queued = queue(index);
      if (queued != 0) return queued;
    }
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    return control(VIDIOC_STREAMON, type);
  }

  int queue(std::uint32_t index) {
    v4l2_buffer buffer{};
    buffer.index = index;
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    return control(VIDIOC_QBUF, buffer);
  }

  int dequeue(v4l2_buffer& buffer) {
    buffer = {};
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    return control(VIDIOC_DQBUF, buffer);
  }

  // What poll tells within 20 s.
  short wait() {
    pollfd watched{camera_->descriptor(), POLLIN, 0};
    return ::poll(&watched, 1, 20'000) == 1 ? watched.revents : short{0};
  }

 private:
  std::shared_ptr<EmulatedCamera> camera_;
};

// The device takes frames that come once its thread runs: writes until one arrived.
void film_until_ready(FrameSource& source, Client& client, std::uint8_t value) {
  for (int attempt = 0; attempt < 4000; ++attempt) {
    source.write(value);
    pollfd watched{client.camera().descriptor(), POLLIN, 0};
    if (::poll(&watched, 1, 5) == 1) return;
  }
  CHECK(false);
}

}  // namespace

CASE("a frame that is written while the device streams arrives with its number, time and pixels") {
  FrameSource source;
  Client client(source.path());
  REQUIRE(client.start(2) == 0);
  film_until_ready(source, client, 128);
  v4l2_buffer buffer{};
  REQUIRE(client.dequeue(buffer) == 0);
  CHECK_EQ(buffer.sequence, 0U);
  CHECK_EQ(buffer.bytesused, kWidth * kHeight * 2);
  CHECK_EQ(buffer.flags & V4L2_BUF_FLAG_TIMESTAMP_MASK, std::uint32_t{V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC});
  CHECK(buffer.timestamp.tv_sec >= 1);
  CHECK_EQ(buffer.timestamp.tv_usec % 5'000, 0);
  auto* const bytes = static_cast<std::uint8_t*>(client.camera().map(
      nullptr, buffer.length, PROT_READ, MAP_SHARED, static_cast<off_t>(buffer.m.offset)));
  REQUIRE(bytes != MAP_FAILED);
  CHECK_EQ(bytes[0], 126);  // 16 + 219 * 128 / 255
  CHECK_EQ(bytes[1], 128);
  ::munmap(bytes, buffer.length);
}

CASE("a buffer is queued once, and only by its own number") {
  FrameSource source;
  Client client(source.path());
  CHECK_EQ(client.queue(0), -EINVAL);
  REQUIRE(client.start(2) == 0);
  CHECK_EQ(client.queue(0), -EINVAL);
  CHECK_EQ(client.queue(2), -EINVAL);
  v4l2_buffer buffer{};
  CHECK_EQ(client.dequeue(buffer), -EAGAIN);
}

CASE("frames that the source loses, and those without a buffer, are gaps in the numbers") {
  FrameSource source;
  Client client(source.path());
  REQUIRE(client.start(1) == 0);
  film_until_ready(source, client, 1);
  v4l2_buffer first{};
  REQUIRE(client.dequeue(first) == 0);
  source.lose();
  source.write(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  REQUIRE(client.queue(first.index) == 0);
  v4l2_buffer second{};
  film_until_ready(source, client, 3);
  REQUIRE(client.dequeue(second) == 0);
  CHECK(second.sequence > first.sequence + 1);
}

CASE("stopping takes all buffers back, and starting counts anew") {
  FrameSource source;
  Client client(source.path());
  for (int round = 0; round < 3; ++round) {
    REQUIRE(client.start(3) == 0);
    film_until_ready(source, client, 5);
    v4l2_buffer buffer{};
    REQUIRE(client.dequeue(buffer) == 0);
    CHECK_EQ(buffer.sequence, 0U);
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    CHECK_EQ(client.control(VIDIOC_STREAMOFF, type), 0);
    CHECK_EQ(client.dequeue(buffer), -EINVAL);
  }
}

CASE("who waits for a frame is told that the device is gone, and so is everybody after") {
  FrameSource source;
  Client client(source.path(), O_RDWR);
  REQUIRE(client.start(2) == 0);
  std::atomic<int> status = 0;
  std::thread waiting([&] {
    v4l2_buffer buffer{};
    status = client.dequeue(buffer);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  source.unplug();
  waiting.join();
  CHECK_EQ(status.load(), -ENODEV);
  CHECK((client.wait() & POLLIN) != 0);
  char byte = 0;
  CHECK(::read(client.camera().descriptor(), &byte, 1) < 0);
  CHECK_EQ(errno, EINVAL);
  v4l2_capability capability{};
  CHECK_EQ(client.control(VIDIOC_QUERYCAP, capability), -ENODEV);
  int error = 0;
  CHECK(EmulatedCamera::open(source.path(), O_RDWR, error) == nullptr);
  CHECK_EQ(error, ENOENT);
}

CASE("closing ends a thread that waits for a frame") {
  FrameSource source;
  Client client(source.path(), O_RDWR);
  REQUIRE(client.start(2) == 0);
  std::thread waiting([&] {
    v4l2_buffer buffer{};
    CHECK(client.dequeue(buffer) < 0);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  client.camera().shut_down();
  waiting.join();
}

CASE("one client streams at a time") {
  FrameSource source;
  Client first(source.path());
  Client second(source.path());
  REQUIRE(first.start(2) == 0);
  CHECK_EQ(second.start(2), -EBUSY);
  v4l2_format format{};
  format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  CHECK_EQ(first.control(VIDIOC_S_FMT, format), -EBUSY);
  CHECK_EQ(second.control(VIDIOC_S_FMT, format), 0);
}

CASE("a client that reads while the source writes as fast as it can gets whole frames only") {
  FrameSource source;
  Client client(source.path());
  REQUIRE(client.start(4) == 0);
  std::atomic<bool> ended = false;
  std::thread writing([&] {
    for (std::uint8_t value = 0; !ended; ++value) {
      source.write(value);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::uint32_t last = 0;
  for (int frame = 0; frame < 50; ++frame) {
    REQUIRE((client.wait() & POLLIN) != 0);
    v4l2_buffer buffer{};
    if (client.dequeue(buffer) != 0) continue;
    CHECK(frame == 0 || buffer.sequence > last);
    last = buffer.sequence;
    auto* const bytes = static_cast<std::uint8_t*>(client.camera().map(
        nullptr, buffer.length, PROT_READ, MAP_SHARED, static_cast<off_t>(buffer.m.offset)));
    for (std::uint32_t place = 2; place < buffer.bytesused; place += 2) CHECK_EQ(bytes[place], bytes[0]);
    ::munmap(bytes, buffer.length);
    CHECK_EQ(client.queue(buffer.index), 0);
  }
  ended = true;
  writing.join();
}

CASE("a file that is damaged, or of another version, is no camera") {
  for (const std::size_t offset : {0U, 8U, 12U, 16U, 20U, 32U, 36U, 40U, 44U}) {
    FrameSource source;
    source.overwrite_header(offset, 0xfffffff1);
    int error = 0;
    CHECK(FrameFile::open(source.path().c_str(), error) == nullptr);
    CHECK_EQ(error, EINVAL);
  }
  int error = 0;
  CHECK(FrameFile::open("/nowhere/at/all", error) == nullptr);
  CHECK_EQ(error, ENOENT);
}

CASE("halving a picture takes the mean of each block") {
  std::vector<std::uint8_t> rgb(std::size_t{4} * 4 * 3);
  for (std::size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<std::uint8_t>(i / 3 % 4 < 2 ? 0 : 255);
  std::vector<std::uint8_t> yuyv(std::size_t{2} * 2 * 2);
  molmoact2::emulation::rgb_to_yuyv(rgb, 4, 4, 2, yuyv);
  CHECK_EQ(yuyv[0], 16);
  CHECK_EQ(yuyv[2], 235);
  CHECK_EQ(yuyv[1], 128);
  CHECK_EQ(yuyv[3], 128);
}
