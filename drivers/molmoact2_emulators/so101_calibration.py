"""Between encoder ticks and the simulator's joint positions: how the servos are mounted, and LeRobot's file of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from molmoact2_edge.errors import InputError

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""In the order of the chain, which is that of the ids 1 to 6."""
GRIPPER = 5
REACH = ((-110.0, 110.0), (-100.0, 100.0), (-96.8, 96.8), (-95.0, 95.0), (-157.2, 162.8), (0.0, 100.0))
"""Where the arm's parts stop each joint: degrees, the gripper in percent, as in the simulation model."""
MIDDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 50.0)
"""The pose that calibrating begins with: what becomes tick 2047 and zero degrees."""
GRIPPER_DEGREES = 110.0
"""How far the gripper's servo turns from closed to open."""
TICKS_PER_DEGREE = 4095 / 360
"""LeRobot's convention; by the encoder's resolution it would be 4096 / 360."""


@dataclass(frozen=True)
class JointCalibration:
    """One joint in LeRobot's calibration file."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


@dataclass(frozen=True)
class Mounting:
    """How a servo sits in its joint: ``units = (ticks - zero) * per_tick``; the encoder's own ticks, turns counted."""

    zero: float
    per_tick: float

    def units(self, ticks: float) -> float:
        """Return degrees, or percent, of a shaft position."""
        return (ticks - self.zero) * self.per_tick

    def ticks(self, units: float) -> float:
        """Return the shaft position."""
        return self.zero + units / self.per_tick


def usual_calibration() -> dict[str, JointCalibration]:
    """Return the calibration of an arm whose horns sit in the middle: no offsets, ranges as far as it reaches."""
    middle = 2047
    found = {}
    for number, (name, (low, high)) in enumerate(zip(JOINTS, REACH, strict=True)):
        half = round((GRIPPER_DEGREES if number == GRIPPER else high - low) / 2 * TICKS_PER_DEGREE)
        # LeRobot takes a whole turn for the joint that has no stops.
        full_turn = name == "wrist_roll"
        found[name] = JointCalibration(
            number + 1, 0, 0, 0 if full_turn else middle - half, 4095 if full_turn else middle + half
        )
    return found


def mounting(joint: int, calibration: JointCalibration) -> Mounting:
    """Return how the servo of a calibrated joint (0 to 5) must sit."""
    low, high = calibration.range_min, calibration.range_max
    if joint != GRIPPER:
        return Mounting((low + high) / 2 + calibration.homing_offset, 1.0 / TICKS_PER_DEGREE)
    if calibration.drive_mode:
        return Mounting(high + calibration.homing_offset, -100.0 / (high - low))
    return Mounting(low + calibration.homing_offset, 100.0 / (high - low))


def write_calibration(path: Path, calibration: Mapping[str, JointCalibration]) -> None:
    """Write LeRobot's file.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps({name: asdict(joint) for name, joint in calibration.items()}, indent=4)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the calibration cannot be written: {error}") from error


def read_calibration(path: Path) -> dict[str, JointCalibration]:
    """Read LeRobot's file.

    Raises:
        InputError: not readable, not of an SO-101, or ranges and offsets that no servo can have.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a calibration: {error}") from error
    names = {field.name for field in fields(JointCalibration)}
    if not isinstance(content, dict) or set(content) != set(JOINTS):
        raise InputError(f"{path}: a calibration of an SO-101 has the joints {', '.join(JOINTS)}")
    found = {}
    for number, name in enumerate(JOINTS, start=1):
        joint = content[name]
        if (
            not isinstance(joint, dict)
            or set(joint) != names
            or not all(type(v) is int for v in joint.values())
        ):
            raise InputError(
                f"{path}: {name} wants whole numbers for {', '.join(sorted(names))}, got {joint!r}"
            )
        read = JointCalibration(**joint)
        if read.id != number:
            raise InputError(f"{path}: {name} has the id {read.id}, on this arm it is {number}")
        if not 0 <= read.range_min < read.range_max <= 4095 or abs(read.homing_offset) > 2047:
            raise InputError(
                f"{path}: {name} needs 0 <= range_min < range_max <= 4095 and an offset of at most 2047, got {read}"
            )
        found[name] = read
    return found
