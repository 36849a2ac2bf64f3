"""``molmoact2-edge jog`` on the emulated arm: by keys, by --joint and --by, and what it refuses."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from arms.at_terminal import Person, at_terminal, run_command
from emulators.processes import EmulatorProcess, emulator

_MOVED = re.compile(r"(\w+): (-?\d+\.\d) -> (-?\d+\.\d), goal (-?\d+\.\d)")


@contextmanager
def calibrated_arm(tmp_path: Path) -> Iterator[tuple[EmulatorProcess, tuple[str, ...]]]:
    """An emulated arm, and the options with which a command finds it."""
    file = tmp_path / "arm.json"
    with emulator("so101", "--calibration", str(file)) as arm:
        yield arm, ("--robot", "so101", "--port", arm.address, "--calibration", str(file))


def positions(person: Person) -> list[float]:
    """The measured positions in the newest table."""
    rows = re.findall(r"^(?:> |  )? *\d +\w+ +(-?\d+\.\d)", person.screen, re.MULTILINE)
    return [float(value) for value in rows[-6:]]


@pytest.mark.parametrize(("joint", "by"), [("shoulder_pan", 5.0), ("elbow_flex", -12.0), ("gripper", 20.0)])
def test_one_joint_moves_by_what_was_asked(tmp_path: Path, joint: str, by: float) -> None:
    with calibrated_arm(tmp_path) as (_, options):
        done = run_command("jog", *options, "--joint", joint, "--by", str(by))
    assert done.returncode == 0, done.stdout + done.stderr
    moved = _MOVED.search(done.stdout)
    assert moved is not None, done.stdout
    start, reached, goal = (float(moved[place]) for place in (2, 3, 4))
    assert moved[1] == joint
    assert goal == pytest.approx(start + by, abs=1.0)
    assert reached == pytest.approx(goal, abs=2.1)


def test_the_motors_hold_or_let_go_as_asked(tmp_path: Path) -> None:
    from molmoact2_drivers.feetech import ServoBus

    with calibrated_arm(tmp_path) as (arm, options):
        for pose, torque in (("hold", 1), ("torque_off", 0)):
            done = run_command("jog", *options, "--joint", "shoulder_pan", "--by", "1", "--stop-pose", pose)
            assert done.returncode == 0, done.stderr
            with ServoBus(arm.address) as bus:
                assert {bus.read(servo, "torque_enable") for servo in range(1, 7)} == {torque}


def test_keys_select_and_move(tmp_path: Path) -> None:
    with calibrated_arm(tmp_path) as (_, options), at_terminal("jog", *options) as person:
        person.sees("keys: 1..9")
        person.watches(lambda _: len(positions(person)) == 6)
        start = positions(person)
        person.types("3>++")  # elbow_flex, steps of 5
        person.watches(lambda _: abs(positions(person)[2] - start[2] - 10.0) < 2.1)
        person.types("\x1b[A\x1b[D")  # shoulder_lift, one step back
        person.watches(lambda _: abs(positions(person)[1] - start[1] + 5.0) < 2.1)
        assert positions(person)[0] == pytest.approx(start[0], abs=1.0)
        person.types("q")
        person.sees("hold the arm where it is")
        assert person.exit_code() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_arm_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with calibrated_arm(tmp_path) as (_, options), at_terminal("jog", *options) as person:
        person.sees("keys: 1..9")
        person.signal(number)
        assert person.exit_code() == code


def test_an_arm_that_is_unplugged_ends_it_with_the_reason(tmp_path: Path) -> None:
    with calibrated_arm(tmp_path) as (arm, options), at_terminal("jog", *options) as person:
        person.sees("keys: 1..9")
        person.watches(lambda _: len(positions(person)) == 6)
        arm.fault("unplug")
        assert person.exit_code() == 1
        assert "molmoact2-edge jog: " in person.screen


def test_the_simulated_arm_can_be_jogged_too() -> None:
    done = run_command("jog", "--robot", "sim-so101", "--joint", "wrist_roll", "--by", "15")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _MOVED.search(done.stdout)


def test_a_joint_stops_at_its_limit(tmp_path: Path) -> None:
    with calibrated_arm(tmp_path) as (_, options):
        done = run_command("jog", *options, "--joint", "gripper", "--by", "500", "--speed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gripper is at its limit" in done.stdout


def test_refusals(tmp_path: Path) -> None:
    with calibrated_arm(tmp_path) as (arm, options):
        for wrong, said in (
            (("--joint", "elbow", "--by", "1"), "so101 has no joint 'elbow'; it has shoulder_pan"),
            (("--joint", "gripper"), "--joint and --by go together"),
            (("--joint", "gripper", "--by", "1", "--speed", "0"), "above 0 to 1"),
            (("--joint", "gripper", "--by", "nan"), "finite"),
        ):
            done = run_command("jog", *options, *wrong)
            assert done.returncode == 1
            assert said in done.stderr
        nobody = {"HF_LEROBOT_CALIBRATION": str(tmp_path / "empty")}
        bare = ("jog", "--robot", "so101", "--port", arm.address, "--joint", "gripper", "--by", "1")
        uncalibrated = run_command(*bare, env=nobody)
        assert uncalibrated.returncode == 1
        assert "calibrat" in uncalibrated.stderr
    gone = run_command(
        "jog", "--robot", "so101", "--port", "/dev/ttyNOTHING9", "--calibration", str(tmp_path / "arm.json")
    )
    assert gone.returncode == 1
    assert "/dev/ttyNOTHING9" in gone.stderr
    simulated = run_command(
        "jog", "--robot", "sim-so101", "--port", "/dev/null", "--joint", "gripper", "--by", "1"
    )
    assert simulated.returncode == 1
    assert "is simulated" in simulated.stderr
