"""The same commands on an arm of Dynamixel servos, where it differs from the Feetech ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from arms.at_terminal import at_terminal, run_command
from emulators.processes import emulator

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FULL_TURN = ("shoulder_pan", "wrist_roll")


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "koch.json"
    joints = {
        joint: {
            "id": place,
            "drive_mode": 0,
            "homing_offset": 0,
            "range_min": 0 if joint in FULL_TURN else 1000,
            "range_max": 4095 if joint in FULL_TURN else 3000,
        }
        for place, joint in enumerate(JOINTS, start=1)
    }
    path.write_text(json.dumps(joints))
    return path


def test_a_koch_arm_is_scanned() -> None:
    with emulator("dynamixel") as arm:
        done = run_command("scan", "--robot", "koch", "--port", arm.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 motors, nothing wrong" in done.stdout


def test_another_model_than_the_arm_has_is_told() -> None:
    with emulator("dynamixel", "--servos", "1:xl430-w250,2:xl330-m288") as arm:
        done = run_command("scan", "--robot", "koch", "--port", arm.address)
    assert done.returncode == 3
    assert "shoulder_lift (id 2) is a xl330-m288, koch wants a xl430-w250 there" in done.stdout
    assert "no answer from elbow_flex (id 3)" in done.stdout


def test_one_joint_is_jogged(calibration: Path) -> None:
    with emulator("dynamixel") as arm:
        options = ("--robot", "koch", "--port", arm.address, "--calibration", str(calibration))
        done = run_command("jog", *options, "--joint", "elbow_flex", "--by", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    moved = re.search(r"elbow_flex: (-?\d+\.\d) -> (-?\d+\.\d)", done.stdout)
    assert moved is not None
    assert float(moved[2]) - float(moved[1]) == pytest.approx(10.0, abs=2.5)


def test_file_and_servos_are_compared_and_brought_together(calibration: Path) -> None:
    with emulator("dynamixel") as arm:
        options = ("--robot", "koch", "--port", arm.address, "--calibration", str(calibration))
        check = run_command("calibrate", *options, "--check")
        assert check.returncode == 3, check.stdout + check.stderr
        assert "elbow_flex" in check.stdout
        with at_terminal("calibrate", *options, "--apply") as person:
            person.answers("Support it with your hand")
            person.answers("Write this to the servos?", "y")
            person.sees("written and read back")
            assert person.exit_code() == 0
        assert run_command("calibrate", *options, "--check").returncode == 0
