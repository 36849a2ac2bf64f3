// Loaded before the C library (LD_PRELOAD), this shows devices that are not there: what a process opens under
// a path named in MOLMOACT2_V4L2 ("/dev/video10=/path/of/frames,...") is an EmulatedCamera. Everything else
// goes straight to the kernel. The client's descriptor is a real one, so that poll, select and epoll need no
// help; a duplicate of it is not a device, nor is one in a forked child.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "emulation/emulated_camera.h"

namespace molmoact2::emulation {
namespace {

constexpr unsigned kVideoMajor = 81;

class Devices {
 public:
  Devices() {
    const char* const text = std::getenv("MOLMOACT2_V4L2");
    std::string_view rest = text == nullptr ? "" : text;
    while (!rest.empty()) {
      const std::string_view one = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), one.size() + 1));
      const std::size_t equals = one.find('=');
      if (equals != std::string_view::npos) {
        frame_files_.emplace(one.substr(0, equals), one.substr(equals + 1));
      }
    }
  }

  // The frame file behind a path; null for paths that are none of ours.
  const std::string* frame_file(const char* path) const {
    if (path == nullptr || frame_files_.empty()) return nullptr;
    const auto found = frame_files_.find(std::string_view(path));
    return found == frame_files_.end() ? nullptr : &found->second;
  }

  int open(const std::string& frame_file, int flags) {
    int error = ENOMEM;
    const std::shared_ptr<EmulatedCamera> camera = EmulatedCamera::open(frame_file, flags, error);
    if (camera == nullptr) {
      errno = error;
      return -1;
    }
    const std::unique_lock lock(mutex_);
    process_ = ::getpid();
    open_.insert_or_assign(camera->descriptor(), camera);
    count_ = static_cast<int>(open_.size());
    return camera->descriptor();
  }

  // Null for descriptors that are none of ours.
  std::shared_ptr<EmulatedCamera> find(int descriptor) {
    // A child between fork and exec closes what it inherited, and with vfork it does so in this memory.
    if (count_ == 0 || process_ != ::getpid()) return nullptr;
    const std::unique_lock lock(mutex_);
    const auto found = open_.find(descriptor);
    return found == open_.end() ? nullptr : found->second;
  }

  void forget(int descriptor) {
    const std::unique_lock lock(mutex_);
    open_.erase(descriptor);
    count_ = static_cast<int>(open_.size());
  }

 private:
  std::map<std::string, std::string, std::less<>> frame_files_;
  std::mutex mutex_;
  std::map<int, std::shared_ptr<EmulatedCamera>> open_;
  std::atomic<int> count_ = 0;
  std::atomic<pid_t> process_ = 0;
};

Devices& devices() {
  // Never destroyed: clients close their devices later than anything here could know.
  static auto* const instance = new Devices;
  return *instance;
}

int fail(int error) {
  errno = error;
  return -1;
}

bool is_there(const std::string& frame_file) {
  int error = 0;
  const std::unique_ptr<FrameFile> file = FrameFile::open(frame_file.c_str(), error);
  return file != nullptr && file->pluggings() % 2 == 1;
}

unsigned minor_of(const char* path) {
  const std::string_view text(path);
  const std::size_t digits = text.find_last_not_of("0123456789") + 1;
  return static_cast<unsigned>(std::strtoul(path + digits, nullptr, 10));
}

int open_at(int directory, const char* path, int flags, mode_t mode) {
  const std::string* const frames = devices().frame_file(path);
  if (frames != nullptr) return devices().open(*frames, flags);
  return static_cast<int>(::syscall(SYS_openat, directory, path, flags, mode));
}

int access_at(int directory, const char* path, int mode, int flags) {
  const std::string* const frames = devices().frame_file(path);
  if (frames != nullptr) return is_there(*frames) ? 0 : fail(ENOENT);
  // The older call has no flags, and the newer one is not in every kernel.
  if (flags == 0) return static_cast<int>(::syscall(SYS_faccessat, directory, path, mode));
  return static_cast<int>(::syscall(SYS_faccessat2, directory, path, mode, flags));
}

