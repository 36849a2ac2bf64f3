"""What a Franka arm is asked for at 1 kHz at most: inside its own limits, so that its controller never has to stop it.

Facts from Franka's data sheets. The arm demands that a joint be the slower the nearer it is to its end: at a distance d
from it at most sqrt(2 deceleration d) - offset. A path that brakes with half that deceleration, towards an end that is
2 offset^2 / deceleration nearer, keeps this everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_VELOCITY_SHARE = 0.8
_ACCELERATION_SHARE = 0.5
_ACCELERATION_MAX = 5.0  # rad/s^2: enough for any policy, and gentle to what the arm holds
_JERK_MAX = 1000.0  # rad/s^3, of 5000 that the arm takes


@dataclass(frozen=True)
class ArmLimits:
    """One arm's limits, (7,) each, in rad."""

    name: str
    position_min: npt.NDArray[np.float64]
    position_max: npt.NDArray[np.float64]
    velocity: npt.NDArray[np.float64]
    acceleration: npt.NDArray[np.float64]
    jerk: npt.NDArray[np.float64]


def _limits(
    name: str,
    position_min: list[float],
    position_max: list[float],
    velocity: list[float],
    deceleration: list[float],
    offset: list[float],
) -> ArmLimits:
    slowing = np.array(deceleration)
    margin = 2.0 * np.array(offset) ** 2 / slowing + 0.01
    return ArmLimits(
        name=name,
        position_min=np.array(position_min) + margin,
        position_max=np.array(position_max) - margin,
        velocity=np.array(velocity) * _VELOCITY_SHARE,
        acceleration=np.minimum(slowing * _ACCELERATION_SHARE, _ACCELERATION_MAX),
        jerk=np.full(7, _JERK_MAX),
    )


ARMS = {
    "fr3": _limits(
        "fr3",
        [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159],
        [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
        [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26],
        [6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0],
        [0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35],
    ),
    "panda": _limits(
        "panda",
        [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973],
        [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973],
        [2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61],
        [15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0],
        [0.0] * 7,
    ),
}
"""By the name of the `arm:` key."""
