"""The driver protocol: value types, and that the modules stay light."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from molmoact2_drivers import (
    Camera,
    Frame,
    Joint,
    JointUnit,
    LifeCycle,
    Robot,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)


def test_age_is_counted_from_the_measurement() -> None:
    state = RobotState(np.zeros(6), time_ns=1_000)
    assert state.age_ns(5_000) == 4_000
    assert Frame(np.zeros((2, 2, 3), np.uint8), time_ns=7, sequence=3).age_ns(10) == 3


def test_states_are_values() -> None:
    state = RobotState(np.zeros(6), time_ns=1_000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.time_ns = 2  # type: ignore[misc]
    assert state.velocities is None
    assert state.currents is None
    assert state.temperatures is None


def test_joint_names_keep_their_order() -> None:
    joints = (Joint("b", JointUnit.DEGREES, -1, 1, 10), Joint("a", JointUnit.PERCENT, 0, 100, 50))
    capabilities = RobotCapabilities(joints, 100.0, frozenset(), frozenset({StopPolicy.HOLD}))
    assert capabilities.joint_names == ("b", "a")


def test_names_in_reports_are_stable() -> None:
    assert [state.value for state in LifeCycle] == [
        "disconnected",
        "connected",
        "configured",
        "active",
        "error",
    ]
    assert [policy.value for policy in StopPolicy] == ["hold", "damp", "torque_off"]


def test_an_incomplete_driver_is_no_robot() -> None:
    class OnlyReads:
        def read_state(self) -> RobotState:
            return RobotState(np.zeros(1), 0)

    assert not isinstance(OnlyReads(), Robot)
    assert not isinstance(OnlyReads(), Camera)


def test_importing_the_drivers_is_light() -> None:
    code = "import sys, molmoact2_drivers; assert not {'torch', 'mujoco'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
