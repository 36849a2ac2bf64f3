"""Clients of others, as they are, at the emulated Dynamixel servos."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dynamixel_sdk as sdk
import pytest
import rustypot
from drivers.dynamixel.koch import make_arm, write_calibration
from emulators.processes import EmulatorProcess, emulator
from lerobot_python import LEROBOT_PYTHON, REPOSITORY, needs_lerobot

TICK_DEG = 360.0 / 4095.0
BAUD = 1_000_000
IDS = (1, 2, 3, 4, 5, 6)
EXTENDED_POSITION = 4
# Addresses, as in the vendor's manual.
ID, BAUD_RATE, RETURN_DELAY, OPERATING_MODE, HOMING_OFFSET, MAX_POSITION = 7, 8, 9, 11, 20, 48
TORQUE, HARDWARE_ERROR, WATCHDOG, GOAL, POSITION, TEMPERATURE = 64, 70, 98, 116, 132, 146


class Vendor:
    """The vendor's library on one port."""

    def __init__(self, path: str) -> None:
        self.port = sdk.PortHandler(path)
        assert self.port.openPort()
        assert self.port.setBaudRate(BAUD)
        self.packets = sdk.PacketHandler(2.0)

    def read(self, servo: int, address: int, size: int) -> int:
        value, result, error = getattr(self.packets, f"read{size}ByteTxRx")(self.port, servo, address)
        assert (result, error) == (sdk.COMM_SUCCESS, 0)
        return int(value)

    def write(self, servo: int, address: int, size: int, value: int) -> int:
        """Return the servo's error."""
        result, error = getattr(self.packets, f"write{size}ByteTxRx")(self.port, servo, address, value)
        assert result == sdk.COMM_SUCCESS
        return int(error)

    def wait_for(self, servo: int, address: int, size: int, wanted: int, tolerance: int = 0) -> None:
        deadline = time.monotonic() + 20.0
        while abs(self.read(servo, address, size) - wanted) > tolerance:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_for_answer(self, servo: int) -> None:
        deadline = time.monotonic() + 20.0
        while self.packets.ping(self.port, servo)[1] != sdk.COMM_SUCCESS:
            assert time.monotonic() < deadline


@pytest.fixture
def arm() -> Iterator[EmulatorProcess]:
    with emulator("dynamixel", "--seed", "1") as process:
        yield process


@pytest.fixture
def vendor(arm: EmulatorProcess) -> Iterator[Vendor]:
    vendor = Vendor(arm.address)
    yield vendor
    vendor.port.closePort()


def test_ping_tells_models_and_a_ping_to_all_finds_everybody(vendor: Vendor) -> None:
    assert vendor.packets.ping(vendor.port, 1) == (1060, sdk.COMM_SUCCESS, 0)
    assert vendor.packets.ping(vendor.port, 3) == (1200, sdk.COMM_SUCCESS, 0)
    assert vendor.packets.ping(vendor.port, 9)[1] == sdk.COMM_RX_TIMEOUT
    found, result = vendor.packets.broadcastPing(vendor.port)
    assert result == sdk.COMM_SUCCESS
    assert {servo: model for servo, (model, _) in found.items()} == dict.fromkeys(
        (1, 2), 1060
    ) | dict.fromkeys((3, 4, 5, 6), 1200)


@pytest.mark.parametrize("fast", [False, True])
def test_sync_read_and_write_move_the_arm(vendor: Vendor, fast: bool) -> None:
    for servo in IDS:
        assert vendor.write(servo, TORQUE, 1, 1) == 0
    writer = sdk.GroupSyncWrite(vendor.port, vendor.packets, GOAL, 4)
    for servo in IDS:
        assert writer.addParam(servo, list((2000 + 50 * servo).to_bytes(4, "little")))
    assert writer.txPacket() == sdk.COMM_SUCCESS
    for servo in IDS:
        vendor.wait_for(servo, POSITION, 4, 2000 + 50 * servo, tolerance=1)
    reader = sdk.GroupSyncRead(vendor.port, vendor.packets, POSITION, 4)
    for servo in IDS:
        assert reader.addParam(servo)
    assert (reader.fastSyncRead() if fast else reader.txRxPacket()) == sdk.COMM_SUCCESS
    for servo in IDS:
        assert reader.isAvailable(servo, POSITION, 4)
        assert reader.getData(servo, POSITION, 4) == pytest.approx(2000 + 50 * servo, abs=1)


