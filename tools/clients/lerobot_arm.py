"""What the clients of LeRobot's arms share: their arguments, LeRobot made importable, a motion in small steps."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_STEP = 2.0  # degrees or percent from one action to the next
_ACTIONS_PER_S = 50
_SETTLE_S = 1.0


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """Return a parser for a port, a calibration file and motions."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port")
    parser.add_argument("calibration", type=Path, help="a file of LeRobot's; its name is the robot's id")
    parser.add_argument("--move", action="append", default=[], metavar="JOINT=POSITION")
    return parser


def make_importable() -> None:
    """Before the first import of LeRobot, whose torchvision may not fit its torch."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module("check_dataset").make_torchvision_importable()


def carry_out(robot: Any, moves: Iterable[str]) -> None:
    """Go to each ``JOINT=POSITION`` in small steps, one after the other, and let the arm settle."""
    for move in moves:
        joint, _, position = move.partition("=")
        feature, goal = f"{joint}.pos", float(position)
        now = float(robot.get_observation()[feature])
        while now != goal:
            now = goal if abs(goal - now) <= _STEP else now + (_STEP if goal > now else -_STEP)
            robot.send_action({feature: now})
            time.sleep(1.0 / _ACTIONS_PER_S)
    time.sleep(_SETTLE_S)
