#include "control/scheduling.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace molmoact2::control {

namespace {

#ifndef MCL_ONFAULT
constexpr int kLockFlags = MCL_CURRENT | MCL_FUTURE;
#else
// Pages are locked as they are first used; without this, mapping a large checkpoint would read all of it at
// once.
constexpr int kLockFlags = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
#endif

bool may_lock_everything() {
  rlimit limit{};
  return geteuid() == 0 || (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY);
}

}  // namespace

std::vector<SchedulingWarning> request_scheduling(const SchedulingRequest& request) {
  std::vector<SchedulingWarning> warnings;
  if (!request.cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    bool usable = true;
    for (const int cpu : request.cpus) {
      usable = usable && cpu >= 0 && cpu < CPU_SETSIZE;
      if (usable) {
        CPU_SET(static_cast<std::size_t>(cpu), &set);
      }
    }
    const int error = usable ? pthread_setaffinity_np(pthread_self(), sizeof(set), &set) : EINVAL;
    if (error != 0) {
      warnings.push_back({"affinity_refused", std::string("the requested CPUs were refused (") +
                                                  std::strerror(error) +
                                                  "); name CPUs that this process may use"});
    }
  }
  if (request.lock_memory) {
    // With a finite limit, MCL_FUTURE would succeed now and make a later allocation anywhere in the process
    // fail.
    if (!may_lock_everything()) {
      warnings.push_back({"memory_lock_refused",
                          "RLIMIT_MEMLOCK is finite, so memory stays unlocked; set 'memlock unlimited' for "
                          "this user in /etc/security/limits.conf"});
    } else if (mlockall(kLockFlags) != 0) {
      warnings.push_back({"memory_lock_refused", std::string("mlockall failed (") + std::strerror(errno) +
                                                     "); give the process CAP_IPC_LOCK"});
    }
  }
  if (request.fifo_priority > 0) {
    sched_param parameters{};
    parameters.sched_priority = request.fifo_priority;
    const int error = pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters);
    if (error != 0) {
      warnings.push_back({"fifo_refused", std::string("SCHED_FIFO priority ") +
                                              std::to_string(request.fifo_priority) + " was refused (" +
                                              std::strerror(error) +
                                              "); set 'rtprio 95' for this user in "
                                              "/etc/security/limits.conf or give the process CAP_SYS_NICE"});
    }
  }
  return warnings;
}

}  // namespace molmoact2::control
