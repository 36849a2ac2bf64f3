"""One joint at a time by hand-sized steps: goals that the gate's limits lead to."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from molmoact2_edge.arms.gated_arm import ArmStatus, GatedArm
from molmoact2_edge.control import GateState, Reason
from molmoact2_edge.errors import InputError, RobotError

REFRESH_S = 0.02
"""How often :meth:`Jogger.refresh` must be called, at least; a few missed calls do no harm."""

_AT_GOAL = 1e-3  # of a command
_SETTLED = 2.0  # of a measured position, in the joint's unit: servos do not come closer under load
_SETTLE_S = 3.0
_FIRST_TARGET_S = 1.0
_SPARE = 1.5  # a move may take that much longer than at its velocity limit


@dataclass(frozen=True)
class JogMove:
    """What became of one move; positions in the joint's unit."""

    joint: str
    start: float
    goal: float
    """Within the joint's limits."""
    reached: float
    """Measured at the end."""
    arrived: bool
    """Whether it came within 2 of the goal."""


class Jogger:
    """Keeps one goal per joint and leads the arm there. Used by one thread."""

    def __init__(self, arm: GatedArm) -> None:
        """``arm`` is started; the goals are where it is held now."""
        self.arm = arm
        self.goals = self._status().command.copy()
        self.note = ""
        """What the last step could not do, or why a motion was given up; for the person."""
        # The way to a run's first target is slower than a jog: let that be where the arm is.
        give_up = time.monotonic() + _FIRST_TARGET_S
        while self.refresh().steps == 0 and self.arm.stopped is None and time.monotonic() < give_up:
            time.sleep(REFRESH_S)

    def move_by(self, joint: str, by: float) -> float:
        """Shift a joint's goal and return how far that was: its limits cut the step.

        Raises:
            InputError: there is no such joint, or ``by`` is not finite.
        """
        index = self._index(joint)
        if not np.isfinite(by):
            raise InputError(f"a step is a finite number, got {by:g}")
        low, high = self.arm.limits.position_min[index], self.arm.limits.position_max[index]
        before = float(self.goals[index])
        self.goals[index] = min(max(before + by, low), high)
        moved = float(self.goals[index]) - before
        at_limit = abs(moved - by) > _AT_GOAL
        self.note = f"{joint} is at its limit: {low:g} to {high:g}" if at_limit else ""
        return moved

    def halt(self) -> None:
        """Make the pose that is commanded now the goal."""
        self.goals = self._status().command.copy()

    def refresh(self) -> ArmStatus:
        """Renew the goals; call at least every 20 ms. A hold gives up every motion that was under way.

        Raises:
            RobotError: the arm is in fault.
        """
        if self.arm.fault is not None:
            raise RobotError(self.arm.fault)
        status = self._status()
        # An arm that goes on by itself once a watchdog is content again would surprise the person beside it.
        if status.state is GateState.HOLDING and status.reason not in _WAITING:
            if not np.allclose(status.command, self.goals, atol=_AT_GOAL):
                self.note = f"given up: {status.reason.text}"
            self.goals = status.command.copy()
        self.arm.follow(self.goals)
        return status

    def move(self, joint: str, by: float) -> JogMove:
        """Move one joint and wait until it is there, or clearly does not come there.

        Raises:
            InputError: there is no such joint.
            RobotError: the arm is in fault, or was stopped.
        """
        index = self._index(joint)
        start = float(self._status().measured[index])
        self.move_by(joint, by)
        goal = float(self.goals[index])
        way_s = abs(goal - start) / float(self.arm.limits.velocity_max[index])
        give_up = time.monotonic() + _SPARE * way_s + _SETTLE_S
        reached = start
        while time.monotonic() < give_up:
            if self.arm.stopped is not None:
                raise RobotError(f"stopped before {joint} was at {goal:.1f}: {self.arm.stopped.text}")
            status = self.refresh()
            reached = float(status.measured[index])
            if abs(self.goals[index] - goal) > _AT_GOAL:
                raise RobotError(f"{joint} stands at {reached:.1f}, not at {goal:.1f}; {self.note}")
            if abs(status.command[index] - goal) <= _AT_GOAL and abs(reached - goal) <= _SETTLED:
                return JogMove(joint, start, goal, reached, arrived=True)
            time.sleep(REFRESH_S)
        return JogMove(joint, start, goal, reached, arrived=False)

    def _index(self, joint: str) -> int:
        if joint not in self.arm.joint_names:
            raise InputError(f"no joint {joint!r}; there are {', '.join(self.arm.joint_names)}")
        return self.arm.joint_names.index(joint)

    def _status(self) -> ArmStatus:
        status = self.arm.status()
        if status is None:
            raise RobotError("the control loop has not begun; start the arm first")
        return status


_WAITING = (Reason.WAITING_FOR_CHUNK, Reason.CHUNK_EXHAUSTED, Reason.CHUNK_STALE, Reason.NONE)
