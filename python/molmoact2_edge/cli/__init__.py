"""The command ``molmoact2-edge``; each subcommand is a module of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from molmoact2_edge.errors import MolmoAct2Error

_COMMANDS = {
    "run": "run a policy on a robot, or in the simulator, in closed loop",
    "predict": "predict one chunk of actions from image files",
    "profile": "measure how well this computer keeps the loop's time, and say what to do",
    "blackbox": "read the black box that a fault left behind",
    "find-port": "tell which serial port an arm is on",
    "scan": "list the motors on a bus",
    "setup-motors": "give new motors their ids and baud rate",
    "calibrate": "record an arm's middle and ranges, in LeRobot's file format",
    "jog": "move one joint by hand-sized steps",
    "teleop": "let a follower arm copy a leader arm",
    "cameras": "list the cameras and save a picture of each",
    "hil": "test an arm, real or emulated, and write a report",
    "emulate": "be a robot or a camera on the wire, without hardware",
    "doctor": "say what this machine can do and what is missing",
}

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; an error of this package becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="molmoact2-edge", description="Ai2's MolmoAct2 robot policy, run on the robot itself."
    )
    parser.add_argument("--version", action="version", version=metadata.version("molmoact2-edge"))
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in _COMMANDS.items():
        if name == asked:
            importlib.import_module(f"{__name__}.{name.replace('-', '_')}").add_parser(subparsers)
        else:
            # For the list of commands; importing all of them would make each slow to start.
            subparsers.add_parser(name, help=purpose)
    parsed = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except MolmoAct2Error as error:
        print(f"molmoact2-edge {parsed.command}: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
