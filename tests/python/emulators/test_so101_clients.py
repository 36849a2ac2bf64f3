"""Unmodified clients of others work on the emulated SO-101, each through the serial device of a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scservo_sdk
import serial
from emulators.processes import EmulatorProcess, emulator
from lerobot_python import LEROBOT_PYTHON, REPOSITORY, needs_lerobot
from rustypot import Sts3215PyController

from molmoact2_emulators.so101_calibration import JOINTS, usual_calibration, write_calibration

PATIENCE_S = 20.0
IDS = [1, 2, 3, 4, 5, 6]
MIDDLE = [2047, 2047, 2047, 2047, 2048, 2047]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


class Sdk:
    """Feetech's SDK on one port. It gives up on an answer after 34 ms, so it asks again, as its users do."""

    def __init__(self, path: str, baud: int = 1_000_000) -> None:
        self.port = scservo_sdk.PortHandler(path)
        self.port.baudrate = baud
        assert self.port.openPort()
        self.packets = scservo_sdk.PacketHandler(0)

    def ping(self, servo: int, tries: int = 20) -> int | None:
        for _ in range(tries):
            model, result, _ = self.packets.ping(self.port, servo)
            if result == scservo_sdk.COMM_SUCCESS:
                return int(model)
        return None

    def read(self, servo: int, address: int, size: int) -> tuple[int, int]:
        """The value, and the error byte."""
        for _ in range(20):
            data, result, error = self.packets.readTxRx(self.port, servo, address, size)
            if result == scservo_sdk.COMM_SUCCESS:
                return int.from_bytes(bytes(data), "little"), int(error)
        raise AssertionError(self.packets.getTxRxResult(result))

    def write(self, servo: int, address: int, size: int, value: int) -> int:
        """The error byte."""
        for _ in range(20):
            data = list(value.to_bytes(size, "little"))
            result, error = self.packets.writeTxRx(self.port, servo, address, size, data)
            if result == scservo_sdk.COMM_SUCCESS:
                return int(error)
        raise AssertionError(self.packets.getTxRxResult(result))

    def close(self) -> None:
        self.port.closePort()


@contextmanager
def sdk_on(arm: EmulatorProcess, baud: int = 1_000_000) -> Iterator[Sdk]:
    sdk = Sdk(arm.address, baud)
    try:
        yield sdk
    finally:
        sdk.close()


def test_feetech_s_sdk() -> None:
    with emulator("so101") as arm, sdk_on(arm) as sdk:
        assert [sdk.ping(servo) for servo in IDS] == [777] * 6
        assert sdk.ping(7, tries=1) is None
        assert [sdk.read(servo, 56, 2)[0] for servo in IDS] == MIDDLE
        for servo in IDS:
            assert sdk.write(servo, 40, 1, 1) == 0
        writer = scservo_sdk.GroupSyncWrite(sdk.port, sdk.packets, 42, 2)
        for servo in IDS:
            assert writer.addParam(servo, list((2047 + 10 * servo).to_bytes(2, "little")))
        assert writer.txPacket() == scservo_sdk.COMM_SUCCESS
        reader = scservo_sdk.GroupSyncRead(sdk.port, sdk.packets, 56, 15)
        for servo in IDS:
            assert reader.addParam(servo)

        def positions() -> list[int]:
            wait_for(
                lambda: bool(reader.txRxPacket() == scservo_sdk.COMM_SUCCESS), "an answer from all servos"
            )
            assert all(reader.isAvailable(servo, 56, 15) for servo in IDS)
            return [reader.getData(servo, 56, 2) for servo in IDS]

        wait_for(lambda: positions() == [2047 + 10 * servo for servo in IDS], "the goals")
        assert {reader.getData(servo, 63, 1) for servo in IDS} == {27}
        wait_for(
            lambda: sdk.packets.regWriteTxRx(sdk.port, 1, 42, 2, [0, 8])[0] == scservo_sdk.COMM_SUCCESS,
            "an answer",
        )
        time.sleep(0.2)
        assert positions()[0] == 2057
        sdk.packets.action(sdk.port, scservo_sdk.BROADCAST_ID)
        wait_for(lambda: positions()[0] == 2048, "the write that was registered")


def test_rustypot() -> None:
    with emulator("so101") as arm:
        controller = Sts3215PyController(arm.address, 1_000_000, 0.5)
        assert controller.scan(list(range(1, 9))) == dict.fromkeys(IDS, 777)
        assert controller.broadcast_scan() == dict.fromkeys(IDS, 777)
        assert list(controller.sync_read_raw_present_position(IDS)) == MIDDLE
        assert controller.sync_read_present_position([5]) == [pytest.approx(0.0)]
        controller.sync_write_torque_enable(IDS, [True] * 6)
        controller.sync_write_raw_goal_position(IDS, [2100] * 6)
        wait_for(lambda: list(controller.sync_read_raw_present_position(IDS)) == [2100] * 6, "the goals")
        assert controller.read_present_voltage(1) == [74]
        controller.close()


