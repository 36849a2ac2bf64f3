"""python-can and the YAM driver meet an emulated arm on a CAN interface of the kernel: yam_socketcan.py INTERFACE

Run by uml_can.sh. Exits with 0 where every motor was found, switched on, moved where it was sent, and switched off.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from molmoact2_drivers.protocol import LifeCycle, StopPolicy
from molmoact2_drivers.yam import discover, from_config
from molmoact2_edge.build import models_dir
from molmoact2_edge.config import RobotConfig, load_robot

STEP_DEG = 5.0
TOLERANCE_DEG = 0.7
REACHED_S = 10.0


def one_arm(interface: str) -> RobotConfig:
    """Return the left arm of the robot file alone, on an interface."""
    data = yaml.safe_load((models_dir() / "robots" / "yam-bimanual.yaml").read_text(encoding="utf-8"))
    config = load_robot("yam-bimanual")
    joints = {
        name.removeprefix("left_"): joint for name, joint in config.joints.items() if name.startswith("left_")
    }
    connection = {key: value for key, value in data["connection"].items() if key not in ("left", "right")}
    connection |= {"port": interface, "gravity": None}
    # A guest that shares its processors with others is late more often than an arm may be.
    connection["timeout_s"] = 1.0
    return dataclasses.replace(
        config, name=f"yam on {Path(interface).name}", joints=joints, connection=connection
    )


def main() -> int:
    """Run; returns the exit code."""
    interface = sys.argv[1]
    found = discover(interface)
    print(f"python-can found motors {[motor.id for motor in found]}")
    assert [motor.id for motor in found] == [1, 2, 3, 4, 5, 6, 7], found
    robot = from_config(one_arm(interface))
    robot.connect()
    robot.configure()
    robot.activate()
    goal = robot.read_state().positions + np.array([0.0, STEP_DEG, STEP_DEG, 0.0, 0.0, 0.0, STEP_DEG])
    deadline = time.monotonic() + REACHED_S
    error = STEP_DEG
    while error > TOLERANCE_DEG and time.monotonic() < deadline:
        robot.write_targets(goal)
        error = float(np.abs(robot.read_state().positions - goal).max())
        time.sleep(0.004)
    print(f"followed to within {error:.2f} degrees")
    assert error <= TOLERANCE_DEG
    robot.stop(StopPolicy.TORQUE_OFF)
    assert robot.life_cycle is LifeCycle.CONFIGURED, robot.fault
    robot.disconnect()
    print("the driver did its work on SocketCAN")
    return 0


if __name__ == "__main__":
    sys.exit(main())
