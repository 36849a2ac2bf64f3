"""Puts the made-up measurement on the path of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up import make_measurement

from molmoact2_edge.profile import Measurement


@pytest.fixture
def measurement() -> Measurement:
    return make_measurement()
