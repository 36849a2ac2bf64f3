"""Unmodified clients on the emulated YAM: python-can over slcan, and LeRobot 0.4.4's driver for Damiao motors."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from emulators.processes import emulator
from lerobot_python import LEROBOT_PYTHON, needs_lerobot

from molmoact2_emulators.damiao_arm import DM4310
from molmoact2_emulators.damiao_codec import COMMAND_PREFIX, DISABLE, ENABLE, MitCommand, pack_mit

can = pytest.importorskip("can", reason="the extra arms is not installed")

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 10.0
_LEROBOT_S = 300.0


@contextmanager
def bus_on(path: str) -> Iterator[Any]:
    bus = can.Bus(interface="slcan", channel=path, bitrate=1_000_000, sleep_after_open=0.0)
    try:
        yield bus
    finally:
        bus.shutdown()


def ask(bus: Any, number: int, data: bytes, answers: Callable[[Any], bool]) -> Any:
    """Repeat a frame until an answer comes, as every client on a bus must."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        bus.send(can.Message(arbitration_id=number, data=data, is_extended_id=False))
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            message = bus.recv(0.05)
            if message is not None and answers(message):
                return message
    raise AssertionError(f"no answer to {data.hex()} for {number:#x}")


def of(motor: int, status: int | None = None) -> Callable[[Any], bool]:
    return lambda message: (
        message.arbitration_id == motor + 0x10 and (status is None or message.data[0] >> 4 == status)
    )


@pytest.mark.parametrize("options", [(), ("--acknowledge",), ("--baud", "1000000")])
def test_python_can_reads_registers_switches_a_motor_on_and_moves_it(options: tuple[str, ...]) -> None:
    with emulator("yam", *options) as process, bus_on(process.address) as bus:
        reply = ask(bus, 0x7FF, bytes([5, 0, 0x33, 21, 0, 0, 0, 0]), of(5))
        assert bytes(reply.data) == bytes([5, 0, 0x33, 21]) + b"\x00\x00\x48\x41"  # 12.5
        # No timeout: a busy computer keeps a motor waiting for longer.
        ask(bus, 0x7FF, bytes([5, 0, 0x55, 9, 0, 0, 0, 0]), of(5))
        ask(bus, 5, COMMAND_PREFIX + bytes([ENABLE]), of(5, status=1))
        target = pack_mit(MitCommand(position=0.5, kp=20.0, kd=1.0), DM4310)

        def reached(message: Any) -> bool:
            position = int.from_bytes(message.data[1:3], "big") / 65535 * 25.0 - 12.5
            return of(5)(message) and abs(position - 0.5) < 0.02

        ask(bus, 5, target, reached)
        ask(bus, 5, COMMAND_PREFIX + bytes([DISABLE]), of(5, status=0))


def test_the_adapter_says_its_version_and_refuses_what_it_does_not_know() -> None:
    with emulator("yam") as process, bus_on(process.address) as bus:
        assert bus.get_version(TIMEOUT_S) == (10, 13)
        assert bus.get_serial_number(TIMEOUT_S) == "0001"


def test_two_arms_have_two_paths_and_two_buses() -> None:
    with emulator("yam", "--bimanual") as process:
        left, right = process.address.split()
        with bus_on(left) as one, bus_on(right) as other:
            ask(one, 1, COMMAND_PREFIX + bytes([ENABLE]), of(1, status=1))
            assert ask(other, 0x7FF, bytes([1, 0, 0xCC, 0, 0, 0, 0, 0]), of(1)).data[0] >> 4 == 0


def test_an_unplugged_adapter_is_an_error_for_its_client_and_is_there_again_afterwards() -> None:
    with emulator("yam") as process:
        with bus_on(process.address) as bus:
            ask(bus, 0x7FF, bytes([1, 0, 0xCC, 0, 0, 0, 0, 0]), of(1))
            process.fault("unplug")
            deadline = time.monotonic() + TIMEOUT_S
            with pytest.raises((can.CanError, OSError)):  # noqa: PT012 - which call notices is the kernel's choice
                while time.monotonic() < deadline:
                    bus.send(can.Message(arbitration_id=1, data=bytes(8), is_extended_id=False))
                    bus.recv(0.01)
            bus.close = lambda: None  # the channel of an adapter that is gone cannot be closed
        assert not Path(process.address).exists()
        process.fault("clear unplug")
        deadline = time.monotonic() + TIMEOUT_S
        while not Path(process.address).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with bus_on(process.address) as bus:
            ask(bus, 0x7FF, bytes([1, 0, 0xCC, 0, 0, 0, 0, 0]), of(1))


@needs_lerobot
@pytest.mark.slow
def test_lerobot_s_own_driver_moves_the_arm() -> None:
    with emulator("yam") as process:
        client = subprocess.run(
            [str(LEROBOT_PYTHON), str(ROOT / "tools" / "clients" / "lerobot_damiao.py"), process.address],
            capture_output=True,
            text=True,
            timeout=_LEROBOT_S,
        )
    assert client.returncode == 0, client.stdout + client.stderr
    seen = json.loads(client.stdout.splitlines()[-1])
    assert seen["worst_error_deg"] <= 1.0
    assert set(seen["temperatures"].values()) == {32.0}
