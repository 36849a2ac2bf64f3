#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a called function must preserve on the stack that is left, and takes it from the one entered.
extern "C" void molmoact2_switch_stack(void** save_stack_pointer, void* stack_pointer);

#if defined(__x86_64__)
__asm__(R"(
.text
.p2align 4
.globl molmoact2_switch_stack
.hidden molmoact2_switch_stack
.type molmoact2_switch_stack, @function
molmoact2_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size molmoact2_switch_stack, .-molmoact2_switch_stack
)");
#elif defined(__aarch64__)
__asm__(R"(
.text
.p2align 4
.globl molmoact2_switch_stack
.hidden molmoact2_switch_stack
.type molmoact2_switch_stack, %function
molmoact2_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size molmoact2_switch_stack, .-molmoact2_switch_stack
)");
#else
#error "the CUDA emulation knows the stacks of x86-64 and 64-bit Arm only"
#endif

namespace molmoact2::cuda_emulation {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kStackBytes = 256 * 1024;  // its frames are several times larger
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif

std::size_t guard_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

#ifdef __SANITIZE_ADDRESS__
Context* leaving = nullptr;  // tells the context that is entered whose bounds it learns
#endif

}  // namespace

FiberStack::FiberStack() {
  void* const memory = mmap(nullptr, kStackBytes + guard_bytes(), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(memory, guard_bytes(), PROT_NONE) != 0) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory) + guard_bytes();
}

FiberStack::~FiberStack() {
  if (memory_ != nullptr) munmap(memory_ - guard_bytes(), kStackBytes + guard_bytes());
}

FiberStack::FiberStack(FiberStack&& other) noexcept : memory_(other.memory_) { other.memory_ = nullptr; }

std::size_t FiberStack::size() { return kStackBytes; }

void Context::start(const FiberStack& stack, void (*entry)()) {
  stack_bottom_ = stack.bottom();
  stack_size_ = FiberStack::size();
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack.bottom(), FiberStack::size());  // frames of a fiber that never returned
#endif
  // As if `entry` had been called from nowhere: what the switch takes from the stack, then its return
  // address.
  auto* const top = reinterpret_cast<std::uintptr_t*>(stack.bottom() + FiberStack::size());
#if defined(__x86_64__)
  top[-1] = 0;
  top[-2] = reinterpret_cast<std::uintptr_t>(entry);
  constexpr int kSaved = 6;
  std::uintptr_t* const frame = top - 2 - kSaved;
  for (int i = 0; i < kSaved; ++i) frame[i] = 0;
#else
  constexpr int kSaved = 20;
  std::uintptr_t* const frame = top - kSaved;
  for (int i = 0; i < kSaved; ++i) frame[i] = 0;
  frame[11] = reinterpret_cast<std::uintptr_t>(entry);  // x30
#endif
  stack_pointer_ = frame;
}

void Context::take_over(const Context& other) {
  stack_bottom_ = other.stack_bottom_;
  stack_size_ = other.stack_size_;
}

void Context::entered() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &leaving->stack_bottom_, &leaving->stack_size_);
#endif
}

void Context::switch_to(Context& next) {
#ifdef __SANITIZE_ADDRESS__
  leaving = this;
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_bottom_, next.stack_size_);
#endif
  molmoact2_switch_stack(&stack_pointer_, next.stack_pointer_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack_, &leaving->stack_bottom_, &leaving->stack_size_);
#endif
}

void Context::leave_to(Context& next) {
#ifdef __SANITIZE_ADDRESS__
  leaving = this;
  __sanitizer_start_switch_fiber(nullptr, next.stack_bottom_, next.stack_size_);
#endif
  molmoact2_switch_stack(&stack_pointer_, next.stack_pointer_);
  std::abort();
}

}  // namespace molmoact2::cuda_emulation