@pytest.mark.parametrize("fast", [False, True])
def test_bulk_read_and_write_take_other_addresses_of_each(vendor: Vendor, fast: bool) -> None:
    writer = sdk.GroupBulkWrite(vendor.port, vendor.packets)
    assert writer.addParam(1, GOAL, 4, list((1234).to_bytes(4, "little")))
    assert writer.addParam(5, 65, 1, [1])
    assert writer.txPacket() == sdk.COMM_SUCCESS
    reader = sdk.GroupBulkRead(vendor.port, vendor.packets)
    assert reader.addParam(1, GOAL, 4)
    assert reader.addParam(5, 65, 1)
    assert reader.addParam(6, TEMPERATURE, 1)
    assert (reader.fastBulkRead() if fast else reader.txRxPacket()) == sdk.COMM_SUCCESS
    assert [reader.getData(1, GOAL, 4), reader.getData(5, 65, 1), reader.getData(6, TEMPERATURE, 1)] == [
        1234,
        1,
        30,
    ]


def test_a_kept_write_waits_for_the_action(vendor: Vendor) -> None:
    data = list((3000).to_bytes(4, "little"))
    assert vendor.packets.regWriteTxRx(vendor.port, 2, GOAL, 4, data) == (sdk.COMM_SUCCESS, 0)
    assert vendor.read(2, GOAL, 4) == 2048
    vendor.packets.action(vendor.port, sdk.BROADCAST_ID)
    assert vendor.read(2, GOAL, 4) == 3000


def test_lasting_registers_are_refused_while_torque_is_on(vendor: Vendor) -> None:
    assert vendor.write(3, RETURN_DELAY, 1, 0) == 0
    assert vendor.write(3, TORQUE, 1, 1) == 0
    assert vendor.write(3, RETURN_DELAY, 1, 10) == 7
    assert vendor.read(3, RETURN_DELAY, 1) == 0
    assert vendor.write(3, POSITION, 4, 1) == 7  # nobody writes where it is
    assert vendor.write(3, GOAL, 4, 5000) == 6  # beyond the limit of mode 3
    assert vendor.write(3, 65, 1, 9) == 4  # no such light
    assert vendor.write(3, GOAL, 2, 5) == 5  # half a goal


def test_a_header_in_the_data_arrives_as_it_was_sent(vendor: Vendor) -> None:
    value = 0x00FDFFFF  # FF FF FD 00 on the wire
    assert vendor.write(1, OPERATING_MODE, 1, EXTENDED_POSITION) == 0
    assert vendor.write(1, GOAL, 4, 0x000DFFFF) == 0
    assert vendor.read(1, GOAL, 4) == 0x000DFFFF
    assert vendor.write(1, GOAL, 4, value) == 4  # received whole: it is out of range
    assert vendor.write(1, 168, 2, 0x00FD) == 0


def test_reboot_forgets_what_does_not_last(vendor: Vendor) -> None:
    assert vendor.write(5, HOMING_OFFSET, 4, 100) == 0
    assert vendor.write(5, TORQUE, 1, 1) == 0
    assert vendor.packets.reboot(vendor.port, 5) == (sdk.COMM_SUCCESS, 0)
    assert vendor.packets.ping(vendor.port, 5)[1] == sdk.COMM_RX_TIMEOUT
    vendor.wait_for_answer(5)
    assert vendor.read(5, TORQUE, 1) == 0
    assert vendor.read(5, HOMING_OFFSET, 4) == 100
    assert vendor.read(5, POSITION, 4) == 2148


@pytest.mark.parametrize(("option", "baud"), [(0x01, 57_600), (0x02, BAUD)])
def test_factory_reset_keeps_the_id_and_the_rate_where_it_is_told_to(
    vendor: Vendor, option: int, baud: int
) -> None:
    assert vendor.write(6, MAX_POSITION, 4, 3000) == 0
    assert vendor.packets.factoryReset(vendor.port, 6, option) == (sdk.COMM_SUCCESS, 0)
    assert vendor.port.setBaudRate(baud)
    vendor.wait_for_answer(6)
    assert vendor.read(6, MAX_POSITION, 4) == 4095


def test_a_client_at_another_rate_hears_nothing(vendor: Vendor) -> None:
    for baud in (9_600, 57_600, 115_200, 2_000_000, 3_000_000, 4_000_000):
        assert vendor.port.setBaudRate(baud)
        assert vendor.packets.ping(vendor.port, 1)[1] == sdk.COMM_RX_TIMEOUT
        assert vendor.packets.write4ByteTxRx(vendor.port, 1, GOAL, 100)[0] == sdk.COMM_RX_TIMEOUT
    assert vendor.port.setBaudRate(BAUD)
    assert vendor.read(1, GOAL, 4) == 2048


