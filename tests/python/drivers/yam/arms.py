"""YAM configurations for tests: the shipped file with the ports of an emulator, both arms or the left one alone."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.yam import YamRobot, from_config
from molmoact2_edge.config import RobotConfig, load_robot

TIMEOUT_S = 60.0
MOTOR_TIMEOUT_S = 1.5
"""A computer that many tests share keeps commands waiting for longer than the motors of a real arm should bear."""
_LOOK_S = 0.005


def configuration(*ports: str, **changes: Any) -> RobotConfig:
    """Return the shipped robot on these ports, one arm or two; `changes` replace keys of `connection`."""
    config = load_robot("yam-bimanual")
    connection = copy.deepcopy(dict(config.connection))
    joints = config.joints
    if len(ports) == 1:
        joints = {name.removeprefix("left_"): joints[name] for name in joints if name.startswith("left_")}
        del connection["left"], connection["right"]
        connection["port"] = ports[0]
    else:
        connection["left"]["port"], connection["right"]["port"] = ports or (None, None)
    connection |= {"gravity": None, "timeout_s": MOTOR_TIMEOUT_S, "ramp_s": 0.05} | changes
    return dataclasses.replace(config, joints=joints, connection=connection)


@contextmanager
def yam(*options: str, **changes: Any) -> Iterator[tuple[EmulatorProcess, YamRobot]]:
    """Run an emulator and give the robot that is connected to it by its configuration; nothing is open yet."""
    with emulator("yam", *options) as process:
        robot = from_config(configuration(*process.address.split(), **changes))
        try:
            yield process, robot
        finally:
            robot.disconnect()


def wait_until(holds: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether it came to hold in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(_LOOK_S)
    return holds()
