"""The joint convention of the SO-100/101 weights, older than LeRobot's present calibration.

Source: LeRobot's page on backward compatibility, which the released `so100_so101_molmoact2` weights refer to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from molmoact2_edge.errors import InputError
from molmoact2_edge.types import FloatArray


@dataclass(frozen=True)
class JointConvention:
    """model = signs * robot + offsets, joint by joint; signs are 1 or -1, offsets are in degrees."""

    signs: tuple[float, ...]
    offsets: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.signs) != len(self.offsets) or not self.signs:
            raise InputError(
                f"joint convention: expected as many offsets as the {len(self.signs)} signs, got {len(self.offsets)}"
            )
        if any(sign not in (1, -1) for sign in self.signs):
            raise InputError(f"joint convention: signs must be 1 or -1, got {self.signs}")

    def to_model(self, joints: ArrayLike) -> FloatArray:
        """The robot's joints (..., D) in degrees as the model knows them. Raises InputError for another size."""
        signs, offsets = np.array(self.signs, np.float32), np.array(self.offsets, np.float32)
        return np.asarray(self._checked(joints) * signs + offsets, dtype=np.float32)

    def from_model(self, joints: ArrayLike) -> FloatArray:
        """Inverse of `to_model`: the model's joints (..., D) in degrees as the robot takes them."""
        signs, offsets = np.array(self.signs, np.float32), np.array(self.offsets, np.float32)
        return np.asarray((self._checked(joints) - offsets) * signs, dtype=np.float32)

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

_BY_NAME = {"none": None, "so100_so101": SO100_SO101}


def joint_convention(name: str) -> JointConvention | None:
    """The convention of a name; None for `"none"`, where robot and model agree. Raises InputError for any other."""
    if name not in _BY_NAME:
        raise InputError(f"convention: expected one of {', '.join(map(repr, _BY_NAME))}, got {name!r}")
    return _BY_NAME[name]
