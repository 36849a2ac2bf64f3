"""How a checkpoint's joints differ from a robot's, which speaks degrees, and 0 to 100 for an open gripper.

Sources: LeRobot's page on backward compatibility, which the released `so100_so101_molmoact2` weights refer to and which
is older than LeRobot's present calibration; DROID's data set, in whose units `franka_droid` was trained; the statistics
of `yam_dual_molmoact2`, whose numbers are radians and shares of an open gripper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from molmoact2_edge.errors import InputError
from molmoact2_edge.types import FloatArray


@dataclass(frozen=True)
class JointConvention:
    """model = signs * scales * robot + offsets, joint by joint; signs are 1 or -1, offsets are in the model's units."""

    signs: tuple[float, ...]
    offsets: tuple[float, ...]
    scales: tuple[float, ...] | None = None
    """The model's units in one of the robot's, above 0; None: the same units."""

    def __post_init__(self) -> None:
        if len(self.signs) != len(self.offsets) or not self.signs:
            raise InputError(
                f"joint convention: expected as many offsets as the {len(self.signs)} signs, got {len(self.offsets)}"
            )
        if any(sign not in (1, -1) for sign in self.signs):
            raise InputError(f"joint convention: signs must be 1 or -1, got {self.signs}")
        scales = self.scales
        if scales is not None and (len(scales) != len(self.signs) or not all(scale > 0 for scale in scales)):
            raise InputError(
                f"joint convention: expected {len(self.signs)} scales above 0, as many as signs, got {scales}"
            )

    def to_model(self, joints: ArrayLike) -> FloatArray:
        """The robot's joints (..., D) as the model knows them. Raises InputError for another size."""
        return np.asarray(self._checked(joints) * self._factors() + self._offsets(), dtype=np.float32)

    def from_model(self, joints: ArrayLike) -> FloatArray:
        """Inverse of `to_model`: the model's joints (..., D) as the robot takes them."""
        return np.asarray((self._checked(joints) - self._offsets()) / self._factors(), dtype=np.float32)

    def _factors(self) -> FloatArray:
        scales = np.ones(len(self.signs)) if self.scales is None else np.array(self.scales)
        return np.asarray(np.array(self.signs) * scales, dtype=np.float32)

    def _offsets(self) -> FloatArray:
        return np.array(self.offsets, np.float32)

    def _checked(self, joints: ArrayLike) -> FloatArray:
        try:
            array = np.asarray(joints, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"joints: expected {len(self.signs)} numbers, got {joints!r}") from error
        if array.shape[-1:] != (len(self.signs),):
            raise InputError(
                f"joints: this convention is for {len(self.signs)} joints, got shape {array.shape}"
            )
        return array


SO100_SO101 = JointConvention(signs=(1, -1, 1, 1, 1, 1), offsets=(0, 90, 90, 0, 0, 0))
"""Shoulder pan, shoulder lift, elbow flex, wrist flex, wrist roll, gripper."""

_RADIANS = math.pi / 180.0
FRANKA_DROID = JointConvention(
    signs=(1, 1, 1, 1, 1, 1, 1, -1),
    offsets=(0, 0, 0, 0, 0, 0, 0, 1),
    scales=(*(_RADIANS,) * 7, 0.01),
)
"""Seven joints in rad, and a gripper that is 0 open and 1 closed. DROID's episodes begin at (0, -36, 0, -144, 0, 108,
0) degrees; their steps are 1/15 s long; the actions of its released checkpoint are absolute joint positions."""

YAM_DUAL = JointConvention(signs=(1,) * 14, offsets=(0,) * 14, scales=(*(_RADIANS,) * 6, 0.01) * 2)
"""Left arm before right: six joints in rad, and a gripper that is 0 closed and 1 open."""

_BY_NAME = {"none": None, "so100_so101": SO100_SO101, "franka_droid": FRANKA_DROID, "yam_dual": YAM_DUAL}


def joint_convention(name: str) -> JointConvention | None:
    """The convention of a name; None for `"none"`, where robot and model agree. Raises InputError for any other."""
    if name not in _BY_NAME:
        raise InputError(f"convention: expected one of {', '.join(map(repr, _BY_NAME))}, got {name!r}")
    return _BY_NAME[name]
