"""From targets that come 15 to 200 times a second to a command every millisecond.

A new target is reached on a straight line from where the path is, over one and a half of the targets' periods: the next
one is there before the line ends, so that the path does not slow down between two targets that come on time. Behind it
the gate of the control loop, run at 1 kHz with the arm's limits, keeps velocity, acceleration and jerk. Where targets
cease, the path ends at the last one, and the arm comes to rest there, braked within the limits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.franka.arm_limits import ArmLimits
from molmoact2_edge.control import JointLimits, SafetyGate
from molmoact2_edge.errors import RobotError

PERIOD_S = 0.001
_LINE_PERIODS = 1.5
_REST = 1e-9  # rad between two commands

Vector = npt.NDArray[np.float64]


class TargetPath:
    """The path of one motion. Arrays are (7,) in rad."""

    def __init__(self, limits: ArmLimits, target_period_s: float) -> None:
        """``target_period_s`` is the time between two targets."""
        self._limits = limits
        self._line_steps = max(1.0, _LINE_PERIODS * target_period_s / PERIOD_S)
        everywhere = np.full(7, 2 * np.pi)
        self._gate = SafetyGate(
            JointLimits(
                limits.position_min,
                limits.position_max,
                limits.velocity,
                limits.acceleration,
                everywhere,
                limits.jerk,
            ),
            PERIOD_S,
        )
        self._from = self._to = self._command = np.zeros(7)
        self._steps = 0.0
        self._resting = True

    def begin(self, position: Vector) -> None:
        """Start at rest at the position that the arm was last told to have.

        Raises:
            RobotError: it is outside the limits; names the joint.
        """
        outside = (position < self._limits.position_min) | (position > self._limits.position_max)
        if outside.any():
            joint = int(np.argmax(outside))
            low, high = self._limits.position_min[joint], self._limits.position_max[joint]
            raise RobotError(
                f"joint {joint + 1} stands at {np.degrees(position[joint]):.1f} degrees, outside "
                f"{np.degrees(low):.1f} to {np.degrees(high):.1f}: move the arm by hand, in its guiding mode"
            )
        self._gate.reset(position)
        self._from = self._to = self._command = position
        self._steps = self._line_steps
        self._resting = True

    def aim(self, target: Vector) -> None:
        """Go to a new target from here on."""
        self._from = self._wanted()
        self._to = target
        self._steps = 0.0

    def rest(self) -> None:
        """Brake, and forget the target."""
        self._gate.stop()

    @property
    def resting(self) -> bool:
        """Whether the last two commands were the same."""
        return self._resting

    def step(self, milliseconds: int = 1) -> Vector:
        """Return the command for so many milliseconds after the last: more than one where states were lost on the way.

        The arm has gone on by itself meanwhile, as if its acceleration had stayed.
        """
        command = self._command
        for _ in range(milliseconds):
            self._steps = min(self._steps + 1.0, self._line_steps)
            command = self._gate.step(self._wanted()).command
        self._resting = bool((np.abs(command - self._command) < _REST).all())
        self._command = command
        return command

    def _wanted(self) -> Vector:
        return self._from + (self._to - self._from) * (self._steps / self._line_steps)
