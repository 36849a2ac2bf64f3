"""``molmoact2-edge scan``: what is on the bus, and each thing that can be wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from arms.at_terminal import run_command
from emulators.processes import emulator

from molmoact2_drivers.feetech import ServoBus, Torque


def scanned(address: str, *options: str) -> tuple[int, dict[str, Any]]:
    done = run_command("scan", "--port", address, "--json", *options)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def findings(report: dict[str, Any]) -> dict[str, str]:
    return {finding["kind"]: finding["text"] for finding in report["findings"]}


def test_a_good_arm() -> None:
    with emulator("so101") as arm:
        done = run_command("scan", "--port", arm.address, "--robot", "so101")
        assert done.returncode == 0, done.stderr + done.stdout
        assert "6 motors, nothing wrong" in done.stdout
        assert "shoulder_pan" in done.stdout
        code, report = scanned(arm.address)
    assert code == 0
    assert [servo["servo"] for servo in report["servos"]] == [1, 2, 3, 4, 5, 6]
    first = report["servos"][0]
    assert first["model"].lower() == "sts3215"
    assert first["firmware"] == "3.10"
    assert first["baud"] == 1_000_000
    assert 4.5 < first["voltage_v"] < 15.0
    assert 10.0 < first["temperature_c"] < 50.0
    assert first["torque_on"] is False


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("absent servo=4", "absent", "no answer from wrist_flex (id 4)"),
        ("overload servo=2", "error", "servo 2 (shoulder_lift) reports overload"),  # with torque on
    ],
)
def test_what_is_wrong_is_named(fault: str, kind: str, text: str) -> None:
    with emulator("so101") as arm:
        with ServoBus(arm.address) as bus:
            bus.set_torque([2], Torque.ON)
        arm.fault(fault)
        code, report = scanned(arm.address, "--robot", "so101")
    assert code == 3
    assert text in findings(report)[kind]


def test_a_hot_servo() -> None:
    with emulator("so101") as arm:
        arm.fault("overtemperature servo=3 celsius=60")
        for _ in range(10):
            code, report = scanned(arm.address, "--robot", "so101")
            if "temperature" in findings(report):
                break
    assert code == 3
    assert "servo 3 (elbow_flex) is at" in findings(report)["temperature"]


def test_servos_fresh_from_the_maker_all_have_one_id() -> None:
    with emulator("so101", "--unpacked") as arm:
        code, report = scanned(arm.address, "--robot", "so101")
        assert code == 3
        assert "several servos answer to id 1" in findings(report)["same_id"]
        assert "shoulder_lift (id 2)" in findings(report)["absent"]
        assert "shoulder_pan" not in findings(report)["absent"]


def test_mixed_firmware() -> None:
    with emulator("so101", "--firmware", "3=3.9") as arm:
        code, report = scanned(arm.address)
    assert code == 3
    assert "3.10, 3.9" in findings(report)["firmware"]


def test_another_baud_rate_finds_nothing_and_says_how_to_look() -> None:
    with emulator("so101") as arm:
        code, report = scanned(arm.address, "--robot", "so101", "--baud", "500000")
        assert code == 3
        assert "--all-bauds" in findings(report)["no_servos"]
        code, report = scanned(arm.address, "--robot", "so101", "--all-bauds")
        assert code == 0
        assert len(report["servos"]) == 6


def test_another_protocol_finds_nothing() -> None:
    with emulator("so101") as arm:
        code, report = scanned(arm.address, "--protocol", "dynamixel")
    assert code == 3
    assert set(findings(report)) == {"no_servos"}


def test_both_protocols_are_tried_where_none_is_given() -> None:
    with emulator("dynamixel") as arm:
        code, report = scanned(arm.address)
    assert {servo["protocol"] for servo in report["servos"]} == {"dynamixel"}
    assert len(report["servos"]) == 6
    assert code == 0


def test_refusals() -> None:
    missing = run_command("scan", "--port", "/dev/ttyNOTHING9")
    assert missing.returncode == 1
    assert "/dev/ttyNOTHING9" in missing.stderr
    assert run_command("scan").returncode == 2
    assert run_command("scan", "--port", "/dev/null", "--baud", "1", "--all-bauds").returncode == 2
    leader = run_command("scan", "--port", "/dev/null", "--leader")
    assert leader.returncode == 1
    assert "add --robot" in leader.stderr
    other = run_command("scan", "--port", "/dev/null", "--robot", "sim-so101")
    assert other.returncode == 1
    assert "has no servos to set up here" in other.stderr
