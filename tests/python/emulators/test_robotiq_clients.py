"""pymodbus, as it is, at the emulated gripper."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from emulators.processes import EmulatorProcess, emulator
from pymodbus import ModbusException
from pymodbus.client import ModbusSerialClient

UNIT = 9
COMMAND, STATUS = 0x03E8, 0x07D0
ACTIVATE, GO = 0x0100, 0x0900
OPEN, CLOSED = 3, 228


class Client:
    """pymodbus on one port."""

    def __init__(self, path: str) -> None:
        self.modbus = ModbusSerialClient(path, baudrate=115200, timeout=0.3, retries=1)
        assert self.modbus.connect()

    def command(self, action: int, goal: int = 0, speed: int = 255, force: int = 50) -> None:
        answer = self.modbus.write_registers(COMMAND, [action, goal, speed << 8 | force], device_id=UNIT)
        assert not answer.isError()

    def status(self) -> tuple[int, int, int, int, int]:
        """Return activation, contact, fault, position and current."""
        answer = self.modbus.read_holding_registers(STATUS, count=3, device_id=UNIT)
        assert not answer.isError()
        first, second, third = answer.registers
        return first >> 12 & 3, first >> 14, second >> 8, third >> 8, third & 0xFF

    def wait_for(self, place: int, wanted: int) -> tuple[int, int, int, int, int]:
        deadline = time.monotonic() + 20.0
        while (status := self.status())[place] != wanted:
            assert time.monotonic() < deadline, status
        return status

    def activate(self) -> None:
        self.command(0)
        self.command(ACTIVATE)
        self.wait_for(0, 3)


@pytest.fixture
def gripper() -> Iterator[EmulatorProcess]:
    with emulator("robotiq", "--seed", "1") as process:
        yield process


@pytest.fixture
def client(gripper: EmulatorProcess) -> Iterator[Client]:
    client = Client(gripper.address)
    yield client
    client.modbus.close()


def test_it_acts_only_once_it_is_activated(client: Client) -> None:
    assert client.status()[:3] == (0, 0, 0)
    client.command(GO & ~ACTIVATE, 255)
    assert client.status()[2] == 7
    client.activate()
    assert client.status()[3] == OPEN


def test_it_closes_and_opens_at_its_own_speed(client: Client) -> None:
    client.activate()
    began = time.monotonic()
    client.command(GO, 255, speed=128)
    client.wait_for(1, 0)
    status = client.wait_for(1, 3)
    assert status[3] == CLOSED
    # 85 mm at 85 mm/s; a busy machine makes it longer, nothing shorter.
    assert time.monotonic() - began > 0.9
    client.command(GO, 0)
    client.wait_for(3, OPEN)


def test_something_between_the_fingers_stops_them(gripper: EmulatorProcess, client: Client) -> None:
    client.activate()
    gripper.fault("object percent=40")
    client.command(GO, 255, force=200)
    status = client.wait_for(1, 2)
    assert status[3] == pytest.approx(CLOSED + (OPEN - CLOSED) * 0.4, abs=1)
    assert status[4] > 40


def test_other_registers_and_functions_are_refused(client: Client) -> None:
    assert client.modbus.read_holding_registers(0x0100, count=1, device_id=UNIT).exception_code == 2
    assert client.modbus.read_coils(0, count=1, device_id=UNIT).exception_code == 1
    assert not client.modbus.read_input_registers(STATUS, count=2, device_id=UNIT).isError()
    both = client.modbus.readwrite_registers(
        read_address=STATUS, read_count=3, write_address=COMMAND, values=[ACTIVATE, 0, 0], device_id=UNIT
    )
    assert both.registers[0] >> 8 & 1 == 1
    with pytest.raises(ModbusException):
        client.modbus.read_holding_registers(STATUS, count=1, device_id=8)


def test_faults_reach_the_client(gripper: EmulatorProcess, client: Client) -> None:
    client.activate()
    gripper.fault("overtemperature servo=9 celsius=90 duration=0.3")
    assert client.status()[2] == 8
    client.wait_for(2, 0)
    gripper.fault("overload servo=9 duration=0.1")
    assert client.status()[2] == 0x0E
    time.sleep(0.15)
    client.activate()
    assert client.status()[2] == 0
    gripper.fault("absent servo=9")
    with pytest.raises(ModbusException):
        client.modbus.read_holding_registers(STATUS, count=1, device_id=UNIT)
    gripper.fault("clear absent")
    assert client.status()[0] == 3
    gripper.fault("power_loss servo=9 duration=0.1")
    time.sleep(0.3)
    assert client.status()[0] == 0
