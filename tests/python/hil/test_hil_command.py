"""``molmoact2-edge hil`` at a real arm: it asks before it moves, and leaves out what could do harm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from molmoact2_edge.cli import main
from molmoact2_edge.hil.emulator_process import EmulatorProcess

pytestmark = pytest.mark.alone


def hil(tmp_path: Path, answer: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run it on an emulator that it takes for a real arm; returns exit code, checks by name, and what it said."""
    robot = tmp_path / "patient.yaml"
    robot.write_text("extends: so101\nname: patient\nloop: {silence_hold_s: 0.25}\n")
    calibration, report = tmp_path / "calibration.json", tmp_path / "report"
    with EmulatorProcess("so101", ["--calibration", str(calibration)]) as emulator:
        command = [sys.executable, "-m", "molmoact2_edge", "hil", "--robot", str(robot)]
        command += ["--port", emulator.address, "--calibration", str(calibration)]
        command += ["--seconds", "1", "--rates", "50", "--report", str(report), *options]
        done = subprocess.run(command, input=answer, capture_output=True, text=True, timeout=200, check=False)
    assert (report / "hil.json").is_file(), f"{done.returncode}: {done.stdout}{done.stderr}"
    document = json.loads((report / "hil.json").read_text())
    return done.returncode, {f"{c['group']}: {c['name']}": c for c in document["checks"]}, done.stdout


def test_without_a_yes_nothing_moves(tmp_path: Path) -> None:
    code, checks, said = hil(tmp_path, "\n")
    assert "each joint moves by up to 5" in said
    verdicts = {name: check["verdict"] for name, check in checks.items()}
    assert verdicts["identification: pose"] == "passed"
    for group in ("timing", "tracking", "limits", "stops"):
        assert checks[f"{group}: all"]["reasons"] == ["nobody allowed the arm to move"]
    assert "cannot be told to have faults" in checks["faults: all"]["reasons"][0]
    assert "cannot be told to have faults" in checks["camera faults: all"]["reasons"][0]
    assert set(verdicts.values()) == {"passed", "skipped"}
    assert code == 0


def test_with_a_yes_it_moves_slowly_and_never_lets_the_arm_go(tmp_path: Path) -> None:
    code, checks, _ = hil(tmp_path, "y\n", "--only", "tracking,stops")
    failed = {name: check["reasons"] for name, check in checks.items() if check["verdict"] == "failed"}
    assert failed == {}
    assert code == 0
    assert 3.0 < checks["tracking: elbow_flex"]["figures"]["moved"] <= 5.1
    assert checks["stops: then torque_off"]["verdict"] == "skipped"
    assert checks["stops: then damp"]["verdict"] == "skipped"
    assert checks["stops: SIGTERM"]["verdict"] == "passed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--robot", "sim-so101"], "has no wire to test"),
        (["--only", "timing,flying"], "no checks flying; there are identification"),
        (["--rates", "50,fast"], "expected numbers like 50,100"),
        (["--rates", "5"], "10 to 1000 Hz"),
        (["--seconds", "0.1"], "1 to 60"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["hil", "--report", str(tmp_path / "report"), *options]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
