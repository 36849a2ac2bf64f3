"""Leader to follower: slow to begin, held when the leader is lost, slow again when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from arms.fake_arm import JOINTS, MIDDLE, FakeLeader, FakeRobot, away, configuration

from molmoact2_drivers import LifeCycle, StopPolicy
from molmoact2_edge.arms.gated_arm import GatedArm
from molmoact2_edge.arms.teleoperation import LeaderReader, Phase, Teleoperation, TeleoperationStatus
from molmoact2_edge.control import Reason
from molmoact2_edge.errors import InputError, RobotError

WAIT_S = 20.0
RATE_HZ = 100.0


class Pair:
    """A leader and a follower that teleoperation runs between."""

    def __init__(self, leader: FakeLeader, arm: GatedArm, joints: tuple[str, ...]) -> None:
        self.leader, self.arm = leader, arm
        self.reader = LeaderReader(leader, RATE_HZ)  # type: ignore[arg-type]
        self.teleoperation = Teleoperation(self.reader, joints, arm)
        self.phases: list[Phase] = []

    def until(self, *phases: Phase, for_s: float = 0.0) -> TeleoperationStatus:
        """Step until one of the phases has lasted for a while."""
        give_up, since = time.monotonic() + WAIT_S, None
        while time.monotonic() < give_up:
            status = self.teleoperation.step()
            if not self.phases or self.phases[-1] is not status.phase:
                self.phases.append(status.phase)
            if status.phase not in phases:
                since = None
            elif since is None:
                since = time.monotonic()
            if since is not None and time.monotonic() - since >= for_s:
                return status
            time.sleep(1.0 / RATE_HZ)
        raise AssertionError(f"never {phases}; was {self.phases}")


@contextmanager
def pair(
    leader_pose: np.ndarray = MIDDLE, follower_pose: np.ndarray = MIDDLE, joints: tuple[str, ...] = JOINTS
) -> Iterator[Pair]:
    leader = FakeLeader(leader_pose, joints)
    with GatedArm(FakeRobot(follower_pose), configuration(), rate_hz=RATE_HZ) as arm:  # type: ignore[arg-type]
        both = Pair(leader, arm, joints)
        both.reader.start()
        try:
            yield both
        finally:
            both.reader.stop()


def test_the_follower_comes_to_the_leader_slowly_and_then_follows() -> None:
    with pair(leader_pose=away(shoulder_pan=30.0)) as both:
        both.until(Phase.APPROACHING)
        both.until(Phase.FOLLOWING)
        assert Reason.STARTING.value in both.arm.loop.statistics()["reason_ticks"]
        both.leader.pose[3] = 12.0
        status = both.until(Phase.FOLLOWING, for_s=1.0)
        assert status.arm is not None
        assert np.allclose(status.arm.measured, away(shoulder_pan=30.0, wrist_flex=12.0), atol=0.5)
        assert status.lag < 0.5
        assert both.leader.stops == [StopPolicy.TORQUE_OFF]


def test_a_leader_that_is_too_far_away_moves_nothing_until_it_is_nearer() -> None:
    with pair(leader_pose=away(shoulder_pan=90.0)) as both:
        status = both.until(Phase.TOO_FAR, for_s=0.3)
        assert set(status.far) == {"shoulder_pan"}
        assert status.far["shoulder_pan"] == pytest.approx(90.0, abs=0.5)
        assert np.allclose(status.arm.command, MIDDLE, atol=1e-6)
        both.leader.pose[0] = 40.0
        both.until(Phase.FOLLOWING)


def test_a_lost_leader_holds_and_is_approached_slowly_when_it_is_back() -> None:
    with pair() as both:
        both.until(Phase.FOLLOWING)
        both.leader.silent = True
        held = both.until(Phase.LOST, for_s=0.3)
        both.leader.pose[0] = 40.0
        assert np.allclose(both.until(Phase.LOST, for_s=0.2).arm.command, held.arm.command, atol=1e-6)
        before = both.arm.loop.statistics()["reason_ticks"].get("starting", 0)
        both.leader.silent = False
        both.until(Phase.APPROACHING)
        both.until(Phase.FOLLOWING)
        assert both.arm.loop.statistics()["reason_ticks"]["starting"] > before
        assert both.teleoperation.losses == 1


def test_a_leader_lost_on_the_way_to_it_holds_too() -> None:
    with pair(leader_pose=away(shoulder_pan=50.0)) as both:
        both.until(Phase.APPROACHING, for_s=0.3)
        both.leader.silent = True
        held = both.until(Phase.LOST, for_s=0.4)
        assert 0.0 < held.arm.command[0] < 49.0
        assert np.allclose(both.until(Phase.LOST, for_s=0.3).arm.command, held.arm.command, atol=1e-6)


def test_a_broken_leader_is_mended_and_its_motors_are_let_go_again() -> None:
    with pair() as both:
        both.until(Phase.FOLLOWING)
        both.leader.life_cycle = LifeCycle.ERROR
        both.until(Phase.LOST)
        both.until(Phase.FOLLOWING)
        assert both.leader.recoveries >= 1
        assert both.leader.stops == [StopPolicy.TORQUE_OFF] * (1 + both.leader.recoveries)
        assert both.reader.failures >= 1
        assert both.reader.trouble is None


def test_joints_are_matched_by_name() -> None:
    turned = JOINTS[::-1]
    with pair(leader_pose=np.array([80.0, 5.0, 4.0, 3.0, 2.0, 1.0]), joints=turned) as both:
        status = both.until(Phase.FOLLOWING, for_s=0.8)
        assert np.allclose(status.arm.measured, [1.0, 2.0, 3.0, 4.0, 5.0, 80.0], atol=0.5)


def test_a_leader_beyond_the_follower_s_limits_is_followed_to_them() -> None:
    with pair(leader_pose=away(gripper=53.0)) as both:
        status = both.until(Phase.FOLLOWING, for_s=0.8)
        assert status.arm.measured[5] == pytest.approx(100.0, abs=0.5)


def test_other_joints_are_refused() -> None:
    with pytest.raises(InputError, match="same joints"), pair(joints=("a", "b", "c", "d", "e", "f")):
        pass


def test_a_fault_of_the_follower_ends_it() -> None:
    with pair() as both:
        both.until(Phase.FOLLOWING)
        both.arm.robot.fault = "the cable is out"
        with pytest.raises(RobotError, match="the cable is out"):
            both.teleoperation.step()
