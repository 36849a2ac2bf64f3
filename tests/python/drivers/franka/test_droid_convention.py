"""What DROID's checkpoint was trained on, from and to what the driver speaks."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact2_edge.errors import InputError
from molmoact2_edge.processor import JointConvention, joint_convention


def test_droids_reset_pose_is_the_data_sets() -> None:
    convention = joint_convention("franka_droid")
    assert convention is not None
    robot = [0.0, -36.0, 0.0, -144.0, 0.0, 108.0, 0.0, 100.0]
    pi = np.pi
    expected = [0.0, -pi / 5, 0.0, -4 * pi / 5, 0.0, 3 * pi / 5, 0.0, 0.0]
    assert convention.to_model(robot) == pytest.approx(expected, abs=1e-6)


def test_a_closed_gripper_is_one() -> None:
    convention = joint_convention("franka_droid")
    assert convention is not None
    for percent, closed in ((0.0, 1.0), (25.0, 0.75), (100.0, 0.0)):
        assert convention.to_model([*[0.0] * 7, percent])[7] == pytest.approx(closed)
        assert convention.from_model([*[0.0] * 7, closed])[7] == pytest.approx(percent, abs=1e-5)


def test_there_and_back_is_the_same() -> None:
    convention = joint_convention("franka_droid")
    assert convention is not None
    chunk = np.random.default_rng(1).uniform(-3.0, 3.0, (15, 8)).astype(np.float32)
    assert convention.to_model(convention.from_model(chunk)) == pytest.approx(chunk, abs=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_scales_are_one_a_joint_and_above_zero(scales: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="scales above 0"):
        JointConvention(signs=(1, -1), offsets=(0, 0), scales=scales)
