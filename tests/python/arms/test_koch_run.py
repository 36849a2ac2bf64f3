"""A policy on the emulated Koch arm: ``molmoact2-edge run`` at 100 Hz, through its serial line and two cameras."""

from __future__ import annotations

import json
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from arms.at_terminal import run_command
from drivers.dynamixel.koch import CALIBRATION, write_calibration
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.dynamixel import ServoBus
from molmoact2_edge.build import models_dir

RATE_HZ = 100.0
DURATION_S = 5.0
# What the policy asks for, in degrees and per cent: off the pose in which the emulated arm stands, by about ten.
LOW, HIGH = 8.0, 14.0
GRIPPER_LOW, GRIPPER_HIGH = 30.0, 40.0
SETTLED = 1.0

ROBOT = f"""
extends: koch
name: koch-100hz
connection: {{bus_watchdog_s: 0.5}} # the emulated servos share the computer with the policy
loop: {{rate_hz: {RATE_HZ:g}, silence_hold_s: 0.25}}
chunk: {{rate_hz: 10, first_action_due: 1, replan_after: 3}}
cameras:
  front: {{height: 112, width: 112, rate_hz: 20}}
  wrist: {{height: 112, width: 112, rate_hz: 20}}
policy: {{threads: 1}}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def checkpoint(place: Path) -> Path:
    """The shipped checkpoint, with statistics that put whatever it says between LOW and HIGH."""
    shutil.copytree(models_dir() / "so101-touch", place)
    statistics = json.loads((place / "norm_stats.json").read_text())
    (values,) = statistics["metadata_by_tag"].values()
    values["action_stats"] |= dict.fromkeys(("min", "q01", "q10"), [LOW] * 5 + [GRIPPER_LOW])
    values["action_stats"] |= dict.fromkeys(("max", "q90", "q99"), [HIGH] * 5 + [GRIPPER_HIGH])
    (place / "norm_stats.json").write_text(json.dumps(statistics))
    return place


def run(folder: Path, arm: EmulatorProcess) -> dict[str, Any]:
    """Run one episode on the arm; returns the report."""
    robot, report = folder / "koch-100hz.yaml", folder / "report.json"
    robot.write_text(ROBOT)
    options = ["--robot", str(robot), "--checkpoint", str(checkpoint(folder / "policy")), "--offline"]
    options += ["--port", arm.address, "--calibration", str(write_calibration(folder))]
    options += ["--task", "touch the red block", "--duration", f"{DURATION_S:g}", "--device", "cpu"]
    options += ["--report", str(report), "--blackbox", str(folder / "blackbox")]
    with ExitStack() as opened:
        for role in ("front", "wrist"):
            port = free_port()
            opened.enter_context(
                emulator("camera", "--mjpeg", str(port), "--size", "112x112", "--rate", "20")
            )
            options += ["--camera", f"{role}=http://127.0.0.1:{port}/stream.mjpg"]
        done = run_command("run", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def pose(address: str, register: str) -> dict[str, float]:
    """What the servos hold in a register of ticks, in degrees and per cent; asked for apart from the arm's driver."""
    with ServoBus(address) as bus:
        ticks = bus.read_many([joint["id"] for joint in CALIBRATION.values()], register)
    found = {}
    for name, joint in CALIBRATION.items():
        low, high = joint["range_min"], joint["range_max"]
        at = ticks[joint["id"]]
        found[name] = (
            100.0 * (at - low) / (high - low) if name == "gripper" else (at - (low + high) / 2) * 360 / 4095
        )
    return found


def goal_writes(arm: EmulatorProcess) -> tuple[int, int]:
    """End the emulator; returns how many goals it was sent, and how many came to its servos."""
    assert arm.stop() == 0
    (line,) = [line for line in arm.errors.splitlines() if line.startswith("counts: ")]
    counts = json.loads(line.removeprefix("counts: "))
    return counts["goal_writes_heard"], counts["goal_writes_accepted"]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("fault", ["", "corrupt probability=0.01"])
def test_the_loop_drives_the_arm_at_100_hz_on_a_good_wire_and_a_bad_one(tmp_path: Path, fault: str) -> None:
    with emulator("dynamixel", "--seed", "5") as arm:
        if fault:
            arm.fault(fault)
        report = run(tmp_path, arm)
        arm.fault("clear corrupt")
        positions, goals = pose(arm.address, "present_position"), pose(arm.address, "goal_position")
        heard, accepted = goal_writes(arm)

    loop, bus = report["loop"], report["scenario"]["bus"]
    assert report["completed"]
    assert report["outcomes"][0]["reason"] == f"ended after {DURATION_S:g} s"
    assert report["outcomes"][0]["executed_steps"] > 20
    assert loop["rate_hz"] == RATE_HZ
    assert loop["mean_rate_hz"] == pytest.approx(RATE_HZ, rel=0.02)
    assert loop["ticks"] >= 0.95 * RATE_HZ * DURATION_S
    assert report["gate"]["states"]["fault"] == 0
    for camera in report["scenario"]["cameras"].values():
        assert camera["frames"] > 10 * DURATION_S

    # Every tick reads the arm and sends it goals, and what the policy wants is where the servos stand at the end.
    assert bus["exchanges"] >= 2 * 0.95 * RATE_HZ * DURATION_S
    assert heard >= 0.95 * RATE_HZ * DURATION_S
    for joint in positions:
        low, high = (GRIPPER_LOW, GRIPPER_HIGH) if joint == "gripper" else (LOW, HIGH)
        assert low - SETTLED <= goals[joint] <= high + SETTLED, joint
        assert positions[joint] == pytest.approx(goals[joint], abs=SETTLED), joint
    if fault:
        assert bus["checksum_errors"] > 0
        assert bus["retries"] > 0
        assert 0.9 * heard < accepted < heard
    else:
        assert (bus["checksum_errors"], bus["lost_goals"]) == (0, 0)
        assert accepted == heard
