#include "control/pacing.h"

#include "check.h"

using molmoact2::control::Pacer;

CASE("a tick that ends in its period is followed by the next deadline") {
  Pacer pacer(1000, 100);
  CHECK_EQ(pacer.deadline(), 1000);
  CHECK_EQ(pacer.advance(1050), 0);
  CHECK_EQ(pacer.deadline(), 1100);
}

CASE("lateness in one tick does not shift the deadlines after it") {
  Pacer pacer(1000, 100);
  for (int tick = 1; tick <= 1000; ++tick) {
    CHECK_EQ(pacer.advance(pacer.deadline() + (tick * 37) % 100), 0);
    CHECK_EQ(pacer.deadline(), 1000 + 100 * tick);
  }
}

CASE("work that ends exactly at the next deadline is on time") {
  Pacer pacer(1000, 100);
  CHECK_EQ(pacer.advance(1100), 0);
  CHECK_EQ(pacer.deadline(), 1100);
}

CASE("an overrun skips whole periods, counts them, and stays on the grid") {
  Pacer pacer(1000, 100);
  CHECK_EQ(pacer.advance(1101), 1);
  CHECK_EQ(pacer.deadline(), 1200);
  CHECK_EQ(pacer.advance(1550), 3);
  CHECK_EQ(pacer.deadline(), 1600);
  CHECK_EQ(pacer.advance(2000), 3);  // due at 1700, missed 1700, 1800, 1900; 2000 is just in time
  CHECK_EQ(pacer.deadline(), 2000);
}

CASE("a stall of minutes is one jump, not a burst of ticks") {
  Pacer pacer(0, 1'000'000);
  CHECK_EQ(pacer.advance(136'000'000'001), 136'000);
  CHECK_EQ(pacer.deadline(), 136'001'000'000);
  CHECK_EQ(pacer.advance(136'001'500'000), 0);
}
