"""What all tests share."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from stall_watch import StallWatch

# The networks here are tiny: a second thread gains nothing, and waiting for it costs much where the core is busy.
torch.set_num_threads(1)

REAL_TIME = ("arms", "cli", "drivers", "emulators", "hil", "runtime", "telemetry")
"""Folders of tests in which two processes or more speak to each other by the clock."""
REPEATS = 3


class _Stalls:
    """Repeats a failed test of real time where the computer stood still during it, and only there."""

    def __init__(self) -> None:
        self._watch = StallWatch()
        self._begin_s = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._begin_s = time.monotonic()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        here = Path(__file__).parent
        for item in items:
            if item.get_closest_marker("flaky") is not None:
                continue  # it says itself when it is repeated
            if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in REAL_TIME:
                item.add_marker(pytest.mark.flaky(reruns=REPEATS, condition=self._stood_still))

    def pytest_unconfigure(self) -> None:
        self._watch.close()

    def _stood_still(self) -> bool:
        return self._watch.stood_still_since(self._begin_s)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Stalls())


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory of the public vectors."""
    return Path(__file__).parents[1] / "reference"
