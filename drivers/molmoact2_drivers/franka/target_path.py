"""From targets that come 15 to 200 times a second to a command every millisecond.

A new target is reached on a straight line from where the path is, over one and a half of the targets' periods: the next
one is there before the line ends, so that the path does not slow down between two targets that come on time. Behind it
the gate of the control loop, run at 1 kHz with the arm's limits, keeps velocity, acceleration and jerk. Where targets
cease, the path ends at the last one, and the arm comes to rest there, braked within the limits.

Where packets are lost, the arm goes on as if its acceleration had stayed. The commands then go on from where it says
that it is, and come back to the path smoothly: a command on the path itself would be a jump.
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
_MET = 1e-6  # rad: what an arm says, in float32, of where it was told to be
_RETURN_S = 0.1  # in which the commands come back to the path after a loss

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
        zero = np.zeros(7)
        self._from = self._to = self._command = zero
        self._steps = 0.0
        self._resting = True
        self._newest = self._before = self._first = zero  # the path's last three positions
        self._return = np.zeros((6, 7))  # a polynomial in time: how far the commands are from the path
        self._return_s = _RETURN_S

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
        self._newest = self._before = self._first = position
        self._return_s = _RETURN_S
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

    def step(self, milliseconds: int = 1, arm: tuple[Vector, Vector, Vector] | None = None) -> Vector:
        """Return the command for so many milliseconds after the last: more than one where states were lost.

        ``arm``, when something was lost: where it says that it was told to be by now, its velocity and acceleration.
        """
        for _ in range(milliseconds - 1):
            self._advance()
        if arm is not None:
            self._go_on_from(*arm)
        self._advance()
        command = self._newest + self._away()
        returned = self._return_s >= _RETURN_S
        self._resting = returned and bool((np.abs(command - self._command) < _REST).all())
        self._command = command
        return command

    def _advance(self) -> None:
        self._steps = min(self._steps + 1.0, self._line_steps)
        self._first, self._before = self._before, self._newest
        self._newest = self._gate.step(self._wanted()).command
        self._return_s += PERIOD_S

    def _away(self) -> Vector:
        if self._return_s >= _RETURN_S:
            return np.zeros(7)
        powers = (self._return_s / _RETURN_S) ** np.arange(6)
        return np.asarray(powers @ self._return)

    def _go_on_from(self, position: Vector, velocity: Vector, acceleration: Vector) -> None:
        if (np.abs(position - self._newest - self._away()) <= _MET).all():
            return
        own_velocity = (self._newest - self._before) / PERIOD_S
        own_acceleration = (self._newest - 2.0 * self._before + self._first) / PERIOD_S**2
        p = position - self._newest
        v = (velocity - own_velocity) * _RETURN_S
        a = (acceleration - own_acceleration) * _RETURN_S**2
        # From (p, v, a) to nothing at all, in the share of the time that has gone.
        self._return = np.stack(
            (p, v, a / 2, -10 * p - 6 * v - 1.5 * a, 15 * p + 8 * v + 1.5 * a, -6 * p - 3 * v - a / 2)
        )
        self._return_s = 0.0

    def _wanted(self) -> Vector:
        return self._from + (self._to - self._from) * (self._steps / self._line_steps)
