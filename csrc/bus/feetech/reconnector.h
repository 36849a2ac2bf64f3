// Brings back an arm whose cable was pulled and put in again, beside the loop and without Python.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "bus/feetech/feetech_port.h"

namespace molmoact2::bus::feetech {

class Reconnector {
 public:
  // An arm that is not back within `patience` stays away: Trouble::unplugged or servos_missing.
  Reconnector(std::shared_ptr<FeetechPort> port, control::Nanoseconds patience);
  Reconnector(const Reconnector&) = delete;
  Reconnector& operator=(const Reconnector&) = delete;
  ~Reconnector() { end(); }

  // Waits for the attempt that is under way; no more follow.
  void end() noexcept;

 private:
  void run() noexcept;
  // True: to end.
  bool pause() noexcept;

  std::shared_ptr<FeetechPort> port_;
  control::Nanoseconds patience_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace molmoact2::bus::feetech
