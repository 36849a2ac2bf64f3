"""Ticks, degrees and per cent: LeRobot's formulas, and the loop's arithmetic in C++ the same to the last bit."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.calibration import (
    JointCalibration,
    degrees_of,
    percent_of,
    ticks_of_degrees,
    ticks_of_percent,
)
from molmoact2_edge._core.feetech import JointScale


@st.composite
def _joints(draw: st.DrawFn) -> JointCalibration:
    low = draw(st.integers(0, 4094))
    return JointCalibration(1, draw(st.integers(0, 1)), 0, low, draw(st.integers(low + 1, 4095)))


def _scale(joint: JointCalibration, percent: bool) -> JointScale:
    return JointScale(joint.range_min, joint.range_max, percent, bool(joint.drive_mode))


@given(_joints(), st.integers(-40_000, 40_000))
def test_degrees_are_lerobots(joint: JointCalibration, ticks: int) -> None:
    middle = (joint.range_min + joint.range_max) / 2
    assert degrees_of(joint, ticks) == (ticks - middle) * 360 / 4095
    assert degrees_of(joint, ticks) == _scale(joint, percent=False).position_of(ticks)


@given(_joints(), st.integers(-40_000, 40_000))
def test_percent_is_lerobots(joint: JointCalibration, ticks: int) -> None:
    bounded = min(joint.range_max, max(joint.range_min, ticks))
    norm = ((bounded - joint.range_min) / (joint.range_max - joint.range_min)) * 100
    assert percent_of(joint, ticks) == (100 - norm if joint.drive_mode else norm)
    assert percent_of(joint, ticks) == _scale(joint, percent=True).position_of(ticks)
    assert 0.0 <= percent_of(joint, ticks) <= 100.0


@given(_joints(), st.data())
def test_every_tick_of_the_range_comes_back(joint: JointCalibration, data: st.DataObject) -> None:
    ticks = data.draw(st.integers(joint.range_min, joint.range_max))
    assert ticks_of_degrees(joint, degrees_of(joint, ticks)) == ticks
    assert ticks_of_percent(joint, percent_of(joint, ticks)) == ticks


@given(_joints(), st.floats(allow_nan=False, allow_infinity=False))
def test_no_position_leaves_the_range(joint: JointCalibration, position: float) -> None:
    for ticks, percent in (
        (ticks_of_degrees(joint, position), False),
        (ticks_of_percent(joint, position), True),
    ):
        assert joint.range_min <= ticks <= joint.range_max
        assert ticks == _scale(joint, percent).ticks_of(position)


@given(_joints(), st.floats(-400.0, 400.0))
def test_a_position_becomes_its_nearest_tick(joint: JointCalibration, position: float) -> None:
    ticks = ticks_of_degrees(joint, position)
    if joint.range_min < ticks < joint.range_max:
        assert math.isclose(degrees_of(joint, ticks), position, abs_tol=0.5 * 360 / 4095 + 1e-9)
