"""The joint convention of the SO-100/101 weights, older than LeRobot's present calibration.

Source: the LeRobot page on backward compatibility, which the released `so100_so101_molmoact2` weights refer to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from molmoact2_edge.errors import InputError


@dataclass(frozen=True)
class JointConvention:
    """model = signs * robot + offsets, joint by joint; signs are 1 or -1, offsets are in degrees."""

    signs: tuple[float, ...]
    offsets: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.signs) != len(self.offsets) or not self.signs:
            raise InputError(
                f"joint convention: {len(self.signs)} signs need as many offsets, got {len(self.offsets)}"
            )
        if any(sign not in (1, -1) for sign in self.signs):
            raise InputError(f"joint convention: signs must be 1 or -1, got {self.signs}")

    def to_model(self, joints: NDArray[np.float32]) -> NDArray[np.float32]:
        """Robot's joints (..., D) in degrees as the model knows them."""
        self._check_size(joints)
        signs, offsets = np.array(self.signs, np.float32), np.array(self.offsets, np.float32)
        return np.asarray(joints * signs + offsets, dtype=np.float32)

    def from_model(self, joints: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inverse of `to_model`: the model's joints (..., D) as the robot takes them, in degrees."""
        self._check_size(joints)
        signs, offsets = np.array(self.signs, np.float32), np.array(self.offsets, np.float32)
        return np.asarray((joints - offsets) * signs, dtype=np.float32)

    def _check_size(self, joints: NDArray[np.float32]) -> None:
        if joints.shape[-1:] != (len(self.signs),):
            raise InputError(f"joint convention: expected {len(self.signs)} joints, got shape {joints.shape}")


SO100_SO101 = JointConvention(signs=(1, -1, 1, 1, 1, 1), offsets=(0, 90, 90, 0, 0, 0))
"""Shoulder pan, shoulder lift, elbow flex, wrist flex, wrist roll, gripper."""
