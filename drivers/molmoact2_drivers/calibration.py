"""Calibrations of arms, in the files and at the places of LeRobot, so that nobody who has one needs another.

A file has, for each joint, the servo's id, whether its direction is mirrored, the offset that the servo subtracts from
what its encoder says, and the ends of the joint's range in ticks::

    {"shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": -12, "range_min": 740, "range_max": 3390}, ...}

A Dynamixel servo adds the offset instead. Offset and range are also written to the servos; the file alone says how
ticks become degrees and per cent.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from molmoact2_drivers.homing_offsets import STS_MAX
from molmoact2_edge.errors import InputError

SO_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FULL_TURN_JOINTS = ("wrist_roll",)
"""Joints without ends: their range is the whole turn."""

RESOLUTION = 4096
"""Ticks of a turn."""
_LAST_TICK = RESOLUTION - 1
_MIDDLE_TICK = _LAST_TICK // 2

# Names under which LeRobot's releases have kept an arm's files, the newest first.
_FOLDERS = {
    ("so101", "follower"): ("so_follower", "so101_follower"),
    ("so100", "follower"): ("so_follower", "so100_follower"),
    ("so101", "leader"): ("so_leader", "so101_leader"),
    ("so100", "leader"): ("so_leader", "so100_leader"),
    ("koch", "follower"): ("koch_follower",),
    ("koch", "leader"): ("koch_leader",),
}


class ArmRole(enum.Enum):
    """Which of two arms: the one that is moved by commands, or the one that a person moves."""

    FOLLOWER = "follower"
    LEADER = "leader"


_ROLE_FOLDERS = {ArmRole.FOLLOWER: "robots", ArmRole.LEADER: "teleoperators"}


@dataclass(frozen=True)
class JointCalibration:
    """One joint, with the keys of the file."""

    id: int
    drive_mode: int
    """1: a gripper that opens towards lower ticks. Without effect on joints in degrees, as in LeRobot."""
    homing_offset: int
    """Ticks that the servo subtracts from its encoder's, a Dynamixel adds, so that the middle of the range reads 2047.
    """
    range_min: int
    range_max: int

    def problem(self, offset_max: int = STS_MAX) -> str | None:
        """What is wrong, beginning with the key; None: usable. `offset_max`: see `homing_offset_max`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                return f"{field.name}: expected a whole number, got {value!r}"
        if not 0 <= self.id <= 253:
            return f"id: expected 0 to 253, got {self.id}"
        if self.drive_mode not in (0, 1):
            return f"drive_mode: expected 0 or 1, got {self.drive_mode}"
        if abs(self.homing_offset) > offset_max:
            return f"homing_offset: expected -{offset_max} to {offset_max}, got {self.homing_offset}"
        if not 0 <= self.range_min < self.range_max <= _LAST_TICK:
            return (
                f"range_min, range_max: expected 0 <= range_min < range_max <= {_LAST_TICK}, "
                f"got {self.range_min} and {self.range_max}"
            )
        return None


class ArmCalibration(Mapping[str, JointCalibration]):
    """A calibrated arm: joints by name, in the file's order."""

    def __init__(
        self, joints: Mapping[str, JointCalibration], path: Path | None = None, offset_max: int = STS_MAX
    ) -> None:
        """`path` is where it came from, for messages; `offset_max` what the servos hold: see `homing_offset_max`.

        Raises:
            InputError: a value that no servo can have, or two joints with one id; names joint and key.
        """
        self._joints = dict(joints)
        self.path = path
        place = "calibration" if path is None else f"{path}"
        owners: dict[int, str] = {}
        for name, joint in self._joints.items():
            problem = joint.problem(offset_max)
            if problem is not None:
                raise InputError(f"{place}: {name}: {problem}")
            if joint.id in owners:
                raise InputError(f"{place}: {name}: id: {joint.id} is already that of {owners[joint.id]}")
            owners[joint.id] = name

    def __getitem__(self, name: str) -> JointCalibration:
        return self._joints[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._joints)

    def __len__(self) -> int:
        return len(self._joints)

    def __repr__(self) -> str:
        return f"ArmCalibration({self._joints!r})"


