"""The two arms as numbers: kinematics, limits and what stands for their dynamics. From Franka's public data sheets.

Angles in rad, lengths in metres, torques in Nm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, ...]
Pose = tuple[float, ...]
"""Twelve numbers: the three columns of the rotation, then the position; sixteen on the wire, see `matrix`."""

# Craig's convention: link length, offset and twist (in quarter turns) before each joint.
_LENGTH = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
_OFFSET = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
_QUARTERS = (0, -1, 1, 1, -1, 1, 1)
FLANGE_OFFSET = 0.107
IDENTITY: Pose = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def joint_origins() -> tuple[tuple[float, float, float, float], ...]:
    """Return (x, y, z, roll) of each joint's frame in the one before it, as a URDF wants them."""
    return tuple(
        (a, -d * quarters, d * (1 - abs(quarters)), quarters * math.pi / 2)
        for a, d, quarters in zip(_LENGTH, _OFFSET, _QUARTERS, strict=True)
    )


def flange_pose(joints: Vector) -> Pose:
    """Return the flange's pose in the base frame. Plain arithmetic, which at this size is faster than arrays."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz = IDENTITY
    for q, a, d, quarters in zip(joints, _LENGTH, _OFFSET, _QUARTERS, strict=True):
        px, py, pz = px + a * xx, py + a * xy, pz + a * xz
        if quarters == 1:
            yx, yy, yz, zx, zy, zz = zx, zy, zz, -yx, -yy, -yz
        elif quarters == -1:
            yx, yy, yz, zx, zy, zz = -zx, -zy, -zz, yx, yy, yz
        px, py, pz = px + d * zx, py + d * zy, pz + d * zz
        c, s = math.cos(q), math.sin(q)
        xx, yx = c * xx + s * yx, c * yx - s * xx
        xy, yy = c * xy + s * yy, c * yy - s * xy
        xz, yz = c * xz + s * yz, c * yz - s * xz
    d = FLANGE_OFFSET
    return (xx, xy, xz, yx, yy, yz, zx, zy, zz, px + d * zx, py + d * zy, pz + d * zz)


def compose(first: Pose, second: Pose) -> Pose:
    """Return the pose of a frame that has the pose ``second`` in a frame that has the pose ``first``."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz = first
    columns = [
        (xx * a + yx * b + zx * c, xy * a + yy * b + zy * c, xz * a + yz * b + zz * c)
        for a, b, c in (second[0:3], second[3:6], second[6:9], second[9:12])
    ]
    x, y, z, (dx, dy, dz) = columns
    return (*x, *y, *z, px + dx, py + dy, pz + dz)


def matrix(pose: Pose) -> Vector:
    """Return a homogeneous matrix column by column, as the wire wants it."""
    return (*pose[0:3], 0.0, *pose[3:6], 0.0, *pose[6:9], 0.0, *pose[9:12], 1.0)


def from_matrix(columns: Vector) -> Pose:
    """Return the pose of a homogeneous matrix that is given column by column."""
    return (*columns[0:3], *columns[4:7], *columns[8:11], *columns[12:15])


@dataclass(frozen=True)
class ArmModel:
    """One arm. Tuples have a value for each of the seven joints."""

    name: str
    position_min: tuple[float, ...]
    position_max: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    torque: tuple[float, ...] = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
    torque_rate: tuple[float, ...] = (1000.0,) * 7
    velocity_offset: tuple[float, ...] | None = None
    """With `deceleration`: a joint must be slower near its end, so that it can still stop there. None: it need not."""
    deceleration: tuple[float, ...] | None = None
    inertia: tuple[float, ...] = (2.0, 2.0, 1.2, 1.2, 0.3, 0.25, 0.1)
    """kg m^2 that each joint accelerates in torque control: the diagonal of a mass matrix at a usual pose, no more."""
    damping: tuple[float, ...] = (1.5, 1.5, 1.5, 1.5, 0.5, 0.5, 0.5)
    """Nm s/rad of friction in torque control."""

    def fastest(self, joint: int, position: float, direction: float) -> float:
        """Return the highest speed that a joint may have there, towards its upper (1) or lower (-1) end."""
        if self.velocity_offset is None or self.deceleration is None:
            return self.velocity[joint]
        end = self.position_max[joint] if direction > 0.0 else -self.position_min[joint]
        left = max(0.0, end - direction * position)
        bound = math.sqrt(2.0 * self.deceleration[joint] * left) - self.velocity_offset[joint]
        return min(self.velocity[joint], max(0.0, bound))


FR3 = ArmModel(
    name="fr3",
    position_min=(-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196),
    position_max=(2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196),
    velocity=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    acceleration=(10.0,) * 7,
    jerk=(5000.0,) * 7,
    velocity_offset=(0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35),
    deceleration=(6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0),
)
"""Franka Research 3, with the limits that its controller enforces: a little wider than the data sheet's."""

PANDA = ArmModel(
    name="panda",
    position_min=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    position_max=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    velocity=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    jerk=(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
)
"""Franka Emika Panda."""

READY_POSE = (0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4)
"""Where an emulated arm stands at its start, rad."""

HAND_MASS = 0.73
HAND_CENTRE = (-0.01, 0.0, 0.03)
HAND_INERTIA = (0.001, 0.0, 0.0, 0.0, 0.0025, 0.0, 0.0, 0.0, 0.0017)
_COS_45 = math.sqrt(0.5)
HAND_POSE: Pose = (_COS_45, -_COS_45, 0.0, _COS_45, _COS_45, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.1034)
"""Of the hand's grip point in the flange: turned by -45 degrees, 103.4 mm before it."""
