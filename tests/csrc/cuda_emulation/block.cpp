#include "block.h"

#include <link.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <sstream>
#include <string_view>
#include <utility>

#include "device_language.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

uint3 threadIdx{};
uint3 blockIdx{};
dim3 blockDim;
dim3 gridDim;

namespace molmoact2::cuda_emulation {

Block* running_block = nullptr;
DeviceThread* running_thread = nullptr;

namespace {

constexpr std::size_t kMostDynamicBytes = 256 * 1024;
constexpr std::size_t kRedZoneBytes = 1024;  // after the dynamic shared memory
constexpr std::size_t kSharedAlignment = 1024;
constexpr unsigned char kFresh = 0xFF;  // as bf16 and as float: NaN
constexpr unsigned char kRedZone = 0xA5;

std::string text(std::source_location where) {
  const std::string_view path = where.file_name();
  std::ostringstream out;
  out << path.substr(path.rfind('/') + 1) << ":" << where.line();
  return out.str();
}

std::string text(uint3 index) {
  std::ostringstream out;
  out << "block (" << index.x << ", " << index.y << ", " << index.z << ")";
  return out.str();
}

// Mostly one and the same literal.
bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same_place(std::source_location a, std::source_location b) {
  return a.line() == b.line() && same_text(a.file_name(), b.file_name());
}

struct Memory {
  std::byte* bytes = nullptr;
  std::size_t size = 0;
};

// The main program's thread-local variables of the calling host thread. The threads that run blocks use none
// but those that `__shared__` made.
Memory thread_local_memory() {
  Memory found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data != nullptr) {
            *static_cast<Memory*>(result) = {static_cast<std::byte*>(info->dlpi_tls_data),
                                             info->dlpi_phdr[i].p_memsz};
          }
        }
        return 1;  // the first entry is the main program
      },
      &found);
  return found;
}

bool within(const void* memory, std::size_t bytes, const std::byte* start, std::size_t size) {
  const auto* const at = static_cast<const std::byte*>(memory);
  return at >= start && at + bytes <= start + size;
}

}  // namespace

std::uint64_t RandomStream::next() {
  state_ += 0x9E3779B97F4A7C15U;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9U;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBU;
  return mixed ^ mixed >> 31;
}

Block::Block()
    : dynamic_memory_(std::make_unique<std::byte[]>(kMostDynamicBytes + kRedZoneBytes + kSharedAlignment)) {
  void* start = dynamic_memory_.get();
  std::size_t space = kMostDynamicBytes + kRedZoneBytes + kSharedAlignment;
  dynamic_shared_ =
      static_cast<std::byte*>(std::align(kSharedAlignment, kMostDynamicBytes + kRedZoneBytes, start, space));
}

Block::~Block() { ASAN_UNPOISON_MEMORY_REGION(dynamic_shared_, kMostDynamicBytes + kRedZoneBytes); }

void Block::prepare_shared() {
  if (static_shared_ == nullptr) {
    const Memory memory = thread_local_memory();
    static_shared_ = memory.bytes;
    static_shared_bytes_ = memory.size;
  }
  if (static_shared_ != nullptr) std::memset(static_shared_, kFresh, static_shared_bytes_);
  const std::size_t bytes = launch_->shared_bytes;
  ASAN_UNPOISON_MEMORY_REGION(dynamic_shared_, kMostDynamicBytes + kRedZoneBytes);
  std::memset(dynamic_shared_, kFresh, bytes);
  std::memset(dynamic_shared_ + bytes, kRedZone, kRedZoneBytes);
  ASAN_POISON_MEMORY_REGION(dynamic_shared_ + bytes, kRedZoneBytes);
}

bool Block::is_shared(const void* memory, std::size_t bytes) const {
  return within(memory, bytes, dynamic_shared_, launch_->shared_bytes) ||
         within(memory, bytes, static_shared_, static_shared_bytes_);
}

void Block::begin(Launch& launch, uint3 index) {
  launch_ = &launch;
  index_ = index;
  const std::uint64_t number =
      (static_cast<std::uint64_t>(index.z) * launch.grid.y + index.y) * launch.grid.x + index.x;
  random_ = RandomStream(launch.seed * 0x100000001B3U + number);
  order_ = static_cast<Order>(random_.below(4));
  prepare_shared();

  thread_count_ = launch.block.x * launch.block.y * launch.block.z;
  alive_ = thread_count_;
  polling_ = 0;
  at_barrier_ = 0;
  predicates_ = 0;
  ready_warps_ = 0;
  ready_lanes_ = {};
  last_warp_ = 0;
  const unsigned warp_count = (thread_count_ + kWarpSize - 1) / kWarpSize;
  warps_.resize(warp_count);
  while (threads_.size() < thread_count_) threads_.push_back(std::make_unique<DeviceThread>());
  free_stacks_.resize(stacks_.size());
  std::iota(free_stacks_.begin(), free_stacks_.end(), std::size_t{0});
  for (unsigned i = 0; i < thread_count_; ++i) {
    DeviceThread& thread = *threads_[i];
    thread.index = {i % launch.block.x, i / launch.block.x % launch.block.y,
                    i / launch.block.x / launch.block.y};
    thread.number = i;
    thread.copies.clear();
    thread.open_group = 0;
    thread.stack = DeviceThread::kNoStack;
    make_ready(thread);
  }
  for (unsigned i = 0; i < warp_count; ++i) {
    warps_[i].members = ready_lanes_[i];
    warps_[i].ended = 0;
    warps_[i].meetings.clear();
  }
}

