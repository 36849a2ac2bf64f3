"""Steps of one joint: cut at the limits, slow, and given up when the arm is held."""

from __future__ import annotations

import time

import numpy as np
import pytest
from arms.fake_arm import MIDDLE, FakeRobot, away, configuration

from molmoact2_edge.arms.gated_arm import GatedArm
from molmoact2_edge.arms.jogging import Jogger
from molmoact2_edge.control import Reason
from molmoact2_edge.errors import InputError, RobotError

PAN = 0


def driven(robot: FakeRobot, speed: float = 1.0) -> GatedArm:
    return GatedArm(robot, configuration(), rate_hz=100.0, speed=speed)  # type: ignore[arg-type]


def test_one_joint_moves_and_the_others_stay() -> None:
    with driven(FakeRobot()) as arm:
        move = Jogger(arm).move("shoulder_pan", 10.0)
        assert move.arrived
        assert move.goal == pytest.approx(10.0)
        assert move.reached == pytest.approx(10.0, abs=2.0)
        assert np.allclose(arm.status().command[1:], MIDDLE[1:], atol=1e-6)


def test_a_step_over_the_limit_ends_at_it_and_says_so() -> None:
    with driven(FakeRobot(away(shoulder_pan=105.0))) as arm:
        jogger = Jogger(arm)
        assert jogger.move_by("shoulder_pan", 10.0) == pytest.approx(5.0)
        assert jogger.note == "shoulder_pan is at its limit: -110 to 110"
        assert jogger.move_by("shoulder_pan", -2.0) == pytest.approx(-2.0)
        assert jogger.note == ""


def test_a_hold_gives_the_motion_up() -> None:
    """When the watchdog is content again, nothing may move by itself."""
    robot = FakeRobot()
    with driven(robot, speed=0.1) as arm:
        jogger = Jogger(arm)
        jogger.refresh()
        jogger.move_by("shoulder_pan", 50.0)
        for _ in range(10):
            jogger.refresh()
            time.sleep(0.02)
        arm.restart()  # held, as after a watchdog: no target is in force
        held = arm.status().command
        time.sleep(0.05)
        jogger.halt()
        for _ in range(20):
            jogger.refresh()
            time.sleep(0.02)
        assert np.allclose(arm.status().command, held, atol=0.5)


def test_a_blocked_joint_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molmoact2_edge.arms.jogging._SETTLE_S", 0.3)
    with driven(FakeRobot(lag_s=1e6)) as arm:
        move = Jogger(arm).move("shoulder_pan", 8.0)
    assert not move.arrived
    assert move.reached == pytest.approx(0.0, abs=0.1)


def test_a_stop_ends_the_move_with_its_reason() -> None:
    with driven(FakeRobot()) as arm:
        arm.loop.latch_stop(Reason.STOP_FILE)
        with pytest.raises(RobotError, match=r"stopped before shoulder_pan was at 5\.0"):
            Jogger(arm).move("shoulder_pan", 5.0)


def test_a_fault_of_the_robot_is_raised() -> None:
    robot = FakeRobot()
    with driven(robot) as arm:
        jogger = Jogger(arm)
        robot.fault = "the cable is out"
        with pytest.raises(RobotError, match="the cable is out"):
            jogger.refresh()


def test_wrong_arguments_are_refused() -> None:
    with driven(FakeRobot()) as arm:
        jogger = Jogger(arm)
        with pytest.raises(InputError, match="no joint 'elbow'; there are shoulder_pan"):
            jogger.move_by("elbow", 1.0)
        with pytest.raises(InputError, match="finite"):
            jogger.move_by("shoulder_pan", float("nan"))
