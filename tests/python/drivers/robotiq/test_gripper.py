"""The Robotiq driver at the emulated gripper, and against what is wrong."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from emulators.processes import EmulatorProcess, emulator
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.robotiq import Gripper
from molmoact2_drivers.robotiq.modbus import READ_HOLDING, WRITE_MULTIPLE, crc16, frame
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_emulators import robotiq_modbus
from molmoact2_emulators.robotiq_gripper import ACTIVATE, CLOSED_COUNT, OPEN_COUNT, GripperModel

LIMIT_S = 20.0


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def process() -> Iterator[EmulatorProcess]:
    with emulator("robotiq", "--seed", "2") as process:
        yield process


@pytest.fixture
def gripper(process: EmulatorProcess) -> Iterator[Gripper]:
    gripper = Gripper(process.address)
    gripper.connect()
    gripper.activate()
    yield gripper
    gripper.disconnect()


def test_it_goes_where_it_is_told_and_nobody_waits(gripper: Gripper) -> None:
    for percent in (0.0, 100.0, 50.0):
        gripper.move(percent)
        wait_until(
            lambda goal=percent: abs(gripper.state().position - goal) < 0.5 and not gripper.state().moving
        )
        assert not gripper.state().object_detected
    state = gripper.state()
    assert state.ready
    assert state.fault_code == 0
    assert state.target == pytest.approx(50.0, abs=0.5)
    assert gripper.fault is None


def test_the_newest_target_wins_and_stop_stays(gripper: Gripper) -> None:
    for percent in range(100, -1, -1):
        gripper.move(float(percent), speed_percent=0.0)
    gripper.stop()
    wait_until(lambda: not gripper.state().moving)
    assert gripper.state().position > 50.0


def test_what_it_holds_is_noticed_with_its_current(process: EmulatorProcess, gripper: Gripper) -> None:
    process.fault("object percent=30")
    gripper.move(0.0, force_percent=80.0)
    wait_until(lambda: gripper.state().object_detected)
    assert gripper.state().position == pytest.approx(30.0, abs=1.0)
    assert gripper.state().current > 0.3


def test_an_activated_gripper_is_not_moved_by_another_activation(process: EmulatorProcess) -> None:
    first = Gripper(process.address)
    first.connect()
    assert not first.state().ready
    first.activate()
    first.move(20.0)
    wait_until(lambda: first.state().position < 20.5)
    first.disconnect()
    second = Gripper(process.address)
    second.connect()
    second.activate()
    assert second.state().position == pytest.approx(20.0, abs=0.5)
    second.disconnect()
    assert not any(thread.name == "robotiq" for thread in threading.enumerate())


def test_damaged_and_lost_messages_cost_nothing(process: EmulatorProcess, gripper: Gripper) -> None:
    process.fault("corrupt probability=0.1")
    process.fault("drop probability=0.05")
    for percent in (0.0, 80.0):
        gripper.move(percent)
        wait_until(lambda goal=percent: abs(gripper.state().position - goal) < 0.5)
    assert gripper.fault is None


def test_unplugged_for_a_moment_it_goes_on(process: EmulatorProcess, gripper: Gripper) -> None:
    process.fault("unplug duration=0.3")
    before = gripper.state().time_ns
    gripper.move(0.0)
    wait_until(lambda: gripper.state().time_ns > before + 300_000_000)
    wait_until(lambda: gripper.state().position < 0.5)
    assert gripper.fault is None


def test_unplugged_for_long_it_says_so_and_recovers(process: EmulatorProcess, gripper: Gripper) -> None:
    process.fault("unplug")
    wait_until(lambda: gripper.fault is not None)
    assert "unplugged" in str(gripper.fault)
    with pytest.raises(RobotError, match="unplugged"):
        gripper.move(0.0)
    old = gripper.state().time_ns
    assert gripper.state().age_ns(time.monotonic_ns()) > 500_000_000
    with pytest.raises(RobotError, match="cannot open"):
        gripper.recover()
    process.fault("clear unplug")
    wait_until(lambda: _recovers(gripper))
    gripper.move(100.0)
    wait_until(lambda: gripper.state().time_ns > old)


def _recovers(gripper: Gripper) -> bool:
    try:
        gripper.recover()
    except RobotError:
        return False
    return gripper.fault is None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("overload servo=9 duration=0.2", "current is too high"),
        ("overtemperature servo=9 celsius=95 duration=0.2", "too hot"),
        ("power_loss servo=9 duration=0.2", "lost its activation"),
        ("absent servo=9 duration=2.5", "does not answer"),
    ],
)
def test_faults_end_in_words_and_recovery(
    process: EmulatorProcess, gripper: Gripper, fault: str, says: str
) -> None:
    process.fault(fault)
    wait_until(lambda: gripper.fault is not None)
    assert says in str(gripper.fault)
    assert "recover" in str(gripper.fault)
    wait_until(lambda: _recovers(gripper))
    gripper.move(0.0)
    wait_until(lambda: gripper.state().position < 0.5)


def test_states_and_values_that_cannot_be_are_refused(process: EmulatorProcess) -> None:
    for arguments in ({"unit": 0}, {"rate_hz": 0.0}, {"rate_hz": 1000.0}):
        with pytest.raises(InputError):
            Gripper("/dev/null", **arguments)
    with pytest.raises(InputError):
        Gripper("")
    gripper = Gripper(process.address, unit=5)
    with pytest.raises(RobotError, match="not connected"):
        gripper.state()
    with pytest.raises(RobotError, match="does not answer"):
        gripper.connect()
    gripper = Gripper(process.address)
    gripper.connect()
    with pytest.raises(RobotError, match="connected already"):
        gripper.connect()
    with pytest.raises(RobotError, match="not activated"):
        gripper.move(10.0)
    gripper.activate()
    for percent in (-1.0, 101.0, float("nan")):
        with pytest.raises(InputError):
            gripper.move(percent)
    gripper.disconnect()
    gripper.disconnect()


@given(st.binary(min_size=4, max_size=80))
def test_both_sides_agree_on_the_checksum(data: bytes) -> None:
    assert crc16(data).to_bytes(2, "little") == robotiq_modbus.checksum(data)


@given(
    st.binary(max_size=30),
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20)),
        max_size=4,
    ),
    st.integers(1, 9),
)
def test_requests_are_found_in_pieces_of_any_size(
    noise: bytes, writes: list[tuple[int, list[int]]], size: int
) -> None:
    reader = robotiq_modbus.RequestReader()
    list(reader.feed(noise))
    reader.forget()
    stream = b""
    wanted = []
    for address, values in writes:
        data = struct.pack(f">HHB{len(values)}H", address, len(values), 2 * len(values), *values)
        stream += frame(9, WRITE_MULTIPLE, data) + frame(9, READ_HOLDING, struct.pack(">HH", address, 3))
        wanted += [data, struct.pack(">HH", address, 3)]
    found = [one for at in range(0, len(stream), size) for one in reader.feed(stream[at : at + size])]
    assert [request.data for request in found] == wanted


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=20)
)
def test_no_sequence_of_commands_moves_the_fingers_beyond_their_ends(
    commands: list[tuple[int, int, int]],
) -> None:
    model = GripperModel(0.0)
    now_s = 0.0
    for command in [(0, 0, 0), (ACTIVATE << 8, 0, 0), *commands]:
        model.command(command)
        for _ in range(5):
            now_s += 0.3
            model.advance(now_s)
            status, fault, position = model.status_registers()
            assert OPEN_COUNT <= position >> 8 <= CLOSED_COUNT
            assert 0 <= status <= 0xFFFF
            assert fault >> 8 <= 0x0F
