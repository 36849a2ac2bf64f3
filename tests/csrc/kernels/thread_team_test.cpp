#include "kernels/cpu/thread_team.h"

#include <atomic>
#include <vector>

#include "check.h"

namespace molmoact2::kernels {
namespace {

CASE("every piece of every phase is done once, and is visible to all in the next") {
  for (const int threads : {1, 2, 3}) {
    ThreadTeam team(threads);
    CHECK_EQ(team.size(), threads);
    for (int round = 0; round < 20; ++round) {
      std::vector<int> done(17, 0);
      std::atomic<int> wrong = 0;
      team.run([&](int) {
        for (int phase = 0; phase < 10; ++phase) {
          // A plain array: the meeting after each phase must order the writes.
          team.for_each(17, [&](int i) { wrong += done[static_cast<std::size_t>(i)]++ != phase ? 1 : 0; });
          for (const int count : done) wrong += count != phase + 1 ? 1 : 0;
          team.for_each(0, [&](int) { ++wrong; });
        }
      });
      CHECK_EQ(wrong.load(), 0);
    }
  }
}

CASE("every member runs the body once") {
  ThreadTeam team(3);
  std::vector<int> calls(3, 0);
  team.run([&](int member) { ++calls[static_cast<std::size_t>(member)]; });
  CHECK(calls == std::vector<int>({1, 1, 1}));
}

CASE("a team that never ran ends") {
  for (int i = 0; i < 20; ++i) ThreadTeam team(3);
}

}  // namespace
}  // namespace molmoact2::kernels
