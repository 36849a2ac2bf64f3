"""The arithmetic of a measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up import BEGIN_NS, PERIOD_NS, make_ticks

from molmoact2_edge.profile.ticks import Ticks, duration, histogram, largest_over_time, spread


def test_a_delay_of_one_tick_is_an_error_of_the_period_before_and_after_it() -> None:
    late = np.zeros(5)
    late[2] = 70.0
    errors = make_ticks(late, ticks=5).period_errors(PERIOD_NS)
    assert errors.tolist() == [0, 70_000, 70_000, 0]


def test_a_constant_delay_is_no_period_error_but_lateness() -> None:
    ticks = make_ticks(300.0, ticks=10)
    assert not ticks.period_errors(PERIOD_NS).any()
    assert set(ticks.lateness()) == {300_000}
    assert set(ticks.completion()) == {340_000}


def test_a_skipped_period_is_an_error_of_a_period() -> None:
    ticks = make_ticks(0.0, ticks=10)
    kept = Ticks(**{name: np.delete(values, 4, axis=0) for name, values in vars(ticks).items()})
    assert sorted(kept.period_errors(PERIOD_NS)) == [0] * 7 + [PERIOD_NS]


def test_the_stages_add_up_to_the_time_from_deadline_to_end() -> None:
    ticks = make_ticks(np.arange(10.0), ticks=10)
    assert list(ticks.stages()) == ["wake-up", "read", "compute", "write"]
    assert np.array_equal(sum(ticks.stages().values()), ticks.completion())


def test_a_window_keeps_what_was_due_in_it() -> None:
    ticks = make_ticks(0.0, ticks=10).between(BEGIN_NS + PERIOD_NS, BEGIN_NS + 4 * PERIOD_NS)
    assert ((ticks.deadline - BEGIN_NS) // PERIOD_NS).tolist() == [1, 2, 3]
    assert ticks.target.shape == (3, 6)


def test_ticks_from_telemetry() -> None:
    row = {
        "deadline_ns": 100, "wakeup_ns": 110, "read_ns": 3, "write_ns": 2, "busy_ns": 9, "skipped_periods": 1,
        "target": np.array([1.0, 2.0]), "command": np.array([1.5, 2.5]), "measured": np.array([0.5, 1.5]),
    }  # fmt: skip
    records: Any = [row, {**row, "wakeup_ns": 115}]
    ticks = Ticks.from_records(records)
    assert ticks.lateness().tolist() == [10, 15]
    assert ticks.command.tolist() == [[1.5, 2.5]] * 2
    assert len(Ticks.from_records([])) == 0


def test_quantiles_are_durations_that_occurred() -> None:
    nanoseconds = np.arange(1, 1001, dtype=np.int64) * 1_000_000
    found = spread(nanoseconds)
    assert found["count"] == 1000
    assert (found["p50_ms"], found["p99_ms"], found["p999_ms"], found["max_ms"]) == (
        501.0,
        991.0,
        1000.0,
        1000.0,
    )
    assert found["mean_ms"] == 500.5
    assert spread(np.array([], dtype=np.int64))["max_ms"] == 0.0


def test_the_histogram_counts_everything_once() -> None:
    nanoseconds = np.array([0, 400, 999, 1_500, 1_500_000, 999_000_000, 90_000_000_000], dtype=np.int64)
    found = histogram(nanoseconds)
    edges, counts = found["edges_us"], found["counts"]
    assert len(edges) == len(counts) == 61
    assert sum(counts) == nanoseconds.size
    assert counts[0] == 3  # under a microsecond
    assert counts[edges.index(1584.893)] == 1  # 1259 to 1585 us
    assert counts[-1] == 2


def test_the_timeline_keeps_the_largest_of_each_moment() -> None:
    times = np.array([0, 10, 25, 99], dtype=np.int64)
    found = largest_over_time(times, np.array([1, 5, 2, 7], dtype=np.int64) * 1_000_000, 0, 100, count=4)
    assert found["max_ms"] == [5.0, 2.0, None, 7.0]
    assert found["width_s"] == pytest.approx(25e-9)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0004, "0.4 µs"), (0.0144, "14.4 µs"), (0.5, "500 µs"), (9.55, "9.55 ms"), (1234.0, "1.23 s")],
)
def test_durations_for_people(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text
