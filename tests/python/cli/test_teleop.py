"""``molmoact2-edge teleop`` between two emulated arms, with a hand on the leader."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from arms.at_terminal import Person, at_terminal, run_command
from emulators.processes import EmulatorProcess, emulator


@dataclass(frozen=True)
class Arms:
    leader: EmulatorProcess
    follower: EmulatorProcess
    options: tuple[str, ...]


@contextmanager
def two_arms(tmp_path: Path) -> Iterator[Arms]:
    leader_file, follower_file = tmp_path / "leader.json", tmp_path / "follower.json"
    with (
        emulator("so101", "--name", "leader", "--calibration", str(leader_file)) as leader,
        emulator("so101", "--name", "follower", "--calibration", str(follower_file)) as follower,
    ):
        options = ("--leader", leader.address, "--leader-calibration", str(leader_file))
        options += ("--follower", follower.address, "--follower-calibration", str(follower_file))
        yield Arms(leader, follower, options)


def pan_of(person: Person) -> tuple[float, float]:
    """Leader's and follower's shoulder_pan in the newest table."""
    rows = re.findall(r"shoulder_pan +(-?\d+\.\d) +(-?\d+\.\d)", person.screen)
    return (float(rows[-1][0]), float(rows[-1][1])) if rows else (0.0, 0.0)


def test_the_follower_copies_the_leader_s_joints_and_gripper(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms, at_terminal("teleop", *arms.options) as person:
        person.sees("following")
        arms.leader.fault("hand servo=1 degrees=35")
        person.watches(lambda _: abs(pan_of(person)[1] - 35.0) < 2.5)
        person.types("x")
        assert person.exit_code() == 0
        assert "leader lost 0 times" in person.screen


def test_a_leader_that_is_unplugged_holds_and_is_followed_again(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms, at_terminal("teleop", *arms.options) as person:
        person.sees("following")
        arms.leader.fault("unplug")
        person.sees("leader lost, the follower holds")
        arms.leader.fault("hand servo=1 degrees=25")
        time.sleep(1.0)
        assert abs(pan_of(person)[1]) < 2.5
        arms.leader.fault("clear unplug")
        person.sees("moving slowly to the leader's pose")
        person.sees("following")
        person.watches(lambda _: abs(pan_of(person)[1] - 25.0) < 2.5)
        person.types("q")
        assert person.exit_code() == 0
        assert "leader lost 1 times" in person.screen


def test_a_leader_too_far_away_moves_nothing(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms:
        arms.leader.fault("hand servo=1 degrees=90")
        time.sleep(2.0)
        with at_terminal("teleop", *arms.options) as person:
            person.sees("the leader is too far away")
            person.sees("shoulder_pan by")
            assert abs(pan_of(person)[1]) < 2.0
            arms.leader.fault("clear hand")
            arms.leader.fault("hand servo=1 degrees=10")
            person.sees("following")
            person.types("q")
            assert person.exit_code() == 0


def test_a_duration_ends_it_without_a_terminal(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms:
        done = run_command(
            "teleop", *arms.options, "--duration", "2", "--rate", "50", "--stop-pose", "torque_off"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "following" in done.stdout
    targets = re.search(r"(\d+) targets", done.stdout)
    assert targets is not None
    assert int(targets[1]) > 0


def test_a_follower_that_is_unplugged_ends_it_with_the_reason(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms, at_terminal("teleop", *arms.options) as person:
        person.sees("following")
        arms.follower.fault("unplug")
        assert person.exit_code() == 1
        assert "molmoact2-edge teleop: " in person.screen


def test_refusals(tmp_path: Path) -> None:
    with two_arms(tmp_path) as arms:
        same = run_command("teleop", "--leader", arms.leader.address, "--follower", arms.leader.address)
        assert same.returncode == 1
        assert "each arm has a port of its own" in same.stderr
        rate = run_command("teleop", *arms.options, "--rate", "5000")
        assert rate.returncode == 1
        assert "10 to 1000 Hz" in rate.stderr
        wrong = run_command("teleop", *arms.options, "--leader-robot", "sim-so101")
        assert wrong.returncode == 1
        assert "has no leader arm" in wrong.stderr
        nobody = {"HF_LEROBOT_CALIBRATION": str(tmp_path / "empty")}
        bare = ("teleop", "--leader", arms.leader.address, "--follower", arms.follower.address)
        uncalibrated = run_command(*bare, env=nobody)
        assert uncalibrated.returncode == 1
        assert "calibrat" in uncalibrated.stderr
    assert run_command("teleop", "--leader", "/dev/null").returncode == 2


@pytest.mark.parametrize("fault", ["corrupt probability=0.02", "drop probability=0.02"])
def test_a_bad_wire_of_the_leader_does_not_end_it(tmp_path: Path, fault: str) -> None:
    with two_arms(tmp_path) as arms:
        arms.leader.fault(fault)
        done = run_command("teleop", *arms.options, "--duration", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "following" in done.stdout
    targets = re.search(r"(\d+) targets", done.stdout)
    assert targets is not None
    assert int(targets[1]) > 50
