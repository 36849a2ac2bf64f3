"""The driver on franky-sim, an implementation of the arm's interface that is not ours.

It wants an environment of its own: ``FRANKY_SIM_PYTHON`` is that environment's interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drivers.franka.conftest import needs

_TOOL = Path(__file__).parents[4] / "tools" / "clients" / "franky_sim.py"
_PYTHON = os.environ.get("FRANKY_SIM_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(
    _PYTHON is None, reason="FRANKY_SIM_PYTHON names no interpreter with franky-sim installed"
)
@needs("pylibfranka")
def test_the_driver_moves_an_arm_and_a_hand_that_are_not_ours() -> None:
    done = subprocess.run(
        [sys.executable, str(_TOOL), "--python", str(_PYTHON)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["fault"] is None
    for step in report["steps"]:
        assert step["reached"], report
    assert report["passed"]
    assert done.returncode == 0, done.stderr
