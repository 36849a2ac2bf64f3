"""What a run happens in: a robot with its cameras, a way to begin an episode, and a judge of it."""

from __future__ import annotations

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


def open_scenario(config: RobotConfig) -> Scenario:
    """Return the scenario that ``config.driver`` names, opened.

    Raises:
        InputError: there is no such driver.
        MissingExtraError: its optional dependency is not installed.
        RobotError: a device does not answer.
    """
    if config.driver != "sim":
        raise InputError(
            f"robot {config.name!r} needs the driver {config.driver!r}, which this version does not have; "
            "it has sim: try --robot sim-so101"
        )
    from molmoact2_edge.runtime.simulation import SimulatedTable

    scenario = SimulatedTable(config)
    try:
        scenario.open()
    except BaseException:
        scenario.close()
        raise
    return scenario