def test_a_servo_with_a_new_rate_is_heard_there_and_nowhere_else(vendor: Vendor) -> None:
    assert vendor.write(5, BAUD_RATE, 1, 1) == 0
    assert vendor.packets.ping(vendor.port, 5)[1] == sdk.COMM_RX_TIMEOUT
    assert vendor.read(4, BAUD_RATE, 1) == 3
    assert vendor.port.setBaudRate(57_600)
    found, result = vendor.packets.broadcastPing(vendor.port)
    assert (result, list(found)) == (sdk.COMM_SUCCESS, [5])
    assert vendor.write(5, BAUD_RATE, 1, 3) == 0
    assert vendor.port.setBaudRate(BAUD)
    assert vendor.read(5, POSITION, 4) == 2048


def test_servos_as_shipped_share_id_and_rate_and_get_others_one_at_a_time() -> None:
    with emulator("dynamixel", "--unpacked") as arm:
        vendor = Vendor(arm.address)
        assert vendor.packets.ping(vendor.port, 1)[1] == sdk.COMM_RX_TIMEOUT
        assert vendor.port.setBaudRate(57_600)
        assert vendor.packets.ping(vendor.port, 1)[1] != sdk.COMM_SUCCESS  # two models at once
        arm.fault("only servo=6")
        assert vendor.packets.ping(vendor.port, 1) == (1200, sdk.COMM_SUCCESS, 0)
        assert vendor.packets.write1ByteTxRx(vendor.port, 1, ID, 6)[0] == sdk.COMM_SUCCESS
        assert vendor.write(6, BAUD_RATE, 1, 3) == 0
        arm.fault("clear only")
        assert vendor.packets.ping(vendor.port, 6)[1] == sdk.COMM_RX_TIMEOUT
        assert vendor.port.setBaudRate(BAUD)
        found, result = vendor.packets.broadcastPing(vendor.port)
        assert (result, list(found)) == (sdk.COMM_SUCCESS, [6])
        vendor.port.closePort()


def test_the_bus_watchdog_stops_a_servo_that_nobody_speaks_to(arm: EmulatorProcess, vendor: Vendor) -> None:
    assert vendor.write(1, OPERATING_MODE, 1, EXTENDED_POSITION) == 0
    assert vendor.write(1, TORQUE, 1, 1) == 0
    assert vendor.write(1, GOAL, 4, 100_000) == 0
    assert vendor.write(1, WATCHDOG, 1, 5) == 0
    time.sleep(0.3)
    assert vendor.read(1, WATCHDOG, 1) == 255
    stopped = vendor.read(1, POSITION, 4)
    assert stopped < 5000
    assert vendor.write(1, GOAL, 4, 2048) == 4
    time.sleep(0.1)
    assert vendor.read(1, POSITION, 4) == stopped
    assert vendor.write(1, WATCHDOG, 1, 0) == 0
    assert vendor.write(1, GOAL, 4, 2048) == 0
    vendor.wait_for(1, POSITION, 4, 2048, tolerance=1)


def test_a_hot_servo_lets_go_says_so_and_is_well_after_a_reboot(arm: EmulatorProcess, vendor: Vendor) -> None:
    assert vendor.write(4, TORQUE, 1, 1) == 0
    arm.fault("overtemperature servo=4 celsius=95 duration=0.5")
    _, result, error = vendor.packets.read1ByteTxRx(vendor.port, 4, TORQUE)
    assert (result, error) == (sdk.COMM_SUCCESS, 0x80)  # the alert bit
    assert vendor.packets.read1ByteTxRx(vendor.port, 4, HARDWARE_ERROR)[0] == 0x04
    assert vendor.packets.read1ByteTxRx(vendor.port, 4, TORQUE)[0] == 0
    assert vendor.write(4, TORQUE, 1, 1) == 0x80
    assert vendor.packets.read1ByteTxRx(vendor.port, 4, TORQUE)[0] == 0
    time.sleep(0.6)
    vendor.packets.reboot(vendor.port, 4)
    vendor.wait_for_answer(4)
    assert vendor.read(4, HARDWARE_ERROR, 1) == 0


def test_faults_of_the_line_reach_the_client(arm: EmulatorProcess, vendor: Vendor) -> None:
    arm.fault("absent servo=3")
    assert vendor.packets.ping(vendor.port, 3)[1] == sdk.COMM_RX_TIMEOUT
    assert vendor.packets.ping(vendor.port, 2)[1] == sdk.COMM_SUCCESS
    arm.fault("clear absent")
    arm.fault("locked")
    assert vendor.write(3, RETURN_DELAY, 1, 0) == 7
    arm.fault("clear locked")
    arm.fault("drop probability=1")
    assert vendor.packets.ping(vendor.port, 2)[1] == sdk.COMM_RX_TIMEOUT
    arm.fault("clear drop")
    arm.fault("power_loss servo=2 duration=0.05")
    time.sleep(0.1)
    vendor.wait_for_answer(2)
    arm.fault("corrupt probability=0.3")
    results = {vendor.packets.ping(vendor.port, 1)[1] for _ in range(60)}
    assert sdk.COMM_SUCCESS in results
    assert len(results) > 1
    arm.fault("clear corrupt")
    arm.fault("overload servo=6")
    assert vendor.packets.ping(vendor.port, 6)[2] == 0x80


