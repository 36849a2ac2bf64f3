"""Whole turns that a servo counts beside its joint's range."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.dynamixel.settings import ServoSettings, position_of, whole_turns


@given(
    ends=st.lists(st.integers(0, 4095), min_size=2, max_size=2, unique=True).map(sorted),
    share=st.floats(0.0, 1.0),
    turns=st.integers(-255, 255),
    joint=st.sampled_from(["elbow_flex", "gripper"]),
)
def test_a_pose_in_the_range_is_the_same_whichever_turn_the_servo_counts(
    ends: list[int], share: float, turns: int, joint: str
) -> None:
    low, high = ends
    calibration = JointCalibration(1, 0, 0, low, high)
    servo = ServoSettings(joint, 1)
    ticks = round(low + share * (high - low))
    assert whole_turns(calibration, ticks) == 0
    assert whole_turns(calibration, ticks + 4096 * turns) == turns
    assert position_of(servo, calibration, ticks + 4096 * turns) == position_of(servo, calibration, ticks)


def test_beside_the_range_the_nearest_turn_counts() -> None:
    calibration = JointCalibration(1, 0, 0, 1000, 3000)
    for ticks, turns in ((-47, 0), (-49, -1), (4047, 0), (4049, 1), (8143, 1), (8145, 2)):
        assert whole_turns(calibration, ticks) == turns