Block::Outcome Block::resume() {
  running_block = this;
  blockIdx = index_;
  blockDim = launch_->block;
  gridDim = launch_->grid;
  if (polling_ > 0) {
    polling_ = 0;
    for (unsigned i = 0; i < thread_count_; ++i) {
      if (threads_[i]->state == DeviceThread::State::polling) make_ready(*threads_[i]);
    }
  }
  if (DeviceThread* const next = take_ready()) {
    host_.switch_to(turn_to(next));
  }
  running_thread = nullptr;
  running_block = nullptr;
  if (!launch_->failure.empty()) return Outcome::failed;
  if (alive_ == 0) {
    ASAN_UNPOISON_MEMORY_REGION(dynamic_shared_ + launch_->shared_bytes, kRedZoneBytes);
    const std::byte* const zone = dynamic_shared_ + launch_->shared_bytes;
    if (std::any_of(zone, zone + kRedZoneBytes,
                    [](std::byte value) { return value != std::byte{kRedZone}; })) {
      launch_->failure = "the kernel wrote past the end of its dynamic shared memory";
      return Outcome::failed;
    }
    return Outcome::ended;
  }
  if (polling_ > 0) return Outcome::polling;
  launch_->failure = describe_deadlock();
  return Outcome::failed;
}

void Block::run_threads() {
  Context::entered();
  while (true) {
    running_block->launch_->body();
    running_block->end_thread();
  }
}

void Block::make_ready(DeviceThread& thread) {
  thread.state = DeviceThread::State::ready;
  const unsigned warp = thread.number / kWarpSize;
  ready_warps_ |= 1U << warp;
  ready_lanes_[warp] |= 1U << thread.number % kWarpSize;
}

unsigned Block::choose(unsigned mask) {
  switch (order_) {
    case Order::forward:
      break;
    case Order::backward:
      return static_cast<unsigned>(31 - std::countl_zero(mask));
    case Order::one_warp_ahead:
    case Order::random: {
      const unsigned turn = random_.below(32);
      return (static_cast<unsigned>(std::countr_zero(std::rotr(mask, static_cast<int>(turn)))) + turn) % 32;
    }
  }
  return static_cast<unsigned>(std::countr_zero(mask));
}

DeviceThread* Block::take_ready() {
  if (ready_warps_ == 0) return nullptr;
  const bool stay = order_ == Order::one_warp_ahead && ready_lanes_[last_warp_] != 0;
  const unsigned warp = stay ? last_warp_ : choose(ready_warps_);
  const unsigned lane = choose(ready_lanes_[warp]);
  // A warp counts as ready only while a lane of it is.
  ready_lanes_[warp] &= ~(1U << lane);  // NOLINT(clang-analyzer-core.BitwiseShift)
  if (ready_lanes_[warp] == 0) ready_warps_ &= ~(1U << warp);
  last_warp_ = warp;
  return threads_[warp * kWarpSize + lane].get();
}

Context& Block::turn_to(DeviceThread* thread) {
  running_thread = thread;
  if (thread == nullptr) return host_;
  threadIdx = thread->index;
  if (thread->stack == DeviceThread::kNoStack) {
    if (free_stacks_.empty()) {
      free_stacks_.push_back(stacks_.size());
      stacks_.emplace_back();
    }
    thread->stack = free_stacks_.back();
    free_stacks_.pop_back();
    thread->context.start(stacks_[thread->stack], &run_threads);
  }
  return thread->context;
}

void Block::begin_wait(DeviceThread::State state, const char* what, std::source_location where) {
  running_thread->state = state;
  running_thread->waits_for = what;
  running_thread->where = where;
}

void Block::give_way() {
  DeviceThread& self = *running_thread;
  DeviceThread* const next = take_ready();
  if (next != &self) self.context.switch_to(turn_to(next));
}

void Block::poll() {
  ++polling_;
  begin_wait(DeviceThread::State::polling, "memory that it polls", std::source_location::current());
  give_way();
}

void Block::release_barrier() {
  for (unsigned i = 0; i < thread_count_; ++i) {
    if (threads_[i]->state == DeviceThread::State::at_barrier) make_ready(*threads_[i]);
  }
  released_predicates_ = predicates_;
  predicates_ = 0;
  at_barrier_ = 0;
  note_event();
}