// With 64-bit offsets the kernel's structure is the C library's, in each of its versions.
int stat_at(int directory, const char* path, void* status, int flags) {
  const std::string* const frames = devices().frame_file(path);
  if (frames == nullptr) return static_cast<int>(::syscall(SYS_newfstatat, directory, path, status, flags));
  if (!is_there(*frames)) return fail(ENOENT);
  auto& known = *static_cast<struct stat*>(status);
  known = {};
  known.st_mode = S_IFCHR | 0660;
  known.st_nlink = 1;
  known.st_rdev = makedev(kVideoMajor, minor_of(path));
  return 0;
}

int stat_extended(int directory, const char* path, int flags, unsigned mask, struct statx* status) {
  const std::string* const frames = devices().frame_file(path);
  if (frames == nullptr) return static_cast<int>(::syscall(SYS_statx, directory, path, flags, mask, status));
  if (!is_there(*frames)) return fail(ENOENT);
  *status = {};
  status->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK;
  status->stx_mode = S_IFCHR | 0660;
  status->stx_nlink = 1;
  status->stx_rdev_major = kVideoMajor;
  status->stx_rdev_minor = minor_of(path);
  return 0;
}

int close_descriptor(int descriptor) {
  const std::shared_ptr<EmulatedCamera> camera = devices().find(descriptor);
  if (camera != nullptr) {
    devices().forget(descriptor);
    camera->shut_down();
  }
  return static_cast<int>(::syscall(SYS_close, descriptor));
}

int control(int descriptor, unsigned long request, void* argument) {
  // Requests that are not of video go to the descriptor itself, as for a driver: whether it blocks, say.
  const bool of_video = ((request >> 8U) & 0xffU) == 'V';
  const std::shared_ptr<EmulatedCamera> camera = of_video ? devices().find(descriptor) : nullptr;
  if (camera == nullptr) return static_cast<int>(::syscall(SYS_ioctl, descriptor, request, argument));
  try {
    const int status = camera->control(request, argument);
    return status < 0 ? fail(-status) : status;
  } catch (...) {  // no memory, no thread
    return fail(ENOMEM);
  }
}

void* map(void* address, std::size_t length, int protection, int flags, int descriptor, off_t offset) {
  const std::shared_ptr<EmulatedCamera> camera = descriptor < 0 ? nullptr : devices().find(descriptor);
  if (camera != nullptr) return camera->map(address, length, protection, flags, offset);
  // The system call gives an address or, from the C library's side of it, -1 with errno.
  return reinterpret_cast<void*>(  // NOLINT(performance-no-int-to-ptr)
      ::syscall(SYS_mmap, address, length, protection, flags, descriptor, offset));
}

}  // namespace
}  // namespace molmoact2::emulation

// Each function has a name of its own here and the C library's in the object file, so that no declaration of
// the system's headers stands in the way. The last argument of open and ioctl is optional there; where
// arguments come in registers, reading one that was not given is harmless, and so it is passed on.
#define INTERPOSE(name) __asm__(name) __attribute__((visibility("default")))

namespace emulation = molmoact2::emulation;

