"""LeRobot's own Koch follower works on an arm, real or emulated; needs an environment with LeRobot 0.4.4.

    python tools/clients/lerobot_koch.py PORT CALIBRATION [--move JOINT=POSITION ...]

Connects as any user of LeRobot does, with a calibration file that exists already, reads the pose in degrees, moves
joints in small steps, reads again and disconnects. Prints one JSON object with what it saw.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lerobot_arm import carry_out, make_importable, parser_of


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    make_importable()
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
        carry_out(robot, arguments.move)
        facts["end"] = robot.get_observation()
        facts["end_raw"] = robot.bus.sync_read("Present_Position", normalize=False)
    finally:
        robot.disconnect()
    json.dump(facts, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
