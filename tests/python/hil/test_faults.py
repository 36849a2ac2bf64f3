"""Each fault on the emulated SO-101's wire, through the real driver, ends in the state that docs/safety.md promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.hil import Checklist, Verdict
from molmoact2_edge.hil.arm import ArmUnderTest
from molmoact2_edge.hil.emulated import emulated
from molmoact2_edge.hil.fault_cases import FaultCase, so101_faults
from molmoact2_edge.hil.faults import FaultChecks
from molmoact2_edge.runtime.hardware import make_robot
from molmoact2_edge.runtime.hardware_fit import within_reach

pytestmark = pytest.mark.alone

CASES = so101_faults(0.25, 1.0)


def patient(config: RobotConfig) -> RobotConfig:
    """The emulator shares a busy computer with its tests."""
    from dataclasses import replace

    return replace(config, loop=replace(config.loop, silence_hold_s=0.25, silence_fault_s=1.0))


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultChecks]:
    with emulated(patient(load_robot("so101")), tmp_path_factory.mktemp("arm")) as emulation:
        robot = make_robot(emulation.config)
        robot.connect()
        robot.configure()
        arm = ArmUnderTest(robot, within_reach(emulation.config, robot.capabilities), emulation.processes)
        yield FaultChecks(arm, Checklist(print))
        robot.disconnect()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fault_of_the_arm_ends_as_promised(checks: FaultChecks, case: FaultCase) -> None:
    check = checks.run(case)
    assert check.verdict is Verdict.PASSED, (check.reasons, check.figures)


def test_a_fault_of_a_camera_ends_as_promised_and_the_command_tests_an_emulated_arm(tmp_path: Path) -> None:
    """In a process of its own: the emulated cameras are there for what is started in their environment only."""
    robot = tmp_path / "patient.yaml"
    robot.write_text(
        "extends: so101\nname: patient\nloop: {silence_hold_s: 0.25}\n"
        "cameras:\n  front: {height: 120, width: 160, rate_hz: 30}\n  wrist: {height: 120, width: 160, rate_hz: 30}\n"
    )
    command = [sys.executable, "-m", "molmoact2_edge", "hil", "--robot", str(robot), "--emulate"]
    command += ["--only", "identification,timing,cameras", "--rates", "50", "--seconds", "1"]
    command += ["--report", str(tmp_path / "report")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ}
    )
    document = json.loads((tmp_path / "report" / "hil.json").read_text())
    told = {f"{check['group']}: {check['name']}": check for check in document["checks"]}
    assert done.returncode == 0, (done.stdout, done.stderr)
    for name in (
        "frames dropped",
        "a camera stalled for a moment",
        "a camera unplugged and replugged",
        "a camera unplugged",
        "a camera frozen",
    ):
        assert told[f"camera faults: {name}"]["verdict"] == "passed", told
    for name in ("a camera unplugged", "a camera frozen"):
        assert told[f"camera faults: {name}"]["figures"]["until_driver_fault_ms"] is not None
    assert told["timing: 50 Hz"]["figures"]["round_trip"]["count"] > 20
    assert told["identification: joints"]["figures"]["joints"]["gripper"]["unit"] == "percent"
    root = ElementTree.parse(tmp_path / "report" / "junit.xml").getroot()
    assert int(root.get("tests") or 0) == len(told)
    assert "<svg" in (tmp_path / "report" / "hil.html").read_text()