def calibration_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory in which LeRobot keeps calibrations."""
    given = environ.get("HF_LEROBOT_CALIBRATION")
    if given:
        return Path(given).expanduser()
    lerobot = environ.get("HF_LEROBOT_HOME")
    if lerobot:
        return Path(lerobot).expanduser() / "calibration"
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(hub).expanduser() / "lerobot" / "calibration"


def calibration_folders(family: str, role: ArmRole, home: Path | None = None) -> tuple[Path, ...]:
    """Return the folders in which an arm's files may lie, that of the newest LeRobot first.

    Raises:
        InputError: no family of that name has calibrations.
    """
    names = _FOLDERS.get((family, role.value))
    if names is None:
        known = ", ".join(sorted({name for name, _ in _FOLDERS}))
        raise InputError(f"no calibrations for {family!r}; there are some for {known}")
    base = (calibration_home() if home is None else home) / _ROLE_FOLDERS[role]
    return tuple(base / name for name in names)


def default_path(
    family: str,
    role: ArmRole,
    id: str,  # noqa: A002 - LeRobot's word
    home: Path | None = None,
) -> Path:
    """Return where a new calibration of that name belongs.

    Raises:
        InputError: unknown family, or a name that is no file's.
    """
    return calibration_folders(family, role, home)[0] / _file_name(id)


def find_calibration(
    family: str,
    role: ArmRole,
    id: str | None,  # noqa: A002 - LeRobot's word
    home: Path | None = None,
) -> Path:
    """Return the existing file of that name, or the only one there is where `id` is None.

    Raises:
        InputError: there is none, or more than one to choose from; names those that exist.
    """
    folders = calibration_folders(family, role, home)
    command = f"molmoact2-edge calibrate --robot {family}{' --leader' if role is ArmRole.LEADER else ''}"
    if id is not None:
        for folder in folders:
            if (folder / _file_name(id)).is_file():
                return folder / _file_name(id)
    # A name that an older release wrote too is the newer release's.
    found: dict[str, Path] = {}
    for folder in reversed(folders):
        found.update({path.stem: path for path in sorted(folder.glob("*.json"))})
    places = " or ".join(str(folder) for folder in folders)
    if id is not None:
        known = f"there are {', '.join(sorted(found))}" if found else "there are none"
        raise InputError(f"no calibration {id!r} in {places}; {known}. Make one: {command} --id {id}")
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError(f"several calibrations in {places}: {', '.join(sorted(found))}; say which with --id")
    raise InputError(f"no calibration in {places}; make one: {command} --id NAME, or give its file")


def load_calibration(
    path: Path, joints: Sequence[str] = SO_JOINTS, offset_max: int = STS_MAX
) -> ArmCalibration:
    """Read a file of LeRobot's; joints come in the given order. `offset_max`: see `homing_offset_max`.

    Raises:
        InputError: not readable, or not complete and valid; names file, joint and key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a calibration: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected joints by name, got {type(data).__name__}")
    _require_keys(f"{path}", "joint", data, joints)
    return ArmCalibration({name: _joint(f"{path}: {name}", data[name]) for name in joints}, path, offset_max)


def save_calibration(
    path: Path, calibration: Mapping[str, JointCalibration], offset_max: int = STS_MAX
) -> None:
    """Write a file that LeRobot reads; a crash leaves the one that was there before. `offset_max`: see
    `homing_offset_max`.

    Raises:
        InputError: the values are not valid, or the file cannot be written.
    """
    checked = ArmCalibration(calibration, path, offset_max)
    text = json.dumps({name: asdict(joint) for name, joint in checked.items()}, indent=4)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise InputError(f"{path}: the calibration cannot be written: {error}") from error


def half_turn_offset(present: int) -> int:
    """Return the offset with which a joint that reads `present` ticks, without one, reads 2047 where it stands.

    Raises:
        InputError: the servo's horn is so far off that its offset register cannot hold it.
    """
    offset = present - _MIDDLE_TICK
    if abs(offset) > STS_MAX:
        raise InputError(
            f"the joint reads {present} ticks in the middle of its range, which is {offset} from {_MIDDLE_TICK}; an "
            f"offset is at most {STS_MAX}. Move it a little, or mount its horn anew"
        )
    return offset


def degrees_of(joint: JointCalibration, ticks: int) -> float:
    """Return degrees from the middle of the range, not clamped."""
    return (ticks - (joint.range_min + joint.range_max) / 2) * 360.0 / _LAST_TICK


def percent_of(joint: JointCalibration, ticks: int) -> float:
    """Return the place in the range, 0 to 100, clamped; mirrored by the drive mode."""
    bounded = min(joint.range_max, max(joint.range_min, ticks))
    percent = (bounded - joint.range_min) / (joint.range_max - joint.range_min) * 100.0
    return 100.0 - percent if joint.drive_mode else percent


def ticks_of_degrees(joint: JointCalibration, degrees: float) -> int:
    """Return the nearest tick within the range."""
    return _bounded(joint, degrees * _LAST_TICK / 360.0 + (joint.range_min + joint.range_max) / 2)


def ticks_of_percent(joint: JointCalibration, percent: float) -> int:
    """Return the nearest tick within the range."""
    share = (100.0 - percent if joint.drive_mode else percent) / 100.0
    return _bounded(joint, share * (joint.range_max - joint.range_min) + joint.range_min)


def _bounded(joint: JointCalibration, ticks: float) -> int:
    # Halves go up, as in the loop's own arithmetic; ticks in the range are never negative.
    bounded = min(float(joint.range_max), max(float(joint.range_min), ticks))
    below = math.floor(bounded)
    return below + (bounded - below >= 0.5)


def _file_name(name: str) -> str:
    if not name or name in (".", "..") or Path(name).name != name or "\0" in name:
        raise InputError(f"the name of a calibration is that of a file, without folders; got {name!r}")
    return f"{name}.json"


def _require_keys(place: str, what: str, data: Mapping[str, object], wanted: Sequence[str]) -> None:
    missing = [key for key in wanted if key not in data]
    unknown = [key for key in data if key not in wanted]
    if missing:
        raise InputError(f"{place}: {what} {missing[0]} is missing; expected {', '.join(wanted)}")
    if unknown:
        raise InputError(f"{place}: no {what} {unknown[0]!r}; expected {', '.join(wanted)}")


def _joint(place: str, data: object) -> JointCalibration:
    keys = [field.name for field in fields(JointCalibration)]
    if not isinstance(data, dict):
        raise InputError(f"{place}: expected {', '.join(keys)}, got {data!r}")
    _require_keys(place, "key", data, keys)
    return JointCalibration(**data)
