"""The safety gate on its own, as the loop uses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core import control as compiled
from molmoact2_edge.control.limits import JointLimits
from molmoact2_edge.control.states import GateState, Reason
from molmoact2_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one step of the gate gave."""

    command: NDArray[np.float64]
    """(joints,) within every limit, always finite."""
    state: GateState
    reason: Reason
    limited: np.bool_
    """Whether the command differs from a target that was followed; which joints is in ``limited_joints``."""
    followed: bool
    """Whether the target was accepted; otherwise the command decelerates to rest."""
    limited_joints: NDArray[np.bool_]


class SafetyGate:
    """Turns targets into commands that keep position, velocity, acceleration and jerk limits together.

    The order is fixed: finite, fresh, mode, position limits, jump from the measured pose, velocity, acceleration, jerk.
    A target that is missing, not finite or jumps is not followed: the command decelerates to rest, the state is
    ``holding`` and the reason says why; the next good target resumes. A fault stays until :meth:`reset`.
    """

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        self.limits = limits
        self.period_s = float(period_s)
        try:
            self._gate = compiled.SafetyGate(limits._core, self.period_s)
        except ValueError as error:
            raise InputError(str(error)) from None

    def reset(self, measured: ArrayLike) -> None:
        """Start over, at rest at ``measured`` (joints,), and clear a fault.

        Outside the position limits the command starts at the nearest limit; farther out than a joint may move in
        one period that is a fault, and the command, where the arm is not, must not be written. Raises
        :class:`InputError` for a pose of another shape or one that is not finite.
        """
        try:
            self._gate.reset(np.asarray(measured, dtype=np.float64))
        except ValueError as error:
            raise InputError(str(error)) from None

    def step(self, target: ArrayLike | None, measured: ArrayLike | None = None) -> GateResult:
        """Advance by one period; ``target`` and ``measured`` are (joints,), any values, or None.

        Without ``measured`` a jump is judged from the last command. Only a wrong shape raises.
        """
        try:
            answer = self._gate.step(_optional(target), _optional(measured))
        except ValueError as error:
            raise InputError(str(error)) from None
        return _result(answer)

    def stop(self) -> None:
        """From the next step on decelerate to rest, then be idle until :meth:`reset`."""
        self._gate.stop()

    @property
    def last(self) -> GateResult:
        """The latest result again."""
        return _result(self._gate.last())


def _optional(values: ArrayLike | None) -> NDArray[np.float64] | None:
    return None if values is None else np.asarray(values, dtype=np.float64)


def _result(
    answer: tuple[NDArray[np.float64], str, str, bool, NDArray[np.bool_]],
) -> GateResult:
    command, state, reason, followed, limited = answer
    return GateResult(command, GateState(state), Reason(reason), np.bool_(limited.any()), followed, limited)
