"""Calibrates an arm by hand: its middle pose, then the range of each joint; the servos are written at the very end.

Positions are taken from the encoders themselves, with the homing offset that a servo has now taken out. So nothing
needs to be reset first, an interrupted calibration leaves the arm as it was, and a later session goes on where it
ended.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from molmoact2_drivers.calibration import ArmCalibration, JointCalibration, save_calibration
from molmoact2_edge.arms.arm_servos import FEETECH, ArmServos
from molmoact2_edge.arms.calibration_progress import TURN, CalibrationProgress, Travel, shortest
from molmoact2_edge.arms.servo_bus import ServoBus, let_go
from molmoact2_edge.errors import InputError, RobotError

MIDDLE = 2047
"""What a joint reads in the middle pose, as LeRobot has it."""

_LAST = TURN - 1
_MOVED_TICKS = 100  # 9 degrees: less is a nudge
_SPAN_SHARE = 0.8  # of what such a joint turns from stop to stop
_EDGE_TICKS = 20
_SETTLED_TICKS = 60  # a released arm may sink a little between two readings


@dataclass(frozen=True)
class JointView:
    """One joint during the recording, in ticks as it will read them: 2047 is the middle pose."""

    joint: str
    position: int
    lowest: int
    highest: int
    trouble: str
    """What is wrong with its range so far, and what to do; empty where nothing is."""
    kind: str
    """``full_turn``, ``good``, ``not_moved``, ``too_small`` or ``wrapped``."""

    @property
    def degrees(self) -> float:
        """How far it was moved."""
        return (self.highest - self.lowest) * 360.0 / _LAST


@dataclass(frozen=True)
class Difference:
    """A value of a calibration that is not the same in two places."""

    joint: str
    key: str
    before: int | None
    after: int | None


class CalibrationSession:
    """One arm on an open bus. Every step is kept in a file beside the target as soon as it is done."""

    def __init__(
        self, bus: ServoBus, arm: ArmServos, target: Path, existing: ArmCalibration | None = None
    ) -> None:
        """``target`` is where the calibration will be; ``existing`` is the one that is there now.

        Raises:
            RobotError: a servo of the arm does not answer.
        """
        self.arm = arm
        self.target = target
        self.existing = existing
        self._bus = bus
        self._ids = list(arm.ids.values())
        self._sign = 1 if arm.protocol == FEETECH else -1
        self._offsets = {joint: bus.homing_offset(number) for joint, number in arm.ids.items()}
        self._offset_max = arm.homing_offset_max
        self.progress = CalibrationProgress.load(target, arm.joints)

    # --- steps ---

    def release(self) -> None:
        """Let go of every joint: an arm that nobody holds sinks."""
        let_go(self.arm.protocol, self._bus, self._ids)

    def take_middle(self) -> None:
        """Make the present pose the middle; ranges that were recorded are forgotten."""
        self.progress.begin(self.encoders())
        self.progress.save()

    def record(self) -> list[JointView]:
        """Read every joint once and widen the ranges; call it often, at least 20 times a second.

        Raises:
            RobotError: there is no middle pose yet.
        """
        encoders = self.encoders()
        self._require_middle()
        for joint, travel in self.progress.travels.items():
            travel.move_to(encoders[joint])
        return self.views()

    def views(self) -> list[JointView]:
        """Return how the ranges stand."""
        return [self._view(joint, travel) for joint, travel in self.progress.travels.items()]

    def result(self) -> ArmCalibration:
        """Return the calibration that the steps have come to.

        Raises:
            InputError: a range is not usable, whoever accepts it; says which and what to do.
        """
        self._require_middle()
        unusable = [view for view in self.views() if view.kind in ("not_moved", "wrapped")]
        if unusable:
            raise InputError("; ".join(f"{view.joint}: {view.trouble}" for view in unusable))
        return ArmCalibration(
            {joint: self._joint(joint, travel) for joint, travel in self.progress.travels.items()},
            offset_max=self._offset_max,
        )

    def write(self, calibration: ArmCalibration) -> Path | None:
        """Write servos, read them back, then the file; returns where the file that was there before is now.

        Raises:
            RobotError: a servo does not keep its values, or reads otherwise than calculated; the file is not written.
        """
        self.apply(calibration)
        backup = self._keep_existing()
        save_calibration(self.target, calibration, self._offset_max)
        self.progress.remove()
        return backup

    def apply(self, calibration: ArmCalibration) -> None:
        """Write servos and read them back, without touching any file; every joint must be released.

        Raises:
            RobotError: as :meth:`write`.
        """
        before = self.encoders()
        self._bus.write_calibration(calibration)
        wrong = differences(calibration, self.stored())
        if wrong:
            raise RobotError(
                f"servos did not keep their calibration: {describe(wrong)}; no file was written. Switch the arm's "
                "power off and on, then run the same command again: it goes on here"
            )
        self._check_readings(calibration, before)

    # --- the servos ---

    def encoders(self) -> dict[str, int]:
        """Return each joint's encoder, 0..4095, with the servo's homing offset taken out."""
        present = self._bus.read_many(self._ids, "present_position")
        return {
            joint: (present[number] + self._sign * self._offsets[joint]) % TURN
            for joint, number in self.arm.ids.items()
        }

    def stored(self) -> dict[str, JointCalibration]:
        """Return what the servos have in their memory now."""
        return {
            joint: JointCalibration(
                id=number,
                drive_mode=0,
                homing_offset=self._bus.read(number, "homing_offset"),
                range_min=self._bus.read(number, "min_position_limit"),
                range_max=self._bus.read(number, "max_position_limit"),
            )
            for joint, number in self.arm.ids.items()
        }

    # --- inside ---

    def _require_middle(self) -> None:
        if not self.progress.travels:
            raise RobotError("the middle pose comes first: take_middle()")

    def _offset(self, encoder: int) -> int:
        # At one encoder value of 4096 a Feetech's register falls short by a tick, which then reads 2048 in the middle.
        return max(-self._offset_max, min(self._offset_max, self._sign * (encoder - MIDDLE)))

    def _view(self, joint: str, travel: Travel) -> JointView:
        reads = travel.middle - self._sign * self._offset(travel.middle)
        position, low, high = (reads + ticks for ticks in (travel.position, travel.lowest, travel.highest))
        if joint in self.arm.full_turn:
            return JointView(joint, position % TURN, 0, _LAST, "", "full_turn")
        kind, trouble = self._judge(joint, low, high)
        return JointView(joint, position, low, high, trouble, kind)

    def _judge(self, joint: str, low: int, high: int) -> tuple[str, str]:
        span = high - low
        if span < _MOVED_TICKS:
            return "not_moved", "not moved yet: move it from one stop to the other"
        if low < _EDGE_TICKS or high > _LAST - _EDGE_TICKS:
            return (
                "wrapped",
                "it came more than half a turn from the middle pose, so that pose was not its middle: take the middle "
                "pose again",
            )
        expected = self.arm.spans.get(joint)
        if expected is not None and span < _SPAN_SHARE * expected:
            return (
                "too_small",
                f"moved {span * 360 / _LAST:.0f} of about {expected * 360 / _LAST:.0f} degrees: "
                "move it on to both stops",
            )
        return "good", ""

    def _joint(self, joint: str, travel: Travel) -> JointCalibration:
        view = self._view(joint, travel)
        kept = None if self.existing is None else self.existing.get(joint)
        return JointCalibration(
            id=self.arm.ids[joint],
            drive_mode=0 if kept is None else kept.drive_mode,
            homing_offset=self._offset(travel.middle),
            range_min=view.lowest,
            range_max=view.highest,
        )

    def _check_readings(self, calibration: ArmCalibration, encoders: Mapping[str, int]) -> None:
        """What the servos read now is what the file says they read."""
        self._offsets = {joint: calibration[joint].homing_offset for joint in self.arm.joints}
        wrong = [
            f"{joint} by {abs(shortest(now - encoders[joint]))} ticks"
            for joint, now in self.encoders().items()
            if abs(shortest(now - encoders[joint])) > _SETTLED_TICKS
        ]
        if wrong:
            raise RobotError(
                f"joints read otherwise than their new offsets should make them: {', '.join(wrong)}; no file was "
                "written. Do not move the arm while it is written, and run calibrate again: it goes on here"
            )

    def _keep_existing(self) -> Path | None:
        if not self.target.exists():
            return None
        backup = self.target.with_name(f"{self.target.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
        shutil.copy2(self.target, backup)
        return backup


def differences(
    calibration: Mapping[str, JointCalibration], other: Mapping[str, JointCalibration] | None
) -> list[Difference]:
    """Return what ``calibration`` changes in ``other``; drive modes live in files alone and are not compared."""
    changes = []
    for joint, wanted in calibration.items():
        present = None if other is None else other.get(joint)
        for key in ("id", "homing_offset", "range_min", "range_max"):
            before = None if present is None else int(getattr(present, key))
            after = int(getattr(wanted, key))
            if before != after:
                changes.append(Difference(joint, key, before, after))
    return changes


def describe(changes: list[Difference]) -> str:
    """Return differences as one line."""
    return ", ".join(
        f"{change.joint} {change.key} {change.before} instead of {change.after}" for change in changes
    )