def test_a_client_at_another_rate_hears_nothing() -> None:
    with emulator("so101") as arm:
        with sdk_on(arm, 115_200) as sdk:
            assert sdk.ping(1, tries=2) is None
        with sdk_on(arm) as sdk:
            assert sdk.ping(1) == 777


def test_it_answers_through_corrupted_packets() -> None:
    with emulator("so101", "--seed", "4") as arm, sdk_on(arm) as sdk:
        arm.fault("corrupt probability=0.1")
        values = {sdk.read(servo, 56, 2)[0] for _ in range(20) for servo in IDS[:4]}
        assert values == {2047}


def talk(sdk: Sdk) -> None:
    for _ in range(100):
        sdk.port.ser.write(b"x")
        sdk.port.ser.read(1)


def test_unplugged_and_back_with_everything_kept() -> None:
    with emulator("so101") as arm:
        with sdk_on(arm) as sdk:
            sdk.write(2, 40, 1, 1)
            arm.fault("unplug")
            wait_for(lambda: not Path(arm.address).exists(), "the device to vanish")
            with pytest.raises((OSError, serial.SerialException)):
                talk(sdk)
        with pytest.raises(serial.SerialException):
            Sdk(arm.address)
        arm.fault("clear unplug")
        wait_for(lambda: Path(arm.address).exists(), "the device to come back")
        with sdk_on(arm) as sdk:
            assert sdk.read(2, 40, 1) == (1, 0)


def test_power_is_lost_and_back() -> None:
    with emulator("so101") as arm, sdk_on(arm) as sdk:
        sdk.write(2, 40, 1, 1)
        sdk.write(2, 21, 1, 99)
        assert sdk.read(2, 21, 1)[0] == 99
        sdk.write(3, 55, 1, 0)
        sdk.write(3, 21, 1, 98)
        arm.fault("power_loss duration=0.3")
        wait_for(lambda: sdk.ping(2, tries=1) is None, "silence")
        wait_for(lambda: sdk.ping(2, tries=1) == 777, "an answer")
        assert sdk.read(2, 40, 1)[0] == 0
        assert sdk.read(2, 21, 1)[0] == 16
        assert sdk.read(3, 21, 1)[0] == 98
        assert sdk.read(3, 55, 1)[0] == 1


def test_a_servo_that_is_not_there() -> None:
    with emulator("so101") as arm, sdk_on(arm) as sdk:
        arm.fault("absent servo=3")
        wait_for(lambda: sdk.ping(3, tries=1) is None, "silence")
        assert sdk.ping(4) == 777
        arm.fault("clear absent")
        wait_for(lambda: sdk.ping(3, tries=1) == 777, "an answer")
        arm.fault("only servo=6")
        wait_for(lambda: sdk.ping(1, tries=1) is None, "silence")
        assert sdk.ping(6) == 777


def test_overload_and_heat_are_told_in_every_answer() -> None:
    with emulator("so101") as arm, sdk_on(arm) as sdk:
        for servo in (4, 5):
            sdk.write(servo, 40, 1, 1)
        arm.fault("overload servo=4 duration=0.5")
        wait_for(lambda: sdk.read(4, 56, 2)[1] == 32, "the error bit")
        time.sleep(0.6)
        assert sdk.read(4, 65, 1) == (32, 32)
        assert sdk.write(4, 40, 1, 1) == 0
        assert sdk.read(4, 65, 1) == (0, 0)
        arm.fault("overtemperature servo=5 celsius=80")
        wait_for(lambda: sdk.read(5, 63, 1) == (80, 4), "the heat")
        assert sdk.read(5, 40, 1) == (0, 4)


def test_locked_eeprom_takes_nothing_and_says_nothing() -> None:
    with emulator("so101") as arm, sdk_on(arm) as sdk:
        sdk.write(1, 55, 1, 0)
        arm.fault("locked")
        time.sleep(0.1)
        assert sdk.write(1, 31, 2, 100) == 0
        assert sdk.read(1, 31, 2)[0] == 0
        arm.fault("clear locked")
        time.sleep(0.1)
        sdk.write(1, 31, 2, 100)
        assert sdk.read(1, 31, 2)[0] == 100


