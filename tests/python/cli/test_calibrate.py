"""``molmoact2-edge calibrate`` at a terminal, with hands that move the emulated arm."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from arms.at_terminal import Person, at_terminal, run_command
from emulators.processes import EmulatorProcess, emulator

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@contextmanager
def arm_with_ids(*options: str) -> Iterator[EmulatorProcess]:
    with emulator("so101", "--unpaced", *options) as arm:
        yield arm


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HF_LEROBOT_CALIBRATION": str(tmp_path / "calibration")}


def folder(home: dict[str, str], name: str = "so_follower") -> Path:
    return Path(home["HF_LEROBOT_CALIBRATION"]) / "robots" / name


def command(arm: EmulatorProcess, *options: str) -> tuple[str, ...]:
    return ("calibrate", "--robot", "so101", "--port", arm.address, "--id", "mine", *options)


def until_middle(person: Person, arm: EmulatorProcess) -> None:
    person.answers("Support it with your hand")
    person.sees("Step 1 of 3")
    arm.fault("middle duration=1")
    time.sleep(1.2)
    person.answers("Middle pose [")
    person.sees("Middle pose recorded")


def through_ranges(person: Person, arm: EmulatorProcess, degrees: Sequence[float] = (0.0,) * 4) -> None:
    """Move all joints until the table says that each is good, and the first four by so many degrees."""
    person.sees("Step 2 of 3")
    arm.fault("sweep")
    person.watches(
        lambda _: (
            [row[-1] for row in person.rows(JOINTS)].count("good") == 5
            and all(
                float(row[4]) >= wanted for row, wanted in zip(person.rows(JOINTS)[:4], degrees, strict=True)
            )
        )
    )
    arm.fault("clear sweep")
    person.types("\n")


def as_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.slow
def test_a_new_arm_is_calibrated_in_lerobot_s_format(home: dict[str, str], tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    with arm_with_ids("--calibration", str(truth)) as arm:
        with at_terminal(*command(arm), env=home) as person:
            until_middle(person, arm)
            # The hand goes through 98 % of each range; the table shows whole degrees.
            ranges = [values["range_max"] - values["range_min"] for values in as_json(truth).values()]
            through_ranges(person, arm, [0.98 * ticks * 360 / 4095 - 0.6 for ticks in ranges[:4]])
            person.sees("Step 3 of 3")
            person.answers("Write it?", "y")
            person.sees("saved as")
            assert person.exit_code() == 0
        saved = as_json(folder(home) / "mine.json")
        check = run_command(*command(arm, "--check"), env=home)
        assert check.returncode == 0, check.stdout + check.stderr
        assert "file and servos agree" in check.stdout
    assert tuple(saved) == JOINTS
    expected = as_json(truth)
    for joint, values in expected.items():
        assert set(saved[joint]) == {"id", "drive_mode", "homing_offset", "range_min", "range_max"}
        assert saved[joint]["id"] == values["id"]
        for key in ("homing_offset", "range_min", "range_max"):
            assert saved[joint][key] == pytest.approx(values[key], abs=40), (joint, key)
    assert not list(folder(home).glob("*.progress"))


@pytest.mark.slow
def test_an_interrupted_calibration_changes_nothing_and_goes_on(home: dict[str, str]) -> None:
    with arm_with_ids() as arm:
        before = _registers(arm)
        with at_terminal(*command(arm), env=home) as person:
            until_middle(person, arm)
            person.sees("Step 2 of 3")
            person.sees("position")  # the table: from now on keys count
            person.types("q")
            person.sees("the same command goes on here")
            assert person.exit_code() == 3
        assert _registers(arm) == before
        assert not (folder(home) / "mine.json").exists()
        with at_terminal(*command(arm), env=home) as person:
            person.sees("A calibration was begun")
            person.answers("the middle pose is done")
            person.answers("Support it with your hand")
            through_ranges(person, arm)
            person.answers("Write it?")  # not now
            person.sees("Nothing was written to the arm")
            assert person.exit_code() == 3
        assert _registers(arm) == before
        with at_terminal(*command(arm), env=home) as person:
            person.answers("middle pose and ranges are done")
            person.answers("Support it with your hand")
            person.answers("Write it?", "y")
            assert person.exit_code() == 0
    assert (folder(home) / "mine.json").exists()


def _registers(arm: EmulatorProcess) -> dict[int, tuple[int, int, int]]:
    from molmoact2_drivers.feetech import ServoBus

    keys = ("homing_offset", "min_position_limit", "max_position_limit")
    with ServoBus(arm.address) as bus:
        return {servo: tuple(bus.read(servo, key) for key in keys) for servo in range(1, 7)}  # type: ignore[misc]


def test_a_joint_that_was_not_moved_is_not_accepted(home: dict[str, str]) -> None:
    with arm_with_ids() as arm, at_terminal(*command(arm), env=home) as person:
        until_middle(person, arm)
        person.sees("Step 2 of 3")
        person.sees("position")
        person.types("\n")
        person.sees("shoulder_pan: not moved yet: move it from one stop to the other")
        person.sees("Go on moving")
        person.sees("position")
        person.types("q")
        assert person.exit_code() == 3


@pytest.mark.parametrize("name", ["so_follower", "so101_follower"])
def test_lerobot_s_file_is_used_as_it_is_under_either_folder_name(
    home: dict[str, str], tmp_path: Path, name: str
) -> None:
    place = folder(home, name) / "mine.json"
    place.parent.mkdir(parents=True)
    with arm_with_ids("--calibration", str(place)) as arm:
        before = place.read_bytes()
        with at_terminal(*command(arm), env=home) as person:
            person.sees(f"There is a calibration already, and it is used as it is: {place}")
            person.answers("no new calibration is needed")
            assert person.exit_code() == 0
    assert place.read_bytes() == before


def test_servos_that_differ_from_the_file_are_shown_and_written_when_asked(home: dict[str, str]) -> None:
    place = folder(home) / "mine.json"
    place.parent.mkdir(parents=True)
    with arm_with_ids("--calibration", str(place)) as arm:
        changed = as_json(place)
        changed["elbow_flex"]["homing_offset"] += 25
        place.write_text(json.dumps(changed))
        check = run_command(*command(arm, "--check"), env=home)
        assert check.returncode == 3
        assert "elbow_flex" in check.stdout
        assert "--apply" in check.stdout
        with at_terminal(*command(arm, "--apply"), env=home) as person:
            person.sees("elbow_flex")
            person.answers("Support it")
            person.answers("Write this to the servos?", "y")
            person.sees("written and read back")
            assert person.exit_code() == 0
        assert run_command(*command(arm, "--check"), env=home).returncode == 0


@pytest.mark.slow
def test_a_new_calibration_keeps_the_one_before(home: dict[str, str]) -> None:
    place = folder(home) / "mine.json"
    place.parent.mkdir(parents=True)
    with arm_with_ids("--calibration", str(place)) as arm:
        before = place.read_bytes()
        with at_terminal(*command(arm), env=home) as person:
            person.answers("Calibrate all the same?", "c")
            until_middle(person, arm)
            through_ranges(person, arm)
            person.answers("Write it?", "y")
            person.sees("The calibration before is kept as")
            assert person.exit_code() == 0
    backups = list(place.parent.glob("*.bak"))
    assert [backup.read_bytes() for backup in backups] == [before]


def test_nothing_lets_go_before_the_person_agrees(home: dict[str, str]) -> None:
    from molmoact2_drivers.feetech import ServoBus, Torque

    with arm_with_ids() as arm:
        with ServoBus(arm.address) as bus:
            bus.set_torque(range(1, 7), Torque.ON)
        with at_terminal(*command(arm), env=home) as person:
            person.answers("SINK or FALL", "q")
            person.sees("Nothing was written")
            assert person.exit_code() == 3
        with ServoBus(arm.address) as bus:
            assert {bus.read(servo, "torque_enable") for servo in range(1, 7)} == {1}


def test_refusals(home: dict[str, str]) -> None:
    with arm_with_ids() as arm:
        nothing = run_command("calibrate", "--robot", "so101", "--port", arm.address, "--check", env=home)
        assert nothing.returncode == 1
        assert "--id" in nothing.stderr
        check = run_command(*command(arm, "--check"), env=home)
        assert check.returncode == 1
        assert "there is no calibration at" in check.stderr
        arm.fault("absent servo=2")
        absent = run_command(*command(arm), env=home)
        assert absent.returncode == 1
        assert "no answer from shoulder_lift (id 2)" in absent.stderr
        pipe = run_command(*command(arm, "--apply", "--check"), env=home)
        assert pipe.returncode == 2
    gone = run_command(
        "calibrate", "--robot", "so101", "--port", "/dev/ttyNOTHING9", "--id", "mine", env=home
    )
    assert gone.returncode == 1
    assert "/dev/ttyNOTHING9" in gone.stderr
