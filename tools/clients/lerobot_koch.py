"""LeRobot's own Koch follower works on an arm, real or emulated; needs an environment with LeRobot 0.4.4.

    python tools/clients/lerobot_koch.py PORT CALIBRATION [--move JOINT=POSITION ...]

Connects as any user of LeRobot does, with a calibration file that exists already, reads the pose in degrees, moves
joints in small steps, reads again and disconnects. Prints one JSON object with what it saw.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

_STEP = 2.0  # degrees or percent from one action to the next
_ACTIONS_PER_S = 50
_SETTLE_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port")
    parser.add_argument("calibration", type=Path, help="a file of LeRobot's; its name is the robot's id")
    parser.add_argument("--move", action="append", default=[], metavar="JOINT=POSITION")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module("check_dataset").make_torchvision_importable()
    from lerobot.robots.koch_follower import KochFollower, KochFollowerConfig

    robot = KochFollower(
        KochFollowerConfig(
            port=arguments.port,
            id=arguments.calibration.stem,
            calibration_dir=arguments.calibration.parent,
            use_degrees=True,
        )
    )
    # Where the file and the servos differ this asks, and fails without a person: they must not differ.
    robot.connect()
    facts: dict[str, Any] = {"calibrated": robot.is_calibrated, "found": robot.bus.broadcast_ping()}
    try:
        facts["start_raw"] = robot.bus.sync_read("Present_Position", normalize=False)
        facts["start"] = robot.get_observation()
        for move in arguments.move:
            joint, _, position = move.partition("=")
            _move(robot, f"{joint}.pos", float(position))
        time.sleep(_SETTLE_S)
        facts["end"] = robot.get_observation()
        facts["end_raw"] = robot.bus.sync_read("Present_Position", normalize=False)
    finally:
        robot.disconnect()
    json.dump(facts, sys.stdout, indent=2)
    print()


def _move(robot: Any, feature: str, goal: float) -> None:
    now = float(robot.get_observation()[feature])
    while now != goal:
        now = goal if abs(goal - now) <= _STEP else now + (_STEP if goal > now else -_STEP)
        robot.send_action({feature: now})
        time.sleep(1.0 / _ACTIONS_PER_S)


if __name__ == "__main__":
    main()