def test_firmware_may_be_mixed() -> None:
    with emulator("so101", "--firmware", "3=3.9") as arm, sdk_on(arm) as sdk:
        assert [sdk.read(servo, 0, 2)[0].to_bytes(2, "little") for servo in (2, 3)] == [
            b"\x03\x0a",
            b"\x03\x09",
        ]


@pytest.mark.slow
def test_out_of_the_box() -> None:
    """Six servos with one id: each is given its own alone on the line; then hands show the ranges."""
    with emulator("so101", "--unpacked", "--seed", "5") as arm, sdk_on(arm) as sdk:
        for servo in reversed(IDS):
            arm.fault("clear only")
            arm.fault(f"only servo={servo}")
            time.sleep(0.05)
            sdk.write(1, 55, 1, 0)
            if servo != 1:
                sdk.write(1, 5, 1, servo)
            wait_for(lambda servo=servo: sdk.ping(servo, tries=1) == 777, "the new id")  # type: ignore[misc]
        arm.fault("clear only")
        time.sleep(0.05)
        assert [sdk.ping(servo) for servo in IDS] == [777] * 6
        arm.fault("middle")
        time.sleep(1.5)
        for servo in IDS:
            sdk.write(servo, 40, 1, 128)
        assert {sdk.read(servo, 56, 2)[0] for servo in IDS} <= {2047, 2048, 2049}
        arm.fault("clear middle")
        arm.fault("sweep")
        lowest, highest = [4096] * 6, [-1] * 6
        deadline = time.monotonic() + 8.0
        while time.monotonic() < deadline:
            for joint, servo in enumerate(IDS):
                position = sdk.read(servo, 56, 2)[0]
                lowest[joint], highest[joint] = min(lowest[joint], position), max(highest[joint], position)
        # Degrees from the middle; the sweep takes 7.3 s for the shoulder. A read may miss the very end.
        for joint, (low, high) in enumerate([(-110, 110), (-100, 100), (-96.8, 96.8), (-95, 95)]):
            assert lowest[joint] == pytest.approx(2048 + low * 4095 / 360, abs=40)
            assert highest[joint] == pytest.approx(2048 + high * 4095 / 360, abs=40)


def test_it_ends_with_its_standard_input_and_leaves_nothing() -> None:
    with emulator("so101") as arm:
        directory = Path(arm.address).parent
        assert arm.stop() == 0
        assert not directory.exists()
        assert "goal_writes_heard" in arm.errors


def test_a_refused_fault_says_why() -> None:
    with emulator("so101") as arm, pytest.raises(AssertionError, match="no fault 'explode' here"):
        arm.fault("explode")


def test_one_that_cannot_start_says_why() -> None:
    with pytest.raises(AssertionError, match="give --table, too"), emulator("so101", "--judge", "socket"):
        pass


@pytest.mark.slow
@needs_lerobot
def test_lerobot_s_own_follower(tmp_path: Path) -> None:
    calibration = usual_calibration()
    # An arm as people have them: horns beside the middle, ranges that are not symmetrical.
    for number, name in enumerate(JOINTS):
        joint = calibration[name]
        if name != "wrist_roll":
            joint = replace(joint, range_min=joint.range_min - 9 * number, range_max=joint.range_max + 5)
        calibration[name] = replace(joint, homing_offset=(-1200, 37, -3, 880, -2047, 1500)[number])
    file = tmp_path / "calibrations" / "shelf.json"
    write_calibration(file, calibration)
    with emulator("so101", "--calibrated-as", str(file)) as arm:
        found = lerobot(arm.address, file, "--move", "shoulder_pan=20", "--move", "gripper=80")
        assert found["calibrated"]
        middles = {name: (joint.range_min + joint.range_max) / 2 for name, joint in calibration.items()}
        for name in JOINTS[:5]:
            degrees = (found["raw"][name] - middles[name]) * 360 / 4095
            assert found["start"][f"{name}.pos"] == pytest.approx(degrees, abs=1e-9)
            # The arm stands where the simulator says 0, to the tick.
            assert abs(found["raw"][name] - middles[name]) <= 0.5
        assert found["start"]["gripper.pos"] == pytest.approx(50.0, abs=0.05)
        # LeRobot writes whole ticks.
        assert found["end"]["shoulder_pan.pos"] == pytest.approx(20.0, abs=0.1)
        assert found["end"]["gripper.pos"] == pytest.approx(80.0, abs=0.1)
        with sdk_on(arm) as sdk:
            assert [sdk.read(servo, 40, 1)[0] for servo in IDS] == [0] * 6


def lerobot(*arguments: object) -> dict[str, Any]:
    script = REPOSITORY / "tools/clients/lerobot_so101.py"
    done = subprocess.run(
        [str(LEROBOT_PYTHON), "-W", "ignore", str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
