"""A follower arm copies a leader arm that a person moves by hand."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

from molmoact2_drivers import LifeCycle, Robot, RobotState, StopPolicy
from molmoact2_edge.arms.gated_arm import ArmStatus, GatedArm, Positions
from molmoact2_edge.control import GateState
from molmoact2_edge.errors import InputError, RobotError

LEADER_LOST_S = 0.2
"""A leader whose newest pose is older is lost: the follower holds."""

_RECOVER_EVERY_S = 0.5
_RATE_WINDOW = 100  # readings
_HELD_LONG_S = 0.5  # after a longer hold the leader is somewhere else: approached slowly, as at the start
_JOIN_S = 2.0


class LeaderReader:
    """Reads a leader's pose again and again in a thread of its own, and mends the connection where it can."""

    def __init__(self, leader: Robot, rate_hz: float) -> None:
        """``leader`` is CONFIGURED; its motors are let go, because a person moves it."""
        self._leader = leader
        self._period_s = 1.0 / rate_hz
        self._latest: RobotState | None = None
        self._times: deque[int] = deque(maxlen=_RATE_WINDOW)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self.failures = 0
        """Readings that failed."""
        self.trouble: str | None = None
        """Why the last reading failed; None when it did not."""

    def start(self) -> None:
        """Let go of the leader's motors and begin to read."""
        self._leader.stop(StopPolicy.TORQUE_OFF)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(_JOIN_S)

    @property
    def latest(self) -> RobotState | None:
        """The newest pose with the time of its measurement; None before the first."""
        return self._latest

    @property
    def rate_hz(self) -> float:
        """New poses per second, lately."""
        times = list(self._times)
        span = times[-1] - times[0] if len(times) > 1 else 0
        return (len(times) - 1) * 1e9 / span if span > 0 else 0.0

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                self._read()
            except RobotError as error:
                self.failures += 1
                self.trouble = str(error)
                self._recover()
            due = max(due + self._period_s, time.monotonic())
            self._ended.wait(due - time.monotonic())

    def _read(self) -> None:
        state = self._leader.read_state()
        if not np.isfinite(state.positions).all():
            raise RobotError(f"{self._leader.name} reported a pose that is not finite")
        if self._latest is None or state.time_ns > self._latest.time_ns:
            self._latest = state
            self._times.append(state.time_ns)
        self.trouble = None

    def _recover(self) -> None:
        if self._leader.life_cycle is not LifeCycle.ERROR or self._ended.wait(_RECOVER_EVERY_S):
            return
        try:
            self._leader.recover()
            self._leader.stop(StopPolicy.TORQUE_OFF)
        except RobotError as error:
            self.trouble = str(error)


class Phase(Enum):
    """What teleoperation is doing."""

    WAITING = "waiting for the leader"
    TOO_FAR = "the leader is too far away"
    APPROACHING = "moving slowly to the leader's pose"
    FOLLOWING = "following"
    HELD = "held"
    LOST = "leader lost, the follower holds"


@dataclass(frozen=True)
class TeleoperationStatus:
    """How it stands after one step."""

    phase: Phase
    arm: ArmStatus | None
    leader: Positions | None
    """(joints,) in the follower's order."""
    far: dict[str, float]
    """Joints that keep it from beginning: how far the follower's are from the leader's."""
    lag: float
    """Largest distance between leader and follower, over all joints."""


class Teleoperation:
    """Leads the newest pose of the leader to the follower's gate. Used by one thread.

    It begins once every joint of the leader is within the follower's ``start_distance``; the way there is slow. A
    leader that is silent for 0.2 s, and a hold of the follower that lasts, end that: afterwards it begins anew.
    """

    def __init__(self, leader: LeaderReader, leader_joints: tuple[str, ...], follower: GatedArm) -> None:
        """Joints are matched by name, grippers on their common scale from 0 to 100.

        Raises:
            InputError: the arms do not have the same joints.
        """
        if set(leader_joints) != set(follower.joint_names):
            raise InputError(
                f"the leader has the joints {', '.join(leader_joints)}, "
                f"the follower {', '.join(follower.joint_names)}; teleop needs arms with the same joints"
            )
        self._reader = leader
        self._order = [leader_joints.index(name) for name in follower.joint_names]
        self._follower = follower
        self._engaged = False
        self._lost_before = False
        self._held_since: float | None = None
        self.losses = 0
        """How often the leader was lost while the follower followed it."""

    def step(self) -> TeleoperationStatus:
        """Look at both arms and pass on one pose; call at the rate that is wanted.

        Raises:
            RobotError: the follower is in fault.
        """
        if self._follower.fault is not None:
            raise RobotError(self._follower.fault)
        arm = self._follower.status()
        state = self._reader.latest
        if state is None or arm is None:
            return self._status(Phase.WAITING, arm, None)
        pose = state.positions[self._order]
        if state.age_ns(time.monotonic_ns()) > LEADER_LOST_S * 1e9:
            self._disengage(lost=True)
            return self._status(Phase.LOST, self._follower.status(), pose)
        if self._held_too_long(arm):
            self._disengage(lost=False)
            return self._status(Phase.HELD, self._follower.status(), pose)
        if not self._engaged:
            far = self._follower.too_far(pose, arm.command)
            if far:
                return self._status(Phase.LOST if self._lost_before else Phase.TOO_FAR, arm, pose, far)
            self._engaged = self._follower.follow(pose, state.time_ns)
            self._lost_before = self._lost_before and not self._engaged
            return self._status(Phase.APPROACHING if self._engaged else Phase.WAITING, arm, pose)
        self._follower.follow(pose, state.time_ns)
        if arm.state is GateState.HOLDING:
            return self._status(Phase.HELD, arm, pose)
        return self._status(Phase.FOLLOWING if arm.steps > 0 else Phase.APPROACHING, arm, pose)

    def _disengage(self, *, lost: bool) -> None:
        if not self._engaged:
            return
        self._engaged = False
        self._held_since = None
        self.losses += lost
        self._follower.restart()

    def _held_too_long(self, arm: ArmStatus) -> bool:
        if not self._engaged or arm.state is not GateState.HOLDING or arm.steps == 0:
            self._held_since = None
            return False
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        return now - self._held_since > _HELD_LONG_S

    def _status(
        self,
        phase: Phase,
        arm: ArmStatus | None,
        pose: Positions | None,
        far: dict[str, float] | None = None,
    ) -> TeleoperationStatus:
        known = arm is not None and pose is not None
        lag = float(np.abs(pose - arm.measured).max()) if known else 0.0  # type: ignore[union-attr, operator]
        return TeleoperationStatus(phase, arm, pose, far or {}, lag)
