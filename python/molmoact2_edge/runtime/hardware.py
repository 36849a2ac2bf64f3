"""A real arm with real cameras as a scenario; emulated ones are the same, and may bring a judge."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from molmoact2_drivers import Camera, Robot
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime.hardware_fit import require_fit, within_reach
from molmoact2_edge.runtime.table_judge import Judged, TableJudge

DRIVERS: Mapping[str, str] = {
    "so100": "molmoact2_drivers.feetech",
    "so101": "molmoact2_drivers.feetech",
    "dynamixel": "molmoact2_drivers.dynamixel",
    "koch": "molmoact2_drivers.dynamixel",
    "franka": "molmoact2_drivers.franka",
    "yam": "molmoact2_drivers.yam",
}
"""The module of each driver that is no simulator; its ``from_config(config)`` makes the robot, not yet connected."""


def make_robot(config: RobotConfig) -> Robot:
    """Return the robot that the configuration's driver makes, not yet connected.

    Raises:
        InputError: there is no such driver, or its ``connection`` is not usable.
        MissingExtraError: its optional dependency is not installed.
    """
    if config.driver not in DRIVERS:
        raise InputError(
            f"robot {config.name!r} needs the driver {config.driver!r}; there are sim, {', '.join(sorted(DRIVERS))}"
        )
    module = importlib.import_module(DRIVERS[config.driver])
    return cast(Robot, module.from_config(config))


def with_connection(
    config: RobotConfig,
    *,
    port: str | None = None,
    id: str | None = None,  # noqa: A002 - the file's key
    calibration: Path | None = None,
    left_port: str | None = None,
    right_port: str | None = None,
) -> RobotConfig:
    """Return the configuration with what a command line says about the connection; None leaves the file's value."""
    connection = dict(config.connection)
    given = {"port": port, "id": id, "calibration": None if calibration is None else str(calibration)}
    connection.update({key: value for key, value in given.items() if value is not None})
    for side, value in (("left", left_port), ("right", right_port)):
        if value is not None:
            connection[side] = {**(connection.get(side) or {}), "port": value}
    return replace(config, connection=connection)


def with_cameras(config: RobotConfig, given: Sequence[str]) -> RobotConfig:
    """Return the configuration with the sources of ``NAME=SOURCE`` texts, as in ``front=/dev/video0``.

    Raises:
        InputError: a text is none, a name is not one of the configuration's cameras, or comes twice.
    """
    if not given:
        return config
    from molmoact2_drivers.cameras import camera_options

    sources = camera_options(list(given))
    unknown = [name for name in sources if name not in config.cameras]
    if unknown:
        raise InputError(
            f"robot {config.name!r} has no camera {', '.join(unknown)}; it has {', '.join(config.cameras)}"
        )
    cameras = {
        name: replace(camera, source=sources.get(name, camera.source))
        for name, camera in config.cameras.items()
    }
    return replace(config, cameras=cameras)


class HardwareScenario:
    """A robot at a place of which this program knows nothing: a person sets the scene, and time ends an episode.

    With a judge both is the judge's. ``config`` is the configuration with limits within the robot's reach, from
    :meth:`open` on.
    """

    def __init__(self, config: RobotConfig, judge: Path | None = None) -> None:
        """``judge`` is the socket of an emulated table's judge."""
        from molmoact2_drivers.cameras import open_cameras

        self.config = config
        self.robot = make_robot(config)
        self.cameras: dict[str, Camera] = dict(open_cameras(config))
        self._judge_path = judge
        self._judge: TableJudge | None = None

    @property
    def judged(self) -> bool:
        """Whether outcomes say something about the task."""
        return self._judge_path is not None

    def open(self) -> None:
        """Connect the cameras first: what has no eyes is not switched on."""
        if self._judge_path is not None:
            self._judge = TableJudge(self._judge_path)
        for camera in self.cameras.values():
            camera.connect()
        self.robot.connect()
        self.robot.configure()
        require_fit(self.config, self.robot)
        self.config = within_reach(self.config, self.robot.capabilities)
        self.robot.activate()

    def begin(self, seed: int, task: str | None) -> str:
        """The instruction of the episode; the scene is as it is, or the judge's."""
        if self._judge is not None:
            return self._judge.reset(seed, task)
        if task is None:
            raise InputError(f"robot {self.config.name!r} is told what to do: give --task TEXT")
        return task

    def outcome(self) -> Judged:
        """The judge's, or that the episode goes on."""
        return Judged(False, False, "under way") if self._judge is None else self._judge.outcome()

    def facts(self) -> dict[str, Any]:
        """What driver, cameras and judge have counted."""
        devices: dict[str, Any] = {"robot": self.robot.name, "judged": self.judged}
        statistics = getattr(self.robot, "statistics", None)
        if callable(statistics):
            devices["bus"] = statistics()
        counted = {name: getattr(camera, "statistics", None) for name, camera in self.cameras.items()}
        devices["cameras"] = {
            name: asdict(counts)
            for name, counts in counted.items()
            if is_dataclass(counts) and not isinstance(counts, type)
        }
        if self._judge is not None:
            devices["judge"] = self._judge.facts()
        return devices

    def close(self) -> None:
        """Disconnect everything; motors are left as a run's stop has left them, or held."""
        self.robot.disconnect()
        for camera in self.cameras.values():
            camera.disconnect()
        if self._judge is not None:
            self._judge.close()


def open_hardware(config: RobotConfig, judge: Path | None = None) -> HardwareScenario:
    """Return the scenario of a real or emulated robot, opened; ``judge`` is the socket of an emulated table.

    Raises:
        InputError: an option is not usable. MissingExtraError: a library is missing. RobotError: a device is not there.
    """
    scenario = HardwareScenario(config, judge)
    try:
        scenario.open()
    except BaseException:
        scenario.close()
        raise
    return scenario
