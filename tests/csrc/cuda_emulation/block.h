// One block of a running kernel: its threads as fibers, their barriers, and who goes on next.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <vector>

#include "fiber.h"
#include "vector_types.h"

namespace molmoact2::cuda_emulation {

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMostThreads = 1024;  // of a block

// Repeatable numbers from a seed (splitmix64).
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed = 0) : state_(seed) {}
  std::uint64_t next();
  // 0 to count - 1.
  unsigned below(unsigned count) { return static_cast<unsigned>((next() >> 32) * count >> 32); }

 private:
  std::uint64_t state_;
};

// A started kernel. The first failure of any of its blocks ends all of it.
struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
  std::function<void()> body;  // one thread's work
  std::uint64_t seed = 0;
  std::uint64_t events = 0;  // what threads did besides polling: tells waiting from a deadlock
  std::string failure;
};

// A copy that cp.async started and that has not happened yet.
struct PendingCopy {
  void* to = nullptr;
  const void* from = nullptr;  // null: zeros
  unsigned group = 0;
};

struct DeviceThread {
  enum class State : std::uint8_t { ready, polling, at_barrier, in_warp, ended };
  static constexpr std::size_t kNoStack = static_cast<std::size_t>(-1);

  Context context;
  uint3 index{};
  unsigned number = 0;  // in the block; warp number / 32, lane number % 32
  State state = State::ready;
  std::size_t stack = kNoStack;  // until it first runs, and after it has ended
  const char* waits_for = "";
  std::source_location where;
  std::vector<PendingCopy> copies;
  unsigned open_group = 0;
};

// Operands of the lanes that meet at one warp operation; null for lanes that are not named.
using WarpOperands = std::array<void*, kWarpSize>;

class Block {
 public:
  enum class Outcome : std::uint8_t { ended, polling, failed };

  Block();
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // On the host thread that then resumes it: static shared memory belongs to that thread.
  void begin(Launch& launch, uint3 index);
  // Lets threads run until all have ended, or until those that can run do nothing but poll.
  Outcome resume();

  // What device code calls, from its fiber.
  // Meets all threads that have not ended; returns for how many of them `predicate` holds.
  unsigned barrier(bool predicate, std::source_location where);
  // Meets the lanes in `mask`; the last to come runs `combine` on the operands of all.
  void warp_operation(const char* name, unsigned mask, void* operand,
                      void (*combine)(const WarpOperands& operands), std::source_location where);
  // Lets others run: for a thread that reads what others may be about to write.
  void poll();
  // For a thread that wrote what others may poll.
  void note_event() { ++launch_->events; }
  // Ends the launch: `what`, joined, at `where`, in contrast to `other`. Fibers are left as they stand, so
  // that nothing on their stacks may own memory.
  [[noreturn]] void fail(std::source_location where, std::initializer_list<std::string_view> what,
                         std::optional<std::source_location> other = {});

  void* dynamic_shared() const { return dynamic_shared_; }
  // True for memory that ldmatrix and cp.async may call shared.
  bool is_shared(const void* memory, std::size_t bytes) const;

 private:
  enum class Order : std::uint8_t { forward, backward, one_warp_ahead, random };

  struct WarpMeeting {
    const char* name = nullptr;
    unsigned mask = 0;
    unsigned arrived = 0;
    std::source_location where;
    WarpOperands operands{};
  };

  struct Warp {
    unsigned members = 0;  // lanes that exist
    unsigned ended = 0;
    std::vector<WarpMeeting> meetings;  // of disjoint masks
  };

  static void run_threads();
  void make_ready(DeviceThread& thread);
  DeviceThread* take_ready();
  // Where control goes from here: to this thread, or to the host where it is null.
  Context& turn_to(DeviceThread* thread);
  unsigned choose(unsigned mask);
  // The running thread waits from now on ...
  static void begin_wait(DeviceThread::State state, const char* what, std::source_location where);
  // ... and someone goes on: itself, if it was made ready again and its turn comes.
  void give_way();
  // Returns in the next thread where that takes over the stack, else never.
  void end_thread();
  void release_barrier();
  void describe_failure(std::source_location where, std::initializer_list<std::string_view> what,
                        std::optional<std::source_location> other);
  std::string describe_deadlock() const;
  void prepare_shared();

  Launch* launch_ = nullptr;
  uint3 index_{};
  Context host_;
  std::vector<FiberStack> stacks_;
  std::vector<std::size_t> free_stacks_;
  std::vector<std::unique_ptr<DeviceThread>> threads_;
  std::vector<Warp> warps_;
  unsigned thread_count_ = 0;
  unsigned alive_ = 0;
  unsigned polling_ = 0;

  RandomStream random_;
  Order order_ = Order::forward;
  unsigned ready_warps_ = 0;
  std::array<unsigned, kMostThreads / kWarpSize> ready_lanes_{};
  unsigned last_warp_ = 0;

  unsigned at_barrier_ = 0;
  unsigned predicates_ = 0;
  unsigned released_predicates_ = 0;
  std::source_location barrier_where_;

  std::byte* static_shared_ = nullptr;  // of the host thread that runs the block
  std::size_t static_shared_bytes_ = 0;
  std::unique_ptr<std::byte[]> dynamic_memory_;
  std::byte* dynamic_shared_ = nullptr;
};

// Of the fiber that runs. Plain variables: host threads hand over to one another and never run at once.
extern Block* running_block;
extern DeviceThread* running_thread;

}  // namespace molmoact2::cuda_emulation
