"""An arm that a command drives: opened, behind the gate, with every way to stop, and left as its stop policy wants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from molmoact2_drivers import StopPolicy
from molmoact2_edge.arms.connection import open_arm
from molmoact2_edge.arms.gated_arm import GatedArm
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import Reason, StopMonitor
from molmoact2_edge.runtime.interruption import Interruption, interruptible

STOP_POLICIES = tuple(policy.value for policy in StopPolicy)


@dataclass(frozen=True)
class Drive:
    """What a command has in its hands meanwhile."""

    arm: GatedArm
    stops: str
    """What stops it, for people."""
    interruption: Interruption

    @property
    def ended(self) -> bool:
        """Whether something asked for the end."""
        return self.interruption.asked or self.arm.stopped is not None

    @property
    def reason(self) -> str:
        """Why it ended, as a sentence; empty while nothing asked for it."""
        stopped = self.arm.stopped
        if self.interruption.signal is not None and stopped in (None, Reason.STOP_SIGNAL):
            return f"ended by {self.interruption.signal.name}"
        return "" if stopped is None else stopped.text

    @property
    def exit_code(self) -> int:
        """0, or what a shell expects of a process that a signal ended."""
        return 0 if self.interruption.signal is None else 128 + int(self.interruption.signal)


@contextmanager
def driving(
    config: RobotConfig,
    *,
    rate_hz: float | None = None,
    speed: float = 1.0,
    stop_policy: str | None = None,
    key: int | None = None,
) -> Iterator[Drive]:
    """Open and activate the robot for the block; ``key`` is a terminal in which any key stops.

    However the block ends, the arm decelerates within its limits and is left as ``stop_policy`` says, by default the
    configuration's.
    """
    policy = None if stop_policy is None else StopPolicy(stop_policy)
    with interruptible() as interruption:
        robot, config = open_arm(config)
        try:
            arm = GatedArm(robot, config, rate_hz=rate_hz, speed=speed, stop_policy=policy)
            with (
                arm,
                StopMonitor(
                    arm.loop, key=key, file=config.stop.file, socket=config.stop.socket, signals=True
                ) as monitor,
            ):
                try:
                    yield Drive(arm, ", ".join(monitor.sources), interruption)
                finally:
                    if monitor.failure is not None:
                        print(f"warning: {monitor.failure}", file=sys.stderr)
        finally:
            robot.disconnect()
