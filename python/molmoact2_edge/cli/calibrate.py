"""``molmoact2-edge calibrate``: middle and ranges of an arm's joints, in LeRobot's file format."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError

if TYPE_CHECKING:
    from molmoact2_drivers.calibration import ArmCalibration
    from molmoact2_edge.arms.arm_servos import ArmServos
    from molmoact2_edge.arms.calibration_session import CalibrationSession, Difference, JointView
    from molmoact2_edge.cli.terminal import Keys, Terminal

_PERIOD_S = 0.03
_UNFINISHED = 3
_DIFFERENT = 3

_EXIT_CODES = """exit code: 0 when the calibration is written, was kept, or (--check) fits the servos; 3 when it is not
finished, and the command goes on there the next time, or (--check) when file and servos differ; 1 after an error; 2 for
wrong arguments."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "calibrate",
        help="record an arm's middle and ranges, in LeRobot's file format",
        description="Guides you: the motors let go (support the arm!), you put it into its middle pose, then move each "
        "joint from stop to stop. Nothing is written before you have seen what changes. A calibration made with "
        "LeRobot is found and used as it is, so that you need no new one.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--robot", required=True, metavar="NAME|FILE", help="so101, so100 or koch")
    parser.add_argument(
        "--port", required=True, metavar="PATH", help="serial port; molmoact2-edge find-port knows it"
    )
    parser.add_argument(
        "--id",
        metavar="NAME",
        help="name of the arm, as LeRobot's --robot.id; may be left out where there is only one",
    )
    parser.add_argument("--leader", action="store_true", help="the leader arm")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="this file instead of LeRobot's place for the name"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare file and servos, write nothing")
    what.add_argument(
        "--apply", action="store_true", help="write an existing file's values to the servos, after asking"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, compare or apply; returns the exit code."""
    from molmoact2_drivers.calibration import ArmRole, load_calibration
    from molmoact2_edge.arms.arm_servos import arm_servos
    from molmoact2_edge.cli.terminal import Terminal

    arm = arm_servos(load_robot(arguments.robot), ArmRole.LEADER if arguments.leader else ArmRole.FOLLOWER)
    target, exists = _target(arm, arguments)
    existing = load_calibration(target, arm.joints, arm.homing_offset_max) if exists else None
    terminal = Terminal()
    if (arguments.check or arguments.apply) and existing is None:
        raise InputError(
            f"there is no calibration at {target}; run calibrate without --check and --apply first"
        )
    with _session(arm, arguments.port, target, existing) as session:
        if arguments.check:
            return _check(terminal, session)
        if arguments.apply:
            return _apply(terminal, session)
        return _Guide(terminal, session).run()


def _target(arm: ArmServos, arguments: argparse.Namespace) -> tuple[Path, bool]:
    """The calibration file, and whether it exists: an existing one under any of LeRobot's folder names comes first."""
    from molmoact2_drivers.calibration import default_path, find_calibration

    if arguments.calibration is not None:
        return arguments.calibration, arguments.calibration.exists()
    try:
        return find_calibration(arm.family, arm.role, arguments.id), True
    except InputError:
        if arguments.id is None:
            raise
    return default_path(arm.family, arm.role, arguments.id), False


@contextmanager
def _session(
    arm: ArmServos, port: str, target: Path, existing: ArmCalibration | None
) -> Iterator[CalibrationSession]:
    from molmoact2_edge.arms.calibration_session import CalibrationSession
    from molmoact2_edge.arms.servo_bus import make_bus

    bus = make_bus(arm.protocol, port, arm.baud)
    bus.open()
    try:
        silent = [f"{joint} (id {number})" for joint, number in arm.ids.items() if not bus.ping(number)]
        if silent:
            raise RobotError(
                f"no answer from {', '.join(silent)} of {arm.title} on {port}: molmoact2-edge scan --robot {arm.robot} "
                "--port says what is wrong"
            )
        yield CalibrationSession(bus, arm, target, existing)
    finally:
        bus.close()


def _check(terminal: Terminal, session: CalibrationSession) -> int:
    from molmoact2_edge.arms.calibration_session import differences

    assert session.existing is not None
    changes = differences(session.existing, session.stored())
    terminal.say(f"calibration: {session.target}")
    if not changes:
        terminal.say("file and servos agree; nothing to do")
        return 0
    terminal.say("\n".join(_table(changes, "servo", "file")))
    terminal.say(
        "\nFile and servos differ. Where the file is right (servos were replaced or reset): calibrate --apply. "
        "Where you do not know: calibrate anew."
    )
    return _DIFFERENT


def _apply(terminal: Terminal, session: CalibrationSession) -> int:
    from molmoact2_edge.arms.calibration_session import differences

    assert session.existing is not None
    changes = differences(session.existing, session.stored())
    if not changes:
        terminal.say(f"the servos agree with {session.target} already; nothing to do")
        return 0
    terminal.say("\n".join(_table(changes, "servo now", "servo then")))
    if not _released(terminal, session):
        return _UNFINISHED
    if terminal.ask("Write this to the servos?", {"n": "leave them", "y": "write"}) != "y":
        return _UNFINISHED
    session.apply(session.existing)
    terminal.say("written and read back")
    return 0


class _Guide:
    """Leads a person through the steps."""

    def __init__(self, terminal: Terminal, session: CalibrationSession) -> None:
        self._terminal = terminal
        self._session = session

    def run(self) -> int:
        terminal, session = self._terminal, self._session
        if session.existing is not None and not self._wanted_anyway():
            return 0
        self._resume()
        if not _released(terminal, session):
            return self._later()
        while True:
            if not session.progress.travels and not self._middle():
                return self._later()
            if not session.progress.recorded:
                step = self._ranges()
                if step == "q":
                    return self._later()
                if step == "m":
                    session.progress.remove()
                    continue
            return self._write()

    def _wanted_anyway(self) -> bool:
        from molmoact2_edge.arms.calibration_session import differences

        session = self._session
        assert session.existing is not None
        self._terminal.say(f"There is a calibration already, and it is used as it is: {session.target}")
        changes = differences(session.existing, session.stored())
        self._terminal.say(
            "The servos agree with it: no new calibration is needed."
            if not changes
            else f"But the servos have other values for {', '.join(dict.fromkeys(c.joint for c in changes))}: "
            "--check shows them, --apply writes the file's to the servos."
        )
        answers = {"k": "keep it and end", "c": "calibrate anew"}
        return self._terminal.ask("Calibrate all the same?", answers) == "c"

    def _resume(self) -> None:
        progress = self._session.progress
        if not progress.travels:
            return
        done = "middle pose and ranges are" if progress.recorded else "the middle pose is"
        ago = "" if progress.age_s is None else f" {_ago(progress.age_s)} ago"
        self._terminal.say(f"A calibration was begun{ago}; {done} done.")
        if self._terminal.ask("Go on with it?", {"g": "go on", "r": "begin anew"}) == "r":
            progress.remove()

    def _middle(self) -> bool:
        self._terminal.say(
            "\nStep 1 of 3: put every joint into the middle of its range, as far from one stop as from the other, the "
            "gripper half open. Exactness of a finger's width will do."
        )
        if self._terminal.ask("Middle pose", {"y": "it stands there", "q": "end for now"}) == "q":
            return False
        self._session.take_middle()
        self._terminal.say("Middle pose recorded.")
        return True

    def _ranges(self) -> str:
        session = self._session
        turned = ", ".join(joint for joint in session.arm.joints if joint in session.arm.full_turn)
        self._terminal.say(
            f"\nStep 2 of 3: move each joint slowly from one stop to the other, in any order. {turned} may stay as "
            "it is: it counts as a whole turn.\nEnter: all done, m: the middle pose was wrong, q: end for now"
        )
        while True:
            try:
                with self._terminal.keys() as keys:
                    key = self._record(keys)
            finally:
                session.progress.save()
            if key != "enter":
                return key
            views = session.views()
            self._terminal.say("\n".join(_view_table(views)))
            bad = [view for view in views if view.trouble]
            for view in bad:
                self._terminal.say(f"{view.joint}: {view.trouble}")
            if bad and not self._accepted(bad):
                self._terminal.say(
                    "Go on moving. Enter: all done, m: the middle pose was wrong, q: end for now"
                )
                continue
            session.progress.recorded = True
            session.progress.save()
            return key

    def _record(self, keys: Keys) -> str:
        while True:
            views = self._session.record()
            self._terminal.show(_view_table(views))
            key = keys.get(_PERIOD_S)
            if key in ("enter", "m", "q"):
                return key

    def _accepted(self, bad: list[JointView]) -> bool:
        if any(view.kind != "too_small" for view in bad):
            return False
        names = ", ".join(view.joint for view in bad)
        answers = {"n": "move on", "a": "accept: this arm cannot go farther"}
        return self._terminal.ask(f"The range of {names} is small.", answers) == "a"

    def _write(self) -> int:
        from molmoact2_edge.arms.calibration_session import differences

        terminal, session = self._terminal, self._session
        calibration = session.result()
        terminal.say(f"\nStep 3 of 3: the calibration for {session.target}")
        terminal.say(
            "\n".join(_table(differences(calibration, session.existing), "file before", "file after"))
        )
        answers = {"n": "not now", "y": "write servos and file"}
        if terminal.ask("Write it? Do not move the arm meanwhile.", answers) != "y":
            return self._later()
        backup = session.write(calibration)
        terminal.say(f"Servos written and read back; saved as {session.target}")
        if backup is not None:
            terminal.say(f"The calibration before is kept as {backup}")
        return 0

    def _later(self) -> int:
        if self._session.progress.travels:
            self._session.progress.save()
            self._terminal.say(
                "Nothing was written to the arm. What is done is kept; the same command goes on here."
            )
        else:
            self._terminal.say("Nothing was written.")
        return _UNFINISHED


def _released(terminal: Terminal, session: CalibrationSession) -> bool:
    """Let go of the motors, once the person is ready for it."""
    answer = terminal.ask(
        "The motors let go now: the arm may SINK or FALL. Support it with your hand.",
        {"y": "I hold it", "q": "end, leave the motors as they are"},
    )
    if answer == "q":
        return False
    session.release()
    return True


def _view_table(views: list[JointView]) -> list[str]:
    from molmoact2_edge.cli.terminal import table

    words = {
        "full_turn": "whole turn",
        "good": "good",
        "not_moved": "move it",
        "too_small": "farther",
        "wrapped": "WRONG",
    }
    return table(
        ["joint", "min", "position", "max", "degrees", ""],
        [
            [
                view.joint,
                str(view.lowest),
                str(view.position),
                str(view.highest),
                f"{view.degrees:.0f}",
                words[view.kind],
            ]
            for view in views
        ],
    )


def _table(changes: list[Difference], before: str, after: str) -> list[str]:
    from molmoact2_edge.cli.terminal import table

    if not changes:
        return ["nothing changes"]
    return table(
        ["joint", "value", before, after],
        [
            [
                change.joint,
                change.key,
                "-" if change.before is None else str(change.before),
                "-" if change.after is None else str(change.after),
            ]
            for change in changes
        ],
    )


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
