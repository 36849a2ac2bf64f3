#include "grid.h"

#include <functional>
#include <memory>
#include <numeric>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

namespace molmoact2::cuda_emulation {
namespace {

// So often all live threads may poll without anything happening before it counts as a deadlock.
constexpr int kMostIdleTurns = 1000;

// A host thread for one block at a time, whose thread-local variables are that block's static shared memory.
class Worker {
 public:
  Worker() : thread_([this] { serve(); }) {}
  ~Worker() {
    work_ = nullptr;
    start_.release();
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Runs `work` on the worker's thread and returns when it is done.
  void run(const std::function<void(Block&)>& work) {
    work_ = &work;
    start_.release();
    done_.acquire();
  }

 private:
  void serve() {
    Block block;
    while (true) {
      start_.acquire();
      if (work_ == nullptr) return;
      (*work_)(block);
      done_.release();
    }
  }

  std::binary_semaphore start_{0};
  std::binary_semaphore done_{0};
  const std::function<void(Block&)>* work_ = nullptr;
  std::thread thread_;
};

// Kept from launch to launch: their stacks are costly.
Worker& worker(std::size_t number) {
  static std::vector<std::unique_ptr<Worker>> workers;
  while (workers.size() <= number) workers.push_back(std::make_unique<Worker>());
  return *workers[number];
}

std::uint64_t block_count(const Launch& launch) {
  return static_cast<std::uint64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
}

uint3 block_index(const Launch& launch, std::uint64_t number) {
  const std::uint64_t row = number / launch.grid.x;
  return {static_cast<unsigned>(number % launch.grid.x), static_cast<unsigned>(row % launch.grid.y),
          static_cast<unsigned>(row / launch.grid.y)};
}

// Every number below `count` once, by a stride that shares no factor with it.
class BlockOrder {
 public:
  BlockOrder(std::uint64_t count, std::uint64_t seed) : count_(count) {
    RandomStream random(seed);
    at_ = random.next() % count;
    stride_ = random.next() % count;
    while (std::gcd(stride_, count) != 1) stride_ = stride_ % count + 1;
  }

  std::uint64_t next() {
    at_ = (at_ + stride_) % count_;
    return at_;
  }

 private:
  std::uint64_t count_;
  std::uint64_t at_;
  std::uint64_t stride_;
};

}  // namespace

void run_blocks_in_turn(Launch& launch) {
  worker(0).run([&](Block& block) {
    const std::uint64_t count = block_count(launch);
    BlockOrder order(count, launch.seed);
    for (std::uint64_t i = 0; i < count && launch.failure.empty(); ++i) {
      block.begin(launch, block_index(launch, order.next()));
      int idle = 0;
      std::uint64_t events = launch.events;
      while (block.resume() == Block::Outcome::polling) {
        idle = launch.events == events ? idle + 1 : 0;
        events = launch.events;
        if (idle > kMostIdleTurns) {
          launch.failure =
              "deadlock: all threads of a block that can run poll, and no other block runs beside it in a "
              "launch that is not cooperative";
          break;
        }
      }
    }
  });
}

void run_blocks_together(Launch& launch) {
  const std::uint64_t count = block_count(launch);
  std::vector<std::size_t> live;
  BlockOrder order(count, launch.seed);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t number = order.next();
    live.push_back(number);
    worker(number).run([&](Block& block) { block.begin(launch, block_index(launch, number)); });
  }
  RandomStream random(launch.seed + 1);
  int idle = 0;
  while (!live.empty() && launch.failure.empty()) {
    const std::uint64_t events = launch.events;
    for (std::size_t i = 0; i + 1 < live.size(); ++i) {
      std::swap(live[i], live[i + random.below(static_cast<unsigned>(live.size() - i))]);
    }
    std::erase_if(live, [&](std::size_t number) {
      if (!launch.failure.empty()) return false;
      Block::Outcome outcome{};
      worker(number).run([&](Block& block) { outcome = block.resume(); });
      return outcome == Block::Outcome::ended;
    });
    idle = launch.events == events ? idle + 1 : 0;
    if (idle > kMostIdleTurns) launch.failure = "deadlock: all threads of the grid that can run poll";
  }
}

}  // namespace molmoact2::cuda_emulation
