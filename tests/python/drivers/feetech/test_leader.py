"""The leader: without torque, read, and never commanded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from molmoact2_drivers import LifeCycle, Robot, StopPolicy
from molmoact2_drivers.feetech import ServoBus, SoLeader, Torque
from molmoact2_edge.errors import RobotError

from .conftest import EmulatedArm, disconnecting, eventually


def test_a_leader_is_moved_by_hand_and_read(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with ServoBus(emulated_arm.address) as bus:
        bus.write(1, "goal_position", bus.read(1, "present_position"))
        bus.set_torque([1], Torque.ON)
    with disconnecting(SoLeader(emulated_arm.address, emulated_arm.calibration, name="so101 leader")) as arm:
        assert isinstance(arm, Robot)
        arm.connect()
        arm.configure()
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.OFF}
        arm.activate()
        assert arm.life_cycle is LifeCycle.ACTIVE
        emulated_arm.fault("hand servo=1 degrees=33")
        assert eventually(lambda: abs(arm.read_state().positions[0] - 33.0) < 0.1)
        assert arm.port().read()[0] == "ok"


def test_a_leader_takes_no_commands(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with disconnecting(SoLeader(emulated_arm.address, emulated_arm.calibration)) as arm:
        arm.connect()
        arm.configure()
        arm.activate()
        goals = arm.bus.read_many(range(1, 7), "goal_position")
        with pytest.raises(RobotError, match="a person moves it"):
            arm.write_targets(np.zeros(6))
        assert arm.port().write(np.zeros(6)) == "failed"
        with pytest.raises(RobotError, match="cannot stop with hold; it offers torque_off"):
            arm.stop(StopPolicy.HOLD)
        arm.stop(StopPolicy.TORQUE_OFF)
        assert arm.life_cycle is LifeCycle.CONFIGURED
        assert arm.bus.read_many(range(1, 7), "goal_position") == goals
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.OFF}
