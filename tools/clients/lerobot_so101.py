"""LeRobot's own SO-101 follower works on an arm, real or emulated; needs an environment with LeRobot 0.4.4.

    python tools/clients/lerobot_so101.py PORT CALIBRATION [--move JOINT=POSITION ...] [--cycles N]
    python tools/clients/lerobot_so101.py PORT CALIBRATION --still

Connects as any user of LeRobot does, with a calibration file that exists already, reads the pose, moves joints in small
steps, reads and writes some cycles, and disconnects. With --still it only reads, so that nothing moves by a tick.
Prints one JSON object with what it saw.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from lerobot_arm import carry_out, make_importable, parser_of


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="of reading and writing that are timed")
    parser.add_argument("--still", action="store_true", help="only read the pose: no settings, no torque")
    arguments = parser.parse_args()
    make_importable()
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
        carry_out(robot, arguments.move)
        facts["end"] = robot.get_observation()
        facts["end_raw"] = robot.bus.sync_read("Present_Position", normalize=False)
        facts["cycle_ms"] = _cycle_ms(robot, arguments.cycles)
    finally:
        robot.disconnect()
    json.dump(facts, sys.stdout, indent=2)
    print()


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
