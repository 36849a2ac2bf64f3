"""What a run happens in: a robot with its cameras, a way to begin an episode, and a judge of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from molmoact2_drivers import Camera, Robot
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError


class Outcome(Protocol):
    """How an episode stands."""

    @property
    def done(self) -> bool: ...
    @property
    def success(self) -> bool: ...
    @property
    def reason(self) -> str:
        """One sentence fragment for people."""


class Scenario(Protocol):
    """A robot in its surroundings. Used by one thread, except for the robot's port and the cameras."""

    @property
    def robot(self) -> Robot: ...
    @property
    def cameras(self) -> dict[str, Camera]:
        """By role, in the order in which the policy wants the images."""

    @property
    def config(self) -> RobotConfig:
        """What the loop is to be made with: the robot's configuration, within what the opened robot can do."""

    @property
    def judged(self) -> bool:
        """Whether an outcome says something about the task, rather than only that time is over."""

    def open(self) -> None:
        """Connect everything; the robot is active and at rest afterwards."""

    def begin(self, seed: int, task: str | None) -> str:
        """Set up an episode while no loop runs; returns the instruction, ``task`` where that is given.

        Raises:
            InputError: this scenario cannot judge ``task``.
        """

    def outcome(self) -> Outcome:
        """How the episode stands now."""

    def facts(self) -> dict[str, Any]:
        """What a report should say about it, as JSON-ready values."""

    def close(self) -> None:
        """Disconnect everything; does not raise."""


def open_scenario(config: RobotConfig, judge: Path | None = None) -> Scenario:
    """Return the scenario that ``config.driver`` names, opened; ``judge`` is the socket of an emulated table's judge.

    Raises:
        InputError: there is no such driver, or its connection is not usable.
        MissingExtraError: its optional dependency is not installed.
        RobotError: a device does not answer.
    """
    if config.driver != "sim":
        from molmoact2_edge.runtime.hardware import open_hardware

        return open_hardware(config, judge)
    if judge is not None:
        raise InputError(f"robot {config.name!r} is simulated and has a judge of its own; leave --judge out")
    from molmoact2_edge.runtime.simulation import SimulatedTable

    scenario = SimulatedTable(config)
    try:
        scenario.open()
    except BaseException:
        scenario.close()
        raise
    return scenario
