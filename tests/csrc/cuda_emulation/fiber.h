// Stacks that take turns on one host thread. x86-64 and 64-bit Arm, both with the calling convention of
// Linux.
#pragma once

#include <cstddef>
#include <vector>

namespace molmoact2::cuda_emulation {

// A piece of memory for a fiber's stack; the page below it is out of bounds, so that an overflow stops there.
class FiberStack {
 public:
  FiberStack();
  ~FiberStack();
  FiberStack(FiberStack&& other) noexcept;
  FiberStack(const FiberStack&) = delete;
  FiberStack& operator=(const FiberStack&) = delete;
  FiberStack& operator=(FiberStack&&) = delete;

  std::byte* bottom() const { return memory_; }
  static std::size_t size();

 private:
  std::byte* memory_ = nullptr;
};

// Where a fiber, or the host thread that runs fibers, goes on.
class Context {
 public:
  Context() = default;
  ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // The next switch here enters `entry` on the empty stack; `entry` never returns.
  void start(const FiberStack& stack, void (*entry)());
  // Goes on where `other`, the running one, is: for a fiber that takes over the stack of one that has ended.
  void take_over(const Context& other);
  // Call first in `entry`.
  static void entered();
  // Leaves this context, which must be the running one, for `next`; returns when someone switches back.
  void switch_to(Context& next);
  // The same for a fiber that nobody will switch back to.
  [[noreturn]] void leave_to(Context& next);

 private:
  void* stack_pointer_ = nullptr;
  // For the address sanitizer, which must be told of every change of stack.
  const void* stack_bottom_ = nullptr;
  std::size_t stack_size_ = 0;
  [[maybe_unused]] void* fake_stack_ = nullptr;
};

}  // namespace molmoact2::cuda_emulation