extern "C" {

int ma2_open(const char* path, int flags, mode_t mode) INTERPOSE("open");
int ma2_open_2(const char* path, int flags) INTERPOSE("__open_2");
int ma2_openat(int directory, const char* path, int flags, mode_t mode) INTERPOSE("openat");
int ma2_openat_2(int directory, const char* path, int flags) INTERPOSE("__openat_2");
int ma2_open64(const char* path, int flags, mode_t mode) INTERPOSE("open64");
int ma2_open64_2(const char* path, int flags) INTERPOSE("__open64_2");
int ma2_openat64(int directory, const char* path, int flags, mode_t mode) INTERPOSE("openat64");
int ma2_openat64_2(int directory, const char* path, int flags) INTERPOSE("__openat64_2");
int ma2_close(int descriptor) INTERPOSE("close");
int ma2_ioctl(int descriptor, unsigned long request, void* argument) INTERPOSE("ioctl");
void* ma2_mmap(void* address, std::size_t length, int protection, int flags, int descriptor, off_t offset)
    INTERPOSE("mmap");
void* ma2_mmap64(void* address, std::size_t length, int protection, int flags, int descriptor, off_t offset)
    INTERPOSE("mmap64");
int ma2_access(const char* path, int mode) INTERPOSE("access");
int ma2_faccessat(int directory, const char* path, int mode, int flags) INTERPOSE("faccessat");
int ma2_stat(const char* path, void* status) INTERPOSE("stat");
int ma2_lstat(const char* path, void* status) INTERPOSE("lstat");
int ma2_fstatat(int directory, const char* path, void* status, int flags) INTERPOSE("fstatat");
int ma2_xstat(int /*version*/, const char* path, void* status) INTERPOSE("__xstat");
int ma2_lxstat(int /*version*/, const char* path, void* status) INTERPOSE("__lxstat");
int ma2_stat64(const char* path, void* status) INTERPOSE("stat64");
int ma2_lstat64(const char* path, void* status) INTERPOSE("lstat64");
int ma2_fstatat64(int directory, const char* path, void* status, int flags) INTERPOSE("fstatat64");
int ma2_xstat64(int /*version*/, const char* path, void* status) INTERPOSE("__xstat64");
int ma2_lxstat64(int /*version*/, const char* path, void* status) INTERPOSE("__lxstat64");
int ma2_statx(int directory, const char* path, int flags, unsigned mask, struct statx* status)
    INTERPOSE("statx");

int ma2_open(const char* path, int flags, mode_t mode) {
  return emulation::open_at(AT_FDCWD, path, flags, mode);
}

int ma2_open_2(const char* path, int flags) { return emulation::open_at(AT_FDCWD, path, flags, 0); }

int ma2_openat(int directory, const char* path, int flags, mode_t mode) {
  return emulation::open_at(directory, path, flags, mode);
}

int ma2_openat_2(int directory, const char* path, int flags) {
  return emulation::open_at(directory, path, flags, 0);
}

int ma2_open64(const char* path, int flags, mode_t mode) {
  return emulation::open_at(AT_FDCWD, path, flags, mode);
}

int ma2_open64_2(const char* path, int flags) { return emulation::open_at(AT_FDCWD, path, flags, 0); }

int ma2_openat64(int directory, const char* path, int flags, mode_t mode) {
  return emulation::open_at(directory, path, flags, mode);
}

int ma2_openat64_2(int directory, const char* path, int flags) {
  return emulation::open_at(directory, path, flags, 0);
}

int ma2_close(int descriptor) { return emulation::close_descriptor(descriptor); }

int ma2_ioctl(int descriptor, unsigned long request, void* argument) {
  return emulation::control(descriptor, request, argument);
}

void* ma2_mmap(void* address, std::size_t length, int protection, int flags, int descriptor, off_t offset) {
  return emulation::map(address, length, protection, flags, descriptor, offset);
}

void* ma2_mmap64(void* address, std::size_t length, int protection, int flags, int descriptor, off_t offset) {
  return emulation::map(address, length, protection, flags, descriptor, offset);
}

int ma2_access(const char* path, int mode) { return emulation::access_at(AT_FDCWD, path, mode, 0); }

int ma2_faccessat(int directory, const char* path, int mode, int flags) {
  return emulation::access_at(directory, path, mode, flags);
}

int ma2_stat(const char* path, void* status) { return emulation::stat_at(AT_FDCWD, path, status, 0); }

int ma2_lstat(const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int ma2_fstatat(int directory, const char* path, void* status, int flags) {
  return emulation::stat_at(directory, path, status, flags);
}

int ma2_xstat(int /*version*/, const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, 0);
}

int ma2_lxstat(int /*version*/, const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int ma2_stat64(const char* path, void* status) { return emulation::stat_at(AT_FDCWD, path, status, 0); }

int ma2_lstat64(const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int ma2_fstatat64(int directory, const char* path, void* status, int flags) {
  return emulation::stat_at(directory, path, status, flags);
}

int ma2_xstat64(int /*version*/, const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, 0);
}

int ma2_lxstat64(int /*version*/, const char* path, void* status) {
  return emulation::stat_at(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int ma2_statx(int directory, const char* path, int flags, unsigned mask, struct statx* status) {
  return emulation::stat_extended(directory, path, flags, mask, status);
}

}  // extern "C"
