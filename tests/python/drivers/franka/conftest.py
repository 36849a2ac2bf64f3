"""An emulated arm, and robots on it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from emulators.fci_client import PATIENT, own_address
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.franka import FrankaRobot, from_config
from molmoact2_edge.config import RobotConfig, load_robot


def needs(module: str) -> pytest.MarkDecorator:
    """Skip where a library of the arm's maker is missing."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed (it has wheels for x86-64 only)")


def configuration(address: str, **connection: Any) -> RobotConfig:
    """The shipped robot at an address."""
    config = load_robot("franka-droid")
    return replace(config, connection={**config.connection, "port": address, **connection})


@pytest.fixture
def arm() -> Iterator[EmulatorProcess]:
    """An emulated FR3 that waits for late answers."""
    with emulator("fr3", "--address", own_address(), *PATIENT) as process:
        yield process


Make = Callable[..., FrankaRobot]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make robots that are disconnected at the test's end."""
    made: list[FrankaRobot] = []

    def robot(address: str, **connection: Any) -> FrankaRobot:
        made.append(from_config(configuration(address, **connection)))
        return made[-1]

    yield robot
    for each in made:
        each.disconnect()
