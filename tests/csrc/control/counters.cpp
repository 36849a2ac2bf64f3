#include "counters.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOLMOACT2_COUNTERS 0
#else
#define MOLMOACT2_COUNTERS 1
#endif

namespace molmoact2::control {

namespace {

// Constant initialization: the replaced functions run before any constructor.
thread_local bool counting = false;
thread_local Counts counts;

}  // namespace

bool counters_work() noexcept { return MOLMOACT2_COUNTERS != 0; }

void begin_counting() noexcept {
  counts = Counts{};
  counting = true;
}

Counts end_counting() noexcept {
  counting = false;
  return counts;
}

#if MOLMOACT2_COUNTERS

namespace {

void note_allocation() noexcept {
  if (counting) ++counts.allocations;
}

void note_lock() noexcept {
  if (counting) ++counts.locks;
}

// The C library's function of that name.
template <typename Function>
Function* original(const char* name) noexcept {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

#endif

}  // namespace molmoact2::control

#if MOLMOACT2_COUNTERS

using molmoact2::control::note_allocation;
using molmoact2::control::note_lock;
using molmoact2::control::original;

// dlsym() itself allocates, so memory goes straight to glibc's names for it. All names here are glibc's.
// NOLINTBEGIN(*-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
extern "C" {

void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  note_allocation();
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  note_allocation();
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  note_allocation();
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  note_allocation();
  return __libc_memalign(alignment, size);
}

#define MOLMOACT2_COUNTED(name, parameters, ...)                              \
  int name parameters {                                                       \
    note_lock();                                                              \
    static int(*const function) parameters = original<int parameters>(#name); \
    return function(__VA_ARGS__);                                             \
  }

MOLMOACT2_COUNTED(pthread_mutex_lock, (pthread_mutex_t * mutex), mutex)
MOLMOACT2_COUNTED(pthread_mutex_trylock, (pthread_mutex_t * mutex), mutex)
MOLMOACT2_COUNTED(pthread_mutex_timedlock, (pthread_mutex_t * mutex, const timespec* until), mutex, until)
MOLMOACT2_COUNTED(pthread_mutex_clocklock, (pthread_mutex_t * mutex, clockid_t clock, const timespec* until),
                  mutex, clock, until)
MOLMOACT2_COUNTED(pthread_rwlock_rdlock, (pthread_rwlock_t * lock), lock)
MOLMOACT2_COUNTED(pthread_rwlock_wrlock, (pthread_rwlock_t * lock), lock)
MOLMOACT2_COUNTED(pthread_spin_lock, (pthread_spinlock_t * lock), lock)
MOLMOACT2_COUNTED(pthread_cond_wait, (pthread_cond_t * condition, pthread_mutex_t* mutex), condition, mutex)
MOLMOACT2_COUNTED(pthread_cond_timedwait,
                  (pthread_cond_t * condition, pthread_mutex_t* mutex, const timespec* until), condition,
                  mutex, until)
MOLMOACT2_COUNTED(pthread_cond_clockwait,
                  (pthread_cond_t * condition, pthread_mutex_t* mutex, clockid_t clock,
                   const timespec* until),
                  condition, mutex, clock, until)
MOLMOACT2_COUNTED(sem_wait, (sem_t * semaphore), semaphore)
MOLMOACT2_COUNTED(sem_timedwait, (sem_t * semaphore, const timespec* until), semaphore, until)

#undef MOLMOACT2_COUNTED

// std::atomic::wait() of libstdc++ comes this way.
long syscall(long number, ...) {
  if (number == SYS_futex) note_lock();
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  static auto* const function = original<long(long, ...)>("syscall");
  return function(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

}  // extern "C"
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
// NOLINTEND(*-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)

#endif
