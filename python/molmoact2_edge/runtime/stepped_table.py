"""The simulated table in simulated time."""

from __future__ import annotations

from typing import Any

from molmoact2_drivers import Camera
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime.simulation import SimulatedTable
from molmoact2_edge.sim import World
from molmoact2_edge.sim.robot import SimRobot
from molmoact2_edge.sim.stepped import SimulatedClock, SteppedCamera, SteppedRobot


class SteppedTable(SimulatedTable):
    """The same scenes, instructions and judge; robot and cameras wait to be stepped. Used by one thread."""

    robot: SteppedRobot

    def __init__(self, config: RobotConfig) -> None:
        self.clock = SimulatedClock()
        self.stepped_cameras: list[SteppedCamera] = []
        super().__init__(config)

    def facts(self) -> dict[str, Any]:
        return {}

    def _make_robot(self) -> SimRobot:
        return SteppedRobot(World(0), self.clock)

    def _make_camera(self, name: str, image_size: tuple[int, int], rate_hz: float) -> Camera:
        camera = SteppedCamera(self.robot, self.clock, name, image_size, rate_hz)
        self.stepped_cameras.append(camera)
        return camera


def open_stepped_scenario(config: RobotConfig) -> SteppedTable:
    """Return the simulated table in simulated time, opened.

    Raises:
        InputError: the robot is a real one; its time cannot be simulated.
        MissingExtraError: the simulator is not installed.
        RobotError: no GL library works.
    """
    if config.driver != "sim":
        raise InputError(
            f"simulated time needs a simulated robot, and {config.name!r} has the driver {config.driver!r}; "
            "use --robot sim-so101, or --time real"
        )
    table = SteppedTable(config)
    try:
        table.open()
    except BaseException:
        table.close()
        raise
    return table
