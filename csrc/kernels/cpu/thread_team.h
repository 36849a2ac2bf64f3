// A few persistent threads that walk through one kernel together, phase by phase.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace molmoact2::kernels {

// Phases last microseconds, so a member that arrives early spins before it sleeps; it spins for a bounded
// time, because the others may not be running at all when the machine is busy. Work is claimed piece by piece
// for the same reason: a member that was put aside by the scheduler holds up one piece, not its whole share.
//
// One caller at a time. A forked child has no members but the caller and must make a team of its own.
class ThreadTeam {
 public:
  // At least 1; the caller of run() is one of them. Throws std::system_error when a thread cannot be started.
  explicit ThreadTeam(int threads);
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;
  ~ThreadTeam();

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(member), 0 <= member < size(), on every thread and returns when all have returned. The body
  // must not throw, and every member must make the same calls of for_each().
  void run(const std::function<void(int)>& body);

  // From inside a body: calls piece(i) for every i below `count`, once in the whole team, and returns when
  // all are done. What was written before is then visible to every member.
  template <typename Piece>
  void for_each(int count, const Piece& piece) {
    if (workers_.empty()) {
      for (int i = 0; i < count; ++i) piece(i);
      return;
    }
    for (int i = claim(); i < count; i = claim()) piece(i);
    meet();
  }

 private:
  int claim() { return next_.fetch_add(1, std::memory_order_relaxed); }
  // Returns when every member has arrived; the last to arrive resets the claims.
  void meet();
  void work(int member);
  void stop();

  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  bool stopping_ = false;
  // On cache lines of their own: each is written by one side while the others read another.
  alignas(64) std::atomic<std::uint32_t> job_ = 0;
  alignas(64) std::atomic<std::uint32_t> phase_ = 0;
  alignas(64) std::atomic<int> missing_ = 0;
  alignas(64) std::atomic<int> next_ = 0;
};

}  // namespace molmoact2::kernels
