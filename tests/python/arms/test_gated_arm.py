"""Streamed targets: followed through the gate, never past it, and over when nobody renews them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from arms.fake_arm import MIDDLE, FakeRobot, SilentRobot, away, configuration

from molmoact2_drivers import StopPolicy
from molmoact2_edge.arms.gated_arm import GatedArm
from molmoact2_edge.control import GateState, Reason
from molmoact2_edge.errors import InputError, RobotError

WAIT_S = 20.0
RATE_HZ = 100.0


def until(condition: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Wait, doing something all the time."""
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        meanwhile()
        if condition():
            return True
        time.sleep(0.005)
    return False


def arm(robot: FakeRobot, **options: object) -> GatedArm:
    return GatedArm(robot, configuration(), rate_hz=RATE_HZ, **options)  # type: ignore[arg-type]


def test_a_target_is_reached_within_the_velocity_limit() -> None:
    goal = away(shoulder_pan=20.0, elbow_flex=-20.0, gripper=20.0)
    with arm(FakeRobot(), speed=0.5) as driven:
        assert until(
            lambda: np.allclose(driven.status().command, goal, atol=1e-6), lambda: driven.follow(goal)
        )
        columns = driven.loop.record_columns(0).columns
        state = driven.status()
    commands = columns["command"][columns["written_ns"] > 0]
    fastest = np.abs(np.diff(commands, axis=0)).max(axis=0) * RATE_HZ
    assert (fastest <= np.array([45.0, 45.0, 45.0, 60.0, 60.0, 75.0]) * 1.001).all()
    assert state is not None
    assert state.state is GateState.RUNNING


def test_a_target_that_is_not_renewed_is_over_and_the_arm_holds() -> None:
    with arm(FakeRobot()) as driven:
        assert until(lambda: driven.status().steps > 0, lambda: driven.follow(MIDDLE))
        assert until(lambda: driven.status().state is GateState.HOLDING)
        assert driven.status().reason in (Reason.CHUNK_EXHAUSTED, Reason.CHUNK_STALE)


def test_a_target_beyond_the_jump_limit_is_led_to_instead_of_refused() -> None:
    far = away(shoulder_pan=100.0)
    with arm(FakeRobot()) as driven:
        assert until(lambda: driven.status().steps > 0, lambda: driven.follow(MIDDLE))
        assert until(lambda: driven.status().measured[0] > 99.0, lambda: driven.follow(far))
        assert Reason.JUMP.value not in driven.loop.statistics()["reason_ticks"]


def test_a_first_target_that_is_too_far_is_refused_and_nothing_moves() -> None:
    robot = FakeRobot()
    with arm(robot) as driven:
        for _ in range(5):
            with pytest.raises(
                RobotError, match=r"first target is too far.*shoulder_pan by 80; nothing was moved"
            ):
                driven.follow(away(shoulder_pan=80.0, gripper=30.0))
            time.sleep(0.02)
        assert driven.status().steps == 0
        assert driven.fault is None
    assert np.allclose(robot.read_state().positions, MIDDLE, atol=1e-6)


def test_a_target_that_wanders_off_on_the_way_to_it_is_no_fault() -> None:
    with arm(FakeRobot()) as driven:
        assert driven.follow(away(shoulder_pan=55.0))
        wandering = away(shoulder_pan=95.0)
        assert until(lambda: driven.status().measured[0] > 94.0, lambda: driven.follow(wandering))
        assert driven.fault is None


def test_after_a_restart_the_way_is_slow_again() -> None:
    with arm(FakeRobot()) as driven:
        assert until(lambda: driven.status().steps > 0, lambda: driven.follow(MIDDLE))
        driven.restart()
        assert driven.status().steps == 0
        goal = away(shoulder_pan=20.0)
        assert until(lambda: driven.status().steps > 0, lambda: driven.follow(goal))
        assert Reason.STARTING.value in driven.loop.statistics()["reason_ticks"]


def test_a_target_from_before_the_run_is_not_taken() -> None:
    before = time.monotonic_ns()
    with arm(FakeRobot()) as driven:
        assert not driven.follow(MIDDLE, before)
        assert driven.follow(MIDDLE)


@pytest.mark.parametrize("policy", list(StopPolicy))
def test_it_ends_in_the_stop_policy_also_after_an_error(policy: StopPolicy) -> None:
    robot = FakeRobot()

    def fail() -> None:
        with arm(robot, stop_policy=policy):
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError):
        fail()
    assert robot.stops == [policy]


def test_an_arm_outside_its_limits_is_told_by_joint_and_not_moved() -> None:
    robot = FakeRobot(away(shoulder_pan=130.0))
    with pytest.raises(
        RobotError, match=r"shoulder_pan stands at 130\.0, its limits are -110 to 110.*by hand"
    ):
        arm(robot).__enter__()
    assert robot.stops == [StopPolicy.HOLD]
    assert robot.read_state().positions[0] == 130.0


def test_a_robot_without_a_pose_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molmoact2_edge.arms.gated_arm._FIRST_POSE_S", 0.2)
    with pytest.raises(RobotError, match="no pose"):
        arm(SilentRobot()).__enter__()


@pytest.mark.parametrize("target", [[0.0] * 5, [np.nan] * 6, [0.0, 0.0, 0.0, 0.0, 0.0, np.inf]])
def test_a_target_must_be_a_finite_pose(target: list[float]) -> None:
    with arm(FakeRobot()) as driven, pytest.raises(InputError, match="6 finite joint positions"):
        driven.follow(target)


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.5, float("nan")])
def test_speed_is_a_share(speed: float) -> None:
    with pytest.raises(InputError, match="above 0 to 1"):
        arm(FakeRobot(), speed=speed)


def test_a_stop_policy_that_the_robot_does_not_offer_is_refused_before_anything_moves() -> None:
    robot = FakeRobot()
    robot.offered = frozenset({StopPolicy.HOLD})
    with pytest.raises(InputError, match="cannot end with damp; it offers hold"):
        arm(robot, stop_policy=StopPolicy.DAMP)


def test_another_robot_s_joints_are_refused() -> None:
    with pytest.raises(InputError, match="has the joints a, b"):
        arm(FakeRobot([0.0, 0.0], ("a", "b")))
