"""Where LeRobot is for tests that run it: an environment of its own, as it wants other versions than this project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LEROBOT_PYTHON = Path(os.environ.get("MOLMOACT2_LEROBOT_PYTHON", REPOSITORY / "build/lerobot-env/bin/python"))

needs_lerobot = pytest.mark.skipif(
    not LEROBOT_PYTHON.is_file(),
    reason=f"no LeRobot at {LEROBOT_PYTHON}: run tools/setup_lerobot.sh, or name one with MOLMOACT2_LEROBOT_PYTHON",
)