def test_unplugged_it_is_gone_and_plugged_in_again_at_the_same_path(arm: EmulatorProcess) -> None:
    vendor = Vendor(arm.address)
    assert vendor.read(1, POSITION, 4) == 2048
    arm.fault("unplug duration=0.3")
    deadline = time.monotonic() + 20.0
    with pytest.raises(OSError, match=r"Errno 5|readiness"):
        _ping_until(vendor, deadline)
    while True:
        try:
            again = Vendor(arm.address)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert again.read(1, POSITION, 4) == 2048
    again.port.closePort()


def _ping_until(vendor: Vendor, deadline: float) -> None:
    while time.monotonic() < deadline:
        vendor.packets.ping(vendor.port, 1)


def test_servos_before_fast_reads_stay_silent_and_those_after_firmware_52_have_another_table() -> None:
    with emulator("dynamixel", "--servos", "1:xl330-m288-fw44,2:xl330-m288-fw52:1000") as arm:
        vendor = Vendor(arm.address)
        reader = sdk.GroupSyncRead(vendor.port, vendor.packets, POSITION, 4)
        assert reader.addParam(1)
        assert reader.addParam(2)
        assert reader.fastSyncRead() != sdk.COMM_SUCCESS
        assert reader.txRxPacket() == sdk.COMM_SUCCESS
        assert reader.getData(2, POSITION, 4) == 1000
        assert vendor.write(2, 168, 2, POSITION) == 0
        assert vendor.read(2, 208, 1) == 1000 & 0xFF
        vendor.port.closePort()


def test_rustypot_reads_and_moves_small_servos(arm: EmulatorProcess) -> None:
    servos = rustypot.Xl330PyController(arm.address, BAUD, 1.0)
    ids = [3, 4, 5, 6]
    servos.sync_write_torque_enable(ids, [True] * 4)
    goals = [0.1, -0.2, 0.3, -0.4]
    servos.sync_write_goal_position(ids, goals)
    deadline = time.monotonic() + 20.0
    radians_per_tick = 2.0 * 3.141592653589793 / 4096
    while True:
        positions = servos.sync_read_present_position(ids)
        if all(abs(a - b) <= 1.5 * radians_per_tick for a, b in zip(positions, goals, strict=True)):
            break
        assert time.monotonic() < deadline, positions
    assert servos.sync_read_present_temperature(ids) == [30] * 4
    servos.close()


@pytest.mark.slow
@needs_lerobot
def test_lerobot_and_our_driver_read_the_same_degrees_and_need_no_new_calibration(
    arm: EmulatorProcess, tmp_path: Path
) -> None:
    calibration = write_calibration(tmp_path)
    ours = make_arm(arm.address, calibration)
    ours.connect()
    ours.configure()  # puts the calibration into the servos, as LeRobot's own calibration does
    ours.disconnect()
    moves = {"shoulder_pan": 21.5, "elbow_flex": -33.0, "wrist_roll": 60.0, "gripper": 40.0}
    options = [option for joint, goal in moves.items() for option in ("--move", f"{joint}={goal}")]
    ran = subprocess.run(
        [
            str(LEROBOT_PYTHON),
            "-W",
            "ignore",
            str(REPOSITORY / "tools/clients/lerobot_koch.py"),
            arm.address,
            str(calibration),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout)
    assert theirs["calibrated"]
    assert theirs["found"] == {"1": 1060, "2": 1060, "3": 1200, "4": 1200, "5": 1200, "6": 1200}
    for joint, goal in moves.items():
        assert theirs["end"][f"{joint}.pos"] == pytest.approx(goal, abs=2 * TICK_DEG), joint
    ours.connect()
    ticks = ours.bus.read_many(IDS, "present_position")
    assert list(ticks.values()) == list(theirs["end_raw"].values())
    unconfigured = ours.read_state().positions
    ours.configure()
    assert ours.read_state().positions == pytest.approx(list(theirs["end"].values()), abs=1e-9)
    assert unconfigured == pytest.approx(list(theirs["end"].values()), abs=1e-9)
    ours.disconnect()
