"""Limits per joint, as data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core import control as compiled
from molmoact2_edge.errors import InputError


class JointLimits:
    """What the gate keeps, one value per joint, in the joint's unit, unit/s, unit/s² and unit/s³.

    ``jump_max`` is how far from the measured pose a target may be before it is refused. ``jerk_max`` is optional, also
    per joint (0: none); it delays commands by ``acceleration_max / jerk_max`` seconds. All arrays are (joints,)
    float64 and read-only. Raises :class:`InputError` where lengths differ, a bound is not finite, a minimum is not
    below its maximum, or a rate is not above 0.
    """

    def __init__(
        self,
        position_min: ArrayLike,
        position_max: ArrayLike,
        velocity_max: ArrayLike,
        acceleration_max: ArrayLike,
        jump_max: ArrayLike,
        jerk_max: ArrayLike | None = None,
    ) -> None:
        self.position_min = _row(position_min)
        self.position_max = _row(position_max)
        self.velocity_max = _row(velocity_max)
        self.acceleration_max = _row(acceleration_max)
        self.jump_max = _row(jump_max)
        self.jerk_max = None if jerk_max is None else _row(jerk_max)
        try:
            self._core = compiled.JointLimits(
                self.position_min,
                self.position_max,
                self.velocity_max,
                self.acceleration_max,
                self.jump_max,
                self.jerk_max,
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def __len__(self) -> int:
        return int(self.position_min.size)

    def __repr__(self) -> str:
        return f"JointLimits({len(self)} joints)"


def _row(values: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    row = np.array(values, dtype=np.float64)
    row.setflags(write=False)
    return row
