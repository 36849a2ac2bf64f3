"""``molmoact2-edge hil``: tests an arm, real or emulated, and writes a report."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmoact2_edge.cli.run import add_connection_options, connected
from molmoact2_edge.cli.terminal import Terminal
from molmoact2_edge.config import RobotConfig, robot_names
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.hil import Checklist, Suite, SuiteSettings
    from molmoact2_edge.hil.arm import ArmUnderTest
    from molmoact2_edge.hil.emulated import Emulation

_NOTES = """On a real arm it asks before it moves, moves each joint by a few degrees, slowly, and leaves out what could
drop the arm and the faults, which only an emulated arm can be told to have. DIR gets hil.html, junit.xml and hil.json.
Exit code: 0 when nothing failed, 3 when a check did, 1 after an error, 2 for wrong arguments."""
_GROUPS = ("identification", "timing", "tracking", "limits", "stops", "faults", "cameras")
_EXIT_FAILED_CHECKS = 3
_REAL_AMPLITUDE, _REAL_SPEED = 5.0, 0.25


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "hil", help="test an arm, real or emulated, and write a report", epilog=_NOTES
    )
    parser.add_argument(
        "--robot", default="so101", metavar="NAME|FILE", help=f"{', '.join(robot_names())}, or a .yaml file"
    )
    add_connection_options(parser)
    parser.add_argument("--emulate", action="store_true", help="start the robot's emulator and test that")
    parser.add_argument(
        "--only", default=",".join(_GROUPS), metavar="LIST", help="groups of checks (default: %(default)s)"
    )
    parser.add_argument(
        "--rates", default="50,100,200", metavar="LIST", help="of the bus, in Hz (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="for each rate and joint (default: %(default)s)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before a real arm moves")
    parser.add_argument(
        "--report", type=Path, default=Path("hil"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--camera-frames", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class _Asked:
    groups: tuple[str, ...]
    rates_hz: tuple[float, ...]
    seconds: float


def run(arguments: argparse.Namespace) -> int:
    """Test, write the three files, print one line a check; returns the exit code."""
    from molmoact2_edge.hil import Checklist

    asked = _asked(arguments)
    config = connected(arguments)
    if config.driver == "sim":
        raise InputError(
            f"robot {config.name!r} is simulated and has no wire to test; --robot so101 --emulate has one"
        )
    arguments.report.mkdir(parents=True, exist_ok=True)
    terminal = Terminal()
    checklist = Checklist(terminal.say)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molmoact2-hil-")))
        emulation = None
        if arguments.emulate:
            if "cameras" in asked.groups and arguments.camera_frames is None:
                code = _again_with_cameras(config, directory)
                if code is not None:
                    return code
            from molmoact2_edge.hil.emulated import emulated

            emulation = stack.enter_context(emulated(config, directory, arguments.camera_frames))
            config = emulation.config
        about, config = _test(arguments, asked, config, emulation, checklist, terminal)
    return _report(arguments.report, checklist, config, about)


def _asked(arguments: argparse.Namespace) -> _Asked:
    groups = tuple(arguments.only.split(","))
    unknown = [group for group in groups if group not in _GROUPS]
    if unknown:
        raise InputError(f"--only: no checks {', '.join(unknown)}; there are {', '.join(_GROUPS)}")
    try:
        rates = tuple(float(rate) for rate in arguments.rates.split(","))
    except ValueError:
        raise InputError(f"--rates: expected numbers like 50,100, got {arguments.rates!r}") from None
    if not all(10.0 <= rate <= 1000.0 for rate in rates):
        raise InputError(f"--rates: 10 to 1000 Hz, got {arguments.rates!r}")
    if not 1.0 <= arguments.seconds <= 60.0:
        raise InputError(f"--seconds: 1 to 60, got {arguments.seconds:g}")
    return _Asked(groups, rates, arguments.seconds)


def _again_with_cameras(config: RobotConfig, directory: Path) -> int | None:
    """Run this command once more in the environment in which the emulated cameras are there; None: there are none."""
    from molmoact2_edge.hil.emulated import camera_devices
    from molmoact2_emulators.camera_shim import shim_environment

    devices = dict(camera_devices(config, directory).values())
    try:
        environment = shim_environment(devices)
    except InputError:
        return None
    command = [sys.executable, "-m", "molmoact2_edge", *sys.argv[1:], "--camera-frames", str(directory)]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode  # noqa: S603


def _test(
    arguments: argparse.Namespace,
    asked: _Asked,
    config: RobotConfig,
    emulation: Emulation | None,
    checklist: Checklist,
    terminal: Terminal,
) -> tuple[dict[str, Any], RobotConfig]:
    from molmoact2_edge.hil import Suite, SuiteSettings
    from molmoact2_edge.hil.arm import ArmUnderTest
    from molmoact2_edge.runtime.hardware import make_robot
    from molmoact2_edge.runtime.hardware_fit import require_fit, within_reach

    settings = SuiteSettings(rates_hz=asked.rates_hz, seconds=asked.seconds)
    if emulation is None:
        settings = replace(settings, amplitude=_REAL_AMPLITUDE, speed=_REAL_SPEED)
    robot = make_robot(config)
    try:
        robot.connect()
        robot.configure()
        require_fit(config, robot)
        config = within_reach(config, robot.capabilities)
        arm = ArmUnderTest(robot, config, [] if emulation is None else emulation.processes)
        suite = Suite(arm, checklist, settings)
        if "identification" in asked.groups:
            suite.identification()
        refused = _refusal(arguments, arm, settings, terminal)
        _moving_checks(suite, asked, refused)
        _fault_checks(arguments, asked, arm, emulation, checklist)
        about = {
            "arm": robot.name,
            "configuration": config.name,
            "emulated": emulation is not None,
            "groups": list(asked.groups),
            "amplitude": settings.amplitude,
            "speed": settings.speed,
        }
        statistics = getattr(robot, "statistics", None)
        if callable(statistics):
            about["driver"] = statistics()
        return about, config
    finally:
        robot.disconnect()


def _refusal(
    arguments: argparse.Namespace, arm: ArmUnderTest, settings: SuiteSettings, terminal: Terminal
) -> str | None:
    """Ask whether the arm may move; returns why it may not."""
    if arm.emulated or arguments.yes:
        return None
    terminal.say(
        f"The motors of {arm.robot.name} are switched on now, and each joint moves by up to {settings.amplitude:g} "
        f"degrees around where it stands, at {settings.speed:.0%} of its speed limit. Put the arm where it has room, "
        "keep hands and cables away, and have its power switch within reach."
    )
    answers = {"n": "nothing moves", "y": "move it"}
    return None if terminal.ask("May it move?", answers) == "y" else "nobody allowed the arm to move"


def _moving_checks(suite: Suite, asked: _Asked, refused: str | None) -> None:
    for group in ("timing", "tracking", "limits", "stops"):
        if group not in asked.groups:
            continue
        if refused is not None:
            suite.checklist.skipped(group, "all", refused)
        elif group == "timing":
            for rate in asked.rates_hz:
                suite.timing(rate)
        elif group == "tracking":
            for joint in suite.names:
                suite.tracking(joint)
        elif group == "limits":
            suite.gate()
        else:
            suite.stops()
            suite.stop_policies()


def _fault_checks(
    arguments: argparse.Namespace,
    asked: _Asked,
    arm: ArmUnderTest,
    emulation: Emulation | None,
    checklist: Checklist,
) -> None:
    from molmoact2_edge.hil.arm import ArmUnderTest
    from molmoact2_edge.hil.emulated import open_emulated_cameras
    from molmoact2_edge.hil.fault_cases import camera_faults
    from molmoact2_edge.hil.faults import FaultChecks

    if "faults" in asked.groups:
        if emulation is None:
            checklist.skipped("faults", "all", "a real arm cannot be told to have faults; give --emulate")
        else:
            checks = FaultChecks(arm, checklist)
            for case in emulation.faults:
                checks.run(case)
    if "cameras" not in asked.groups:
        return
    if emulation is None or not emulation.cameras:
        why = "real cameras cannot be told to have faults; give --emulate"
        if emulation is not None:
            why = "this installation has no emulated cameras (Linux only)"
        checklist.skipped("camera faults", "all", why)
        return
    cameras = open_emulated_cameras(emulation, arguments.camera_frames)
    try:
        role = next(iter(cameras))
        # Faults are told to that camera's emulator.
        blinded = ArmUnderTest(arm.robot, arm.config, [emulation.cameras[role]])
        checks = FaultChecks(blinded, checklist, cameras)
        for case in camera_faults(arm.config.watchdogs.camera_age_max_s, arm.config.cameras[role]):
            checks.run(case)
    finally:
        for camera in cameras.values():
            camera.disconnect()


def _report(directory: Path, checklist: Checklist, config: RobotConfig, about: dict[str, Any]) -> int:
    from molmoact2_edge.hil import Verdict, build_document, junit, page

    document = build_document(checklist.checks, config, about)
    texts = {
        "hil.html": page(document, checklist.checks),
        "junit.xml": junit(checklist.checks, f"molmoact2-edge hil {config.name}"),
        "hil.json": json.dumps(document, indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    counts = ", ".join(f"{checklist.count(verdict)} {verdict.value}" for verdict in Verdict)
    print(f"\n{counts}\n{', '.join(str(directory / name) for name in texts)}")
    return 0 if document["passed"] else _EXIT_FAILED_CHECKS
