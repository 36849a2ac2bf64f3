"""The simulated table as a scenario: a new scene per seed, and the touch task as its judge."""

from __future__ import annotations

from typing import Any

import numpy as np

from molmoact2_drivers import Camera, LifeCycle, StopPolicy
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.sim import COLOURS, JOINT_NAMES, TouchTask, World, parse_instruction
from molmoact2_edge.sim.robot import SimCamera, SimRobot
from molmoact2_edge.sim.touch import Outcome


class SimulatedTable:
    """An SO-101 at a table with three blocks; one seed gives one scene, one instruction, one start."""

    def __init__(self, config: RobotConfig) -> None:
        if tuple(config.joints) != JOINT_NAMES:
            raise InputError(
                f"robot {config.name!r}: the simulator's joints are {', '.join(JOINT_NAMES)}, "
                f"the configuration has {', '.join(config.joints)}"
            )
        self.config = config
        self.judged = True
        self.robot = self._make_robot()
        self.cameras: dict[str, Camera] = {
            name: self._make_camera(name, (camera.height, camera.width), camera.rate_hz)
            for name, camera in config.cameras.items()
        }
        self._task = TouchTask(COLOURS[0])

    def _make_robot(self) -> SimRobot:
        return SimRobot(World(0))

    def _make_camera(self, name: str, image_size: tuple[int, int], rate_hz: float) -> Camera:
        return SimCamera(self.robot, name, image_size, rate_hz)

    def open(self) -> None:
        self.robot.connect()
        self.robot.configure()
        self.robot.activate()
        for camera in self.cameras.values():
            camera.connect()

    def begin(self, seed: int, task: str | None) -> str:
        rng = np.random.default_rng(seed)
        self.robot.reset(rng)
        # Drawn after the scene, so that a task of one's own meets the same scene.
        drawn = COLOURS[int(rng.integers(len(COLOURS)))]
        self._task = TouchTask(drawn if task is None else parse_instruction(task))
        return self._task.instruction if task is None else task

    def outcome(self) -> Outcome:
        with self.robot.world() as world:
            return self._task.outcome(world)

    def facts(self) -> dict[str, Any]:
        return {"simulated_time_lost_s": round(self.robot.slipped_s, 3)}

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.disconnect()
        # Not over what a run's stop has left the motors with.
        if self.robot.life_cycle is LifeCycle.ACTIVE:
            self.robot.stop(StopPolicy.HOLD)
        self.robot.disconnect()
