"""The same commands on an arm of Dynamixel servos, where it differs from the Feetech ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from arms.at_terminal import at_terminal, run_command
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.dynamixel import ServoBus

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


def arm_options(arm: EmulatorProcess, calibration: Path, robot: str = "koch") -> tuple[str, ...]:
    return ("--robot", robot, "--port", arm.address, "--calibration", str(calibration))


def offset_by(calibration: Path, ticks: int) -> None:
    content = json.loads(calibration.read_text())
    content["elbow_flex"]["homing_offset"] = ticks
    calibration.write_text(json.dumps(content))


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
        options = arm_options(arm, calibration)
        done = run_command("jog", *options, "--joint", "elbow_flex", "--by", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    moved = re.search(r"elbow_flex: (-?\d+\.\d) -> (-?\d+\.\d)", done.stdout)
    assert moved is not None
    assert float(moved[2]) - float(moved[1]) == pytest.approx(10.0, abs=2.5)


def test_file_and_servos_are_compared_and_brought_together(calibration: Path) -> None:
    with emulator("dynamixel") as arm:
        options = arm_options(arm, calibration)
        check = run_command("calibrate", *options, "--check")
        assert check.returncode == 3, check.stdout + check.stderr
        assert "elbow_flex" in check.stdout
        with at_terminal("calibrate", *options, "--apply") as person:
            person.answers("Support it with your hand")
            person.answers("Write this to the servos?", "y")
            person.sees("written and read back")
            assert person.exit_code() == 0
        assert run_command("calibrate", *options, "--check").returncode == 0


@pytest.mark.parametrize("offset", [2048, -2600, 5000, 1_044_479])
def test_an_offset_of_more_than_a_feetech_s_is_brought_to_the_servo(calibration: Path, offset: int) -> None:
    """As LeRobot writes it where a horn was turned over the encoder's end before the arm was calibrated."""
    offset_by(calibration, offset)
    with emulator("dynamixel") as arm:
        options = arm_options(arm, calibration)
        check = run_command("calibrate", *options, "--check")
        assert check.returncode == 3, check.stdout + check.stderr
        assert str(offset) in check.stdout
        with at_terminal("calibrate", *options, "--apply") as person:
            person.answers("Support it with your hand")
            person.answers("Write this to the servos?", "y")
            person.sees("written and read back")
            assert person.exit_code() == 0
        assert run_command("calibrate", *options, "--check").returncode == 0
        with ServoBus(arm.address) as bus:
            assert bus.read(3, "homing_offset") == offset
            # As it was shipped it would ignore such an offset.
            assert (bus.read(3, "operating_mode"), bus.read(4, "operating_mode")) == (4, 3)
            assert bus.read(3, "present_position") == 2048 + offset


@pytest.mark.parametrize(
    ("robot", "offset", "limit"), [("koch", 1_044_480, 1_044_479), ("so101", 2048, 2047)]
)
def test_the_limit_of_an_offset_is_that_of_the_arm_s_servos(
    calibration: Path, robot: str, offset: int, limit: int
) -> None:
    for ticks in (offset, -offset):
        offset_by(calibration, ticks)
        with emulator("dynamixel" if robot == "koch" else robot) as arm:
            done = run_command("calibrate", *arm_options(arm, calibration, robot), "--check")
        assert done.returncode == 1
        assert f"elbow_flex: homing_offset: expected -{limit} to {limit}, got {ticks}" in done.stderr


@pytest.mark.slow
def test_an_arm_with_horns_mounted_anyhow_is_calibrated_by_hand(tmp_path: Path) -> None:
    middles = {1: 2048, 2: 4000, 3: 4095, 4: 10, 5: 900, 6: 2300}
    swings = {2: 1100, 3: 1000, 4: 1050, 6: 600}
    servos = ",".join(
        f"{servo}:{'xl430-w250' if servo < 3 else 'xl330-m288'}:{ticks}" for servo, ticks in middles.items()
    )
    target = tmp_path / "koch.json"
    with emulator("dynamixel", "--servos", servos) as arm:
        with at_terminal("calibrate", *arm_options(arm, target)) as person:
            person.answers("Support it with your hand")
            person.sees("Step 1 of 3")
            person.answers("Middle pose [")
            person.sees("Step 2 of 3")
            person.sees("position")
            for sign in (1, -1):
                for servo, swing in swings.items():
                    arm.fault(f"hand servo={servo} ticks={middles[servo] + sign * swing}")
                place = 3 if sign > 0 else 1
                wanted = [str(2047 + sign * swings[servo]) for servo in (2, 3, 4, 6)]
                person.watches(
                    lambda _, place=place, wanted=wanted: (
                        [row[place] for row in person.rows(JOINTS) if row[-1] != "turn"] == wanted
                    )
                )
            person.types("\n")
            person.answers("Write it?", "y")
            person.sees("saved as")
            assert person.exit_code() == 0
        assert run_command("calibrate", *arm_options(arm, target), "--check").returncode == 0
    saved = json.loads(target.read_text())
    assert {joint: values["homing_offset"] for joint, values in saved.items()} == {
        joint: 2047 - middles[servo] for servo, joint in enumerate(JOINTS, start=1)
    }
    for servo, swing in swings.items():
        values = saved[JOINTS[servo - 1]]
        assert (values["range_min"], values["range_max"]) == (2047 - swing, 2047 + swing)
    for joint in FULL_TURN:
        assert (saved[joint]["range_min"], saved[joint]["range_max"]) == (0, 4095)
