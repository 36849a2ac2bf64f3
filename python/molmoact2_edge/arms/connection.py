"""Opens the arm that a configuration describes, as ``run`` does, and the leader arm that belongs to it."""

from __future__ import annotations

import importlib
from pathlib import Path

from molmoact2_drivers import Robot
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime.hardware import DRIVERS, make_robot
from molmoact2_edge.runtime.hardware_fit import require_fit, within_reach

_SIMULATED = "sim"


def open_arm(config: RobotConfig) -> tuple[Robot, RobotConfig]:
    """Return the robot, connected and configured, and its configuration with limits within its reach; nothing moves.

    Raises:
        InputError: there is no such driver, or its connection is not described completely.
        MissingExtraError: an optional dependency of the driver is not installed.
        RobotError: it does not answer, or is another robot than the configuration says.
    """
    robot = _simulated(config) if config.driver == _SIMULATED else make_robot(config)
    try:
        robot.connect()
        robot.configure()
        require_fit(config, robot)
        return robot, within_reach(config, robot.capabilities)
    except BaseException:
        robot.disconnect()
        raise


def make_leader(
    config: RobotConfig, *, port: str, name: str | None = None, calibration: Path | None = None
) -> Robot:
    """Return the leader arm that belongs to a robot, not connected; its motors never drive.

    ``name`` is the one under which its calibration is kept; None: the only one there is.

    Raises:
        InputError: there is no leader arm of that kind, or no calibration of it.
    """
    place = DRIVERS.get(config.driver)
    module = None if place is None else importlib.import_module(place)
    if module is None or not hasattr(module, "open_leader"):
        raise InputError(
            f"robot {config.name!r} has no leader arm (driver {config.driver}); so100, so101 and koch have"
        )
    leader: Robot = module.open_leader(config.driver, port, name, calibration)
    return leader


def _simulated(config: RobotConfig) -> Robot:
    if any(config.connection.get(key) is not None for key in ("port", "id", "calibration", "left", "right")):
        raise InputError(f"robot {config.name!r} is simulated: leave out --port, --id and --calibration")
    from molmoact2_edge.sim import World
    from molmoact2_edge.sim.robot import SimRobot

    return SimRobot(World(0))
