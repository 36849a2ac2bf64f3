"""What a calibration has come to so far, kept beside its target so that it can go on another time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from molmoact2_edge.errors import InputError

TURN = 4096
"""Ticks of an encoder's turn."""

_SUFFIX = ".progress"  # not .json: whoever lists calibrations must not take it for one


@dataclass
class Travel:
    """How far one joint was moved from the middle pose, in encoder ticks; followed over the encoder's end."""

    middle: int
    """The encoder there, 0..4095."""
    lowest: int = 0
    highest: int = 0
    position: int = 0
    known: bool = field(default=False, compare=False)
    """Whether ``position`` was followed without a pause; after one the shorter way from the middle counts."""

    def move_to(self, encoder: int) -> None:
        """Take a new reading, less than half a turn from the one before."""
        before = self.position if self.known else 0
        self.position = before + shortest(encoder - self.middle - before)
        self.known = True
        self.lowest = min(self.lowest, self.position)
        self.highest = max(self.highest, self.position)


class CalibrationProgress:
    """The steps that are done. ``travels`` is empty before the middle pose."""

    def __init__(self, path: Path, joints: Sequence[str]) -> None:
        self.path = path
        self.travels: dict[str, Travel] = {}
        self.recorded = False
        """Whether the person has said that the ranges are complete."""
        self.age_s: float | None = None
        """How old the file is from which it was loaded; None: it is new."""
        self._joints = tuple(joints)

    @classmethod
    def load(cls, target: Path, joints: Sequence[str]) -> CalibrationProgress:
        """Return the progress towards ``target``, empty where there is none.

        Raises:
            InputError: there is a file that is not readable as one; it is never thrown away unasked.
        """
        progress = cls(progress_path(target), joints)
        try:
            content = json.loads(progress.path.read_text(encoding="utf-8"))
            progress.age_s = max(0.0, time.time() - progress.path.stat().st_mtime)
        except FileNotFoundError:
            return progress
        except (OSError, ValueError) as error:
            raise InputError(f"{progress.path}: not readable ({error}); remove it to begin anew") from error
        try:
            progress._take(content)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{progress.path}: not the progress of a calibration of {', '.join(joints)} ({error}); "
                "remove it to begin anew"
            ) from error
        return progress

    def begin(self, encoders: Mapping[str, int]) -> None:
        """Note the middle pose; ranges begin anew."""
        self.travels = {joint: Travel(encoders[joint]) for joint in self._joints}
        self.recorded = False

    def save(self) -> None:
        """Replace the file at once, so that it is complete whenever the power goes."""
        content = {
            "recorded": self.recorded,
            "joints": {
                joint: {"middle": travel.middle, "lowest": travel.lowest, "highest": travel.highest}
                for joint, travel in self.travels.items()
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(new, self.path)

    def remove(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)
        self.travels, self.recorded, self.age_s = {}, False, None

    def _take(self, content: Any) -> None:
        joints = content["joints"]
        if tuple(joints) != self._joints:
            raise ValueError(f"it has the joints {', '.join(joints)}")
        for joint, values in joints.items():
            middle, lowest, highest = (int(values[key]) for key in ("middle", "lowest", "highest"))
            if not (0 <= middle < TURN and lowest <= 0 <= highest):
                raise ValueError(f"{joint} has impossible values")
            self.travels[joint] = Travel(middle, lowest, highest)
        self.recorded = bool(content["recorded"])


def progress_path(target: Path) -> Path:
    """Return where the progress towards a calibration file is kept."""
    return target.with_name(target.name + _SUFFIX)


def shortest(ticks: int) -> int:
    """Return the shorter way round an encoder, -2048..2047."""
    return (ticks + TURN // 2) % TURN - TURN // 2
