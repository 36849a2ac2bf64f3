#include "control/resampling.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace molmoact2::control;

namespace {

double at(const std::vector<double>& actions, double position, Resampling how) {
  JointVector target{};
  sample({actions.data(), actions.size(), 1}, position, how, target);
  return target[0];
}

std::vector<double> random_actions(std::mt19937_64& random, std::size_t rows) {
  std::uniform_real_distribution<double> values(-100.0, 100.0);
  std::vector<double> actions(rows);
  for (double& action : actions) action = std::round(values(random)) / 4.0;  // with equal neighbours at times
  return actions;
}

}  // namespace

CASE("both ways pass through every action, and stay at the last") {
  std::mt19937_64 random(3);
  const std::vector<double> actions = random_actions(random, 12);
  for (const Resampling how : {Resampling::linear, Resampling::cubic}) {
    for (std::size_t row = 0; row < actions.size(); ++row) {
      CHECK_EQ(at(actions, static_cast<double>(row), how), actions[row]);
    }
    CHECK_EQ(at(actions, 11.9, how), actions.back());
    CHECK_EQ(at({4.0}, 0.5, how), 4.0);
  }
}

CASE("cubic never leaves the interval between the two actions beside it") {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> parts(0.0, 1.0);
  for (int trial = 0; trial < 20000; ++trial) {
    const std::vector<double> actions = random_actions(random, 2 + static_cast<std::size_t>(trial % 7));
    const std::size_t row = random() % (actions.size() - 1);
    const double target = at(actions, static_cast<double>(row) + parts(random), Resampling::cubic);
    CHECK(target >= std::min(actions[row], actions[row + 1]));
    CHECK(target <= std::max(actions[row], actions[row + 1]));
  }
}

CASE("the velocity of cubic is continuous at every action, where that of linear jumps") {
  const std::vector<double> actions{0.0, 1.0, 3.0, 4.0, 4.0, 1.0, -6.0, -6.5};
  constexpr double kStep = 1e-5;
  for (std::size_t row = 1; row + 1 < actions.size(); ++row) {
    const auto here = static_cast<double>(row);
    const auto jump = [&](Resampling how) {
      const double before = (at(actions, here, how) - at(actions, here - kStep, how)) / kStep;
      const double after = (at(actions, here + kStep, how) - at(actions, here, how)) / kStep;
      return std::abs(after - before);
    };
    CHECK(jump(Resampling::cubic) < 1e-3);
    const double corner = std::abs(actions[row + 1] - 2.0 * actions[row] + actions[row - 1]);
    CHECK_NEAR(jump(Resampling::linear), corner, 1e-3);
  }
  const double last =
      (at(actions, 7.0, Resampling::cubic) - at(actions, 7.0 - kStep, Resampling::cubic)) / kStep;
  CHECK_NEAR(last, 0.0, 1e-3);  // the arm stands after it
}

CASE("cubic keeps a straight line straight") {
  std::vector<double> actions(20);
  for (std::size_t row = 0; row < 20; ++row) actions[row] = 3.0 * static_cast<double>(row);
  for (int i = 0; i < 48; ++i) {
    const double position = 0.37 * i;
    CHECK_NEAR(at(actions, position, Resampling::cubic), 3.0 * position, 1e-9);
  }
}

CASE("what is not finite shows beside itself, not beyond") {
  const std::vector<double> actions{0.0, 1.0, 2.0, NAN, 4.0, HUGE_VAL, 6.0};
  for (const Resampling how : {Resampling::linear, Resampling::cubic}) {
    CHECK(std::isfinite(at(actions, 1.5, how)));
    CHECK_EQ(at(actions, 2.0, how), 2.0);
    for (const double beside : {2.5, 3.0, 3.5, 4.5, 5.0, 5.5})
      CHECK(!std::isfinite(at(actions, beside, how)));
    CHECK_EQ(at(actions, 4.0, how), 4.0);
  }
}
