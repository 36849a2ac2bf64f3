"""The robot file, and what its `connection` section may say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from drivers.yam.arms import configuration

from molmoact2_drivers import Robot
from molmoact2_drivers.protocol import JointUnit, LifeCycle, StopPolicy
from molmoact2_drivers.yam import from_config
from molmoact2_drivers.yam.arm_joints import RANGES
from molmoact2_drivers.yam.settings import JOINTS, read_settings
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError


def test_the_shipped_file_is_two_arms_of_seven_motors() -> None:
    config = load_robot("yam-bimanual")
    settings = read_settings(config)
    assert list(config.joints) == [f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS]
    assert list(config.cameras) == ["top_cam", "left_cam", "right_cam"]
    assert config.policy.norm_tag == "yam_dual_molmoact2"
    assert config.chunk.rate_hz == 30
    assert [motor.id for motor in settings.motors] == [1, 2, 3, 4, 5, 6, 7]
    assert [motor.kp for motor in settings.motors[:6]] == [80, 80, 80, 10, 10, 10]
    assert settings.timeout_counts == 4000
    assert settings.gravity is not None
    assert settings.gravity.scale == (1.0, 1.1, 1.1, 1.2, 1.0, 1.0)


def test_its_limits_lie_within_what_the_joints_can_do_and_its_rate_within_the_bus() -> None:
    config = load_robot("yam-bimanual")
    robot = from_config(config)
    assert isinstance(robot, Robot)
    capabilities = robot.capabilities
    assert capabilities.joint_names == tuple(config.joints)
    assert config.loop.rate_hz <= capabilities.command_rate_max_hz
    for joint in capabilities.joints:
        low, high = config.joints[joint.name].position
        assert joint.lower <= low < high <= joint.upper
        assert config.joints[joint.name].velocity < joint.velocity_max
        assert joint.unit is (JointUnit.PERCENT if joint.name.endswith("gripper") else JointUnit.DEGREES)
    assert capabilities.joints[7].lower == pytest.approx(math.degrees(RANGES[0][0]))
    assert capabilities.stop_policies == frozenset(StopPolicy)


def test_the_loop_gives_up_on_a_silent_bus_before_the_motors_give_up_on_the_loop() -> None:
    config = load_robot("yam-bimanual")
    settings = read_settings(config)
    assert config.loop.silence_hold_s < settings.timeout_s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bauds": 1}, "bauds: no such key; did you mean baud"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"gripper": {"closed": 1.0, "open": 1.0}}, "closed and open"),
        ({"gripper": {"closed": 1.0}}, "gripper.open: missing"),
        ({"motors": {}}, "motors.joint_1: missing"),
        ({"gravity": {"scale": [1, 1, 1]}}, "gravity.scale: expected a list of 6 numbers"),
        ({"port": 3}, "port"),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_config(configuration("/dev/x", **changes))


def test_motors_have_ids_of_their_own_and_joints_are_a_yam_s() -> None:
    config = configuration("/dev/x")
    motors = {name: {**motor, "id": 3} for name, motor in config.connection["motors"].items()}
    with pytest.raises(InputError, match="an id of its own"):
        read_settings(dataclasses.replace(config, connection={**config.connection, "motors": motors}))
    joints = dict(list(config.joints.items())[:6])
    with pytest.raises(InputError, match="joints: expected"):
        read_settings(dataclasses.replace(config, joints=joints))


def test_an_arm_may_have_a_gripper_that_was_put_together_otherwise() -> None:
    config = configuration("/dev/x", "/dev/y")
    connection = dict(config.connection)
    connection["right"] = {"port": "/dev/y", "gripper_closed": 0.2, "gripper_open": -5.0}
    left, right = read_settings(dataclasses.replace(config, connection=connection)).arms
    assert (left.gripper_closed, left.gripper_open) == (0.0, 6.57)
    assert (right.gripper_closed, right.gripper_open) == (0.2, -5.0)


def test_a_port_that_is_missing_or_nothing_is_told() -> None:
    robot = from_config(configuration())
    with pytest.raises(InputError, match=r"connection\.left\.port: not given"):
        robot.connect()
    robot = from_config(configuration("/dev/no-such-adapter"))
    with pytest.raises(RobotError, match="/dev/no-such-adapter"):
        robot.connect()
    assert robot.life_cycle is LifeCycle.DISCONNECTED
    with pytest.raises(RobotError, match="is disconnected, but must be"):
        robot.activate()
    robot.disconnect()