unsigned Block::barrier(bool predicate, std::source_location where) {
  if (at_barrier_ == 0) {
    barrier_where_ = where;
  } else if (!same_place(barrier_where_, where)) {
    fail(where, {"threads of one block wait at different barriers, this one and that"}, barrier_where_);
  }
  ++at_barrier_;
  predicates_ += predicate ? 1U : 0U;
  begin_wait(DeviceThread::State::at_barrier, "__syncthreads", where);
  if (at_barrier_ == alive_) release_barrier();  // the last to come is not always the first to go on
  give_way();
  return released_predicates_;
}

void Block::warp_operation(const char* name, unsigned mask, void* operand,
                           void (*combine)(const WarpOperands& operands), std::source_location where) {
  DeviceThread& self = *running_thread;
  const unsigned lane = self.number % kWarpSize;
  const unsigned first = self.number - lane;
  Warp& warp = warps_[self.number / kWarpSize];
  if ((mask >> lane & 1U) == 0) fail(where, {name, " does not name the lane that calls it"});
  if ((mask & ~warp.members) != 0) fail(where, {name, " names lanes that the block does not have"});
  if ((mask & warp.ended) != 0) fail(where, {name, " names lanes whose thread has ended"});
  auto meeting =
      std::ranges::find_if(warp.meetings, [&](const WarpMeeting& other) { return other.mask & mask; });
  if (meeting == warp.meetings.end()) {
    warp.meetings.push_back({name, mask, 0, where, {}});
    meeting = warp.meetings.end() - 1;
  } else if (meeting->mask != mask || !same_text(meeting->name, name)) {
    fail(where,
         {"lanes of one warp meet here at ", name,
          meeting->mask != mask ? ", with different masks, and at " : " and at ", meeting->name},
         meeting->where);
  }
  meeting->operands[lane] = operand;
  meeting->arrived |= 1U << lane;
  if (meeting->arrived != mask) {
    begin_wait(DeviceThread::State::in_warp, name, where);
    give_way();
    return;
  }
  const WarpMeeting complete = *meeting;
  warp.meetings.erase(meeting);
  combine(complete.operands);
  for (unsigned other = 0; other < kWarpSize; ++other) {
    if (other != lane && (mask >> other & 1U) != 0) make_ready(*threads_[first + other]);
  }
  note_event();
}

void Block::end_thread() {
  DeviceThread& self = *running_thread;
  const unsigned lane = self.number % kWarpSize;
  Warp& warp = warps_[self.number / kWarpSize];
  for (const WarpMeeting& meeting : warp.meetings) {
    if ((meeting.mask >> lane & 1U) != 0) {
      fail(meeting.where, {"a thread ended while lanes of its warp wait for it at ", meeting.name});
    }
  }
  warp.ended |= 1U << lane;
  self.state = DeviceThread::State::ended;
  --alive_;
  note_event();
  // As on a device, a barrier waits for no thread that has ended.
  if (at_barrier_ > 0 && at_barrier_ == alive_) release_barrier();
  DeviceThread* const next = take_ready();
  const std::size_t stack = std::exchange(self.stack, DeviceThread::kNoStack);
  if (next != nullptr && next->stack == DeviceThread::kNoStack) {
    next->stack = stack;
    next->context.take_over(self.context);
    running_thread = next;
    threadIdx = next->index;
    return;
  }
  free_stacks_.push_back(stack);  // nobody starts on it before this thread has left
  self.context.leave_to(turn_to(next));
}

void Block::describe_failure(std::source_location where, std::initializer_list<std::string_view> what,
                             std::optional<std::source_location> other) {
  std::ostringstream message;
  message << text(where) << ": ";
  for (const std::string_view part : what) message << part;
  if (other) message << " of " << text(*other);
  message << " (" << text(index_) << ", thread " << running_thread->number << ")";
  launch_->failure = message.str();
}

void Block::fail(std::source_location where, std::initializer_list<std::string_view> what,
                 std::optional<std::source_location> other) {
  describe_failure(where, what, other);
  running_thread->context.leave_to(host_);
}

std::string Block::describe_deadlock() const {
  std::ostringstream message;
  message << "deadlock in " << text(index_) << ":";
  std::vector<bool> told(thread_count_);
  for (unsigned i = 0; i < thread_count_; ++i) {
    const DeviceThread& thread = *threads_[i];
    if (told[i] || thread.state == DeviceThread::State::ended) continue;
    unsigned same = 0;
    for (unsigned j = i; j < thread_count_; ++j) {
      const DeviceThread& other = *threads_[j];
      if (other.state == thread.state && same_place(other.where, thread.where)) {
        told[j] = true;
        ++same;
      }
    }
    message << " " << same << " threads from " << i << " on wait at " << thread.waits_for << " of "
            << text(thread.where) << ";";
  }
  return message.str();
}

}  // namespace molmoact2::cuda_emulation
