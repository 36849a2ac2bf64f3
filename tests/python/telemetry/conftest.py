"""Runs against the runtime's test bench, with telemetry as asked for."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from bench import Bench, Lifting, configuration
from molmoact2_edge.config import CameraConfig, RobotConfig
from molmoact2_edge.runtime import Runner, RunSettings
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.telemetry.session import TelemetrySettings


def bench_configuration() -> RobotConfig:
    """The robot with cameras of the bench's size."""
    config = configuration()
    cameras = dict.fromkeys(config.cameras, CameraConfig(24, 32, 30.0))
    return RobotConfig(**{**vars(config), "cameras": cameras})


@pytest.fixture
def bench() -> Iterator[Bench]:
    scenario = Bench(goal=1e9)
    scenario.open()
    yield scenario
    scenario.close()


@pytest.fixture
def runner_for(bench: Bench) -> Callable[..., Runner]:
    """Returns a function of a policy and settings; those of telemetry are told apart by their names."""

    def make(policy: Any = None, **settings: Any) -> Runner:
        telemetry = {
            key: settings.pop(key) for key in ("blackbox", "record", "record_fps", "viz") if key in settings
        }
        chosen = RunSettings(telemetry=TelemetrySettings(**telemetry), **settings)
        return Runner(bench, policy or Lifting(), bench_configuration(), chosen, StatusDisplay(io.StringIO()))

    return make
