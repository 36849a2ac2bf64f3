"""LeRobot's own SO-101 follower works on an arm, real or emulated; needs an environment with LeRobot 0.4.4.

    python tools/clients/lerobot_so101.py PORT CALIBRATION [--move JOINT=POSITION ...] [--cycles N]
    python tools/clients/lerobot_so101.py PORT CALIBRATION --still

Connects as any user of LeRobot does, with a calibration file that exists already, reads the pose, moves joints in small
steps, reads and writes some cycles, and disconnects. With --still it only reads, so that nothing moves by a tick.
Prints one JSON object with what it saw.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
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
    parser.add_argument("--cycles", type=int, default=100, help="of reading and writing that are timed")
    parser.add_argument("--still", action="store_true", help="only read the pose: no settings, no torque")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module("check_dataset").make_torchvision_importable()
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    robot = SO101Follower(
        SO101FollowerConfig(
            port=arguments.port, id=arguments.calibration.stem, calibration_dir=arguments.calibration.parent
        )
    )
    if arguments.still:
        robot.bus.connect()
        try:
            print(json.dumps({"calibrated": robot.is_calibrated, "start": robot.get_observation()}, indent=2))
        finally:
            robot.bus.disconnect(disable_torque=False)
        return
    # Where the file and the servos differ this asks, and fails without a person: they must not differ.
    robot.connect()
    facts: dict[str, Any] = {"calibrated": robot.is_calibrated}
    try:
        facts["raw"] = robot.bus.sync_read("Present_Position", normalize=False)
        facts["start"] = robot.get_observation()
        for move in arguments.move:
            joint, _, position = move.partition("=")
            _move(robot, f"{joint}.pos", float(position))
        time.sleep(_SETTLE_S)
        facts["end"] = robot.get_observation()
        facts["end_raw"] = robot.bus.sync_read("Present_Position", normalize=False)
        facts["cycle_ms"] = _cycle_ms(robot, arguments.cycles)
    finally:
        robot.disconnect()
    json.dump(facts, sys.stdout, indent=2)
    print()


def _move(robot: Any, joint: str, target: float) -> None:
    """Go to a position in small steps."""
    position = robot.get_observation()[joint]
    while position != target:
        position += min(max(target - position, -_STEP), _STEP)
        robot.send_action({joint: position})
        time.sleep(1.0 / _ACTIONS_PER_S)


def _cycle_ms(robot: Any, cycles: int) -> float:
    """Return the median time of reading a pose and writing it back as the goal."""
    times = []
    for _ in range(cycles):
        begin = time.perf_counter()
        robot.send_action(robot.get_observation())
        times.append((time.perf_counter() - begin) * 1e3)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
