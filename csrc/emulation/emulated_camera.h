// A V4L2 capture device as one client that has opened it sees it: memory-mapped streaming, one format at a
// time, frames from a file (frame_file.h). What its ioctls answer is what uvcvideo's would.
#pragma once

#include <linux/videodev2.h>
#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "emulation/frame_file.h"

namespace molmoact2::emulation {

class EmulatedCamera {
 public:
  // `flags` as open() takes them. Null, with `error` an errno, where the device is not there.
  static std::shared_ptr<EmulatedCamera> open(const std::string& frame_file, int flags, int& error);
  EmulatedCamera(const EmulatedCamera&) = delete;
  EmulatedCamera& operator=(const EmulatedCamera&) = delete;
  ~EmulatedCamera();

  // The client's file descriptor: readable when a buffer waits or the device is gone; reading from it is
  // EINVAL, as from cameras that only stream. The client's own close() ends it; `shut_down` brings back
  // whoever waits in `control`.
  int descriptor() const noexcept { return client_; }
  void shut_down() noexcept;

  // One ioctl: 0, or a negative errno. Any thread.
  int control(unsigned long request, void* argument);

  // mmap of a buffer at the offset that QUERYBUF told; MAP_FAILED with errno.
  void* map(void* address, std::size_t length, int protection, int flags, off_t offset) noexcept;

 private:
  struct Buffer {
    enum class Place : std::uint8_t { idle, queued, done } place = Place::idle;
    std::uint32_t bytes_used = 0;
    std::uint32_t flags = 0;
    std::uint32_t sequence = 0;
    std::int64_t time_ns = 0;
  };

  // What the client chose: by how much smaller than the file's pictures, and at which part of their rate.
  struct Choice {
    std::uint32_t pixel_format = V4L2_PIX_FMT_YUYV;
    std::uint32_t scale = 1;
    std::uint32_t rate_divisor = 1;
  };

  EmulatedCamera(std::unique_ptr<FrameFile> file, int client, int ready, int device);

  bool gone() const noexcept;
  int answer(unsigned long request, void* argument, std::unique_lock<std::mutex>& lock);
  int query_capability(v4l2_capability& capability) const;
  int enumerate_format(v4l2_fmtdesc& description) const;
  int enumerate_size(v4l2_frmsizeenum& size) const;
  int enumerate_interval(v4l2_frmivalenum& interval) const;
  int get_format(v4l2_format& format) const;
  int set_format(v4l2_format& format, bool try_only);
  int get_rate(v4l2_streamparm& parameters) const;
  int set_rate(v4l2_streamparm& parameters);
  int request_buffers(v4l2_requestbuffers& request);
  int query_buffer(v4l2_buffer& buffer) const;
  int queue_buffer(v4l2_buffer& buffer);
  int dequeue_buffer(v4l2_buffer& buffer, std::unique_lock<std::mutex>& lock);
  int stream_on(std::uint32_t type);
  int stream_off(std::uint32_t type, std::unique_lock<std::mutex>& lock);

  std::vector<std::uint32_t> scales(std::uint32_t pixel_format) const;
  v4l2_fract interval(std::uint32_t divisor) const;
  std::uint32_t image_bytes(const Choice& choice) const;
  std::uint32_t buffer_stride() const;
  void describe(const Choice& choice, v4l2_format& format) const;
  void describe(std::uint32_t index, v4l2_buffer& buffer) const;
  void stop_streaming(std::unique_lock<std::mutex>& lock);
  void free_buffers();
  // Behind the client's descriptor is one byte for every buffer that waits.
  bool take_wake_up() const noexcept;

  // The thread that is the device while it streams; choices do not change meanwhile.
  void stream();
  void deliver(std::uint64_t number, std::uint64_t& first_sequence);
  std::uint32_t fill(std::uint32_t index, const StoredFrame& frame) noexcept;
  void vanish() noexcept;

  const std::unique_ptr<FrameFile> file_;
  const std::uint64_t plugging_;
  const int client_;  // an epoll instance, which is readable while `ready_` is
  const int ready_;

  std::mutex mutex_;
  std::condition_variable changed_;
  int device_;  // the other end of `ready_`; -1 once the device is gone
  bool shut_ = false;
  bool streaming_ = false;
  Choice choice_;
  int memory_ = -1;
  std::uint8_t* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::vector<Buffer> buffers_;
  std::deque<std::uint32_t> queued_;
  std::deque<std::uint32_t> done_;
  std::thread thread_;
  int joining_ = 0;
};

}  // namespace molmoact2::emulation
