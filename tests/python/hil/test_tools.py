"""The tools that need minutes at full length, shortened: the policy on the emulated table, and the soak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_the_shipped_policy_touches_blocks_through_bus_and_cameras(tmp_path: Path) -> None:
    report = tmp_path / "table.json"
    command = [
        sys.executable,
        str(ROOT / "tools/emulated_table.py"),
        "--episodes",
        "3",
        "--report",
        str(report),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert report.is_file(), (done.stdout, done.stderr)
    told = json.loads(report.read_text())
    assert told["completed"], told["outcomes"]
    assert told["successes"] >= 2, told["outcomes"]
    assert told["loop"]["rate_hz"] == 100.0
    assert told["emulated"]["faults"] == ["corrupt probability=0.01"]
    assert told["scenario"]["bus"]["checksum_errors"] > 0
    assert set(told["scenario"]["cameras"]) == {"front", "wrist"}
    for camera in told["scenario"]["cameras"].values():
        assert camera["frames"] > 30


def test_a_short_soak_loses_nothing_unnoticed(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    command = [sys.executable, str(ROOT / "tools/soak.py"), "--minutes", "0.6", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert report.is_file(), (done.stdout, done.stderr)
    told = json.loads(report.read_text())
    assert list(told["holds"].values()) == [True] * 6, told
    assert done.returncode == 0
    assert told["commands"]["goal_writes_accepted"] > 500
    assert sum(told["faults"].values()) >= 3
