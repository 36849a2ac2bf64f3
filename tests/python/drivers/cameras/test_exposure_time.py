"""Stamps of either clock, and of none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.cameras.exposure_time import ExposureClock

MONOTONIC_NS = 5_000_000_000_000
REALTIME_NS = 1_700_000_000_000_000_000
CLOCK = ExposureClock(lambda: MONOTONIC_NS, lambda: REALTIME_NS)


@given(st.integers(0, 10_000_000_000))
def test_a_stamp_of_either_clock_has_its_age(age_ns: int) -> None:
    assert CLOCK.exposed_ns(MONOTONIC_NS - age_ns) == MONOTONIC_NS - age_ns
    assert CLOCK.exposed_ns(REALTIME_NS - age_ns) == MONOTONIC_NS - age_ns


@given(st.integers(1, 10_000_000_000))
def test_a_stamp_that_lies_ahead_is_now(ahead_ns: int) -> None:
    assert CLOCK.exposed_ns(MONOTONIC_NS + ahead_ns) == MONOTONIC_NS
    assert CLOCK.exposed_ns(REALTIME_NS + ahead_ns) == MONOTONIC_NS


def test_a_stamp_that_tells_nothing_is_its_arrival() -> None:
    for stamp_ns in (0, 123_456_789, MONOTONIC_NS - 11_000_000_000, MONOTONIC_NS * 3):
        assert CLOCK.exposed_ns(stamp_ns) == MONOTONIC_NS


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_stamp_is_later_than_now(stamp_ns: int) -> None:
    exposed_ns = CLOCK.exposed_ns(stamp_ns)
    assert MONOTONIC_NS - 10_000_000_000 <= exposed_ns <= MONOTONIC_NS
