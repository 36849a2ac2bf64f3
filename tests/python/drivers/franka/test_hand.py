"""Our client of the Franka hand on the emulated one, which libfranka's client believes too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from emulators.fci_client import own_address
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.franka import FrankaHand
from molmoact2_edge.errors import RobotError


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true before it is hopeless."""
    give_up = time.monotonic() + 20.0
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def arm() -> Iterator[EmulatorProcess]:
    with emulator("fr3", "--address", own_address(), "--object", "0.03") as process:
        yield process


@pytest.fixture
def hand(arm: EmulatorProcess) -> Iterator[FrankaHand]:
    hand = FrankaHand(arm.address)
    hand.connect()
    yield hand
    hand.disconnect()


def test_it_reports_where_it_is_and_when(hand: FrankaHand) -> None:
    state = hand.state()
    assert state.position == pytest.approx(50.0, abs=0.1)
    assert state.temperature > 0.0
    assert eventually(lambda: hand.state().time_ns > state.time_ns)
    assert hand.state().time_ns <= time.monotonic_ns()


def test_it_opens_and_closes_and_waits_for_nobody(hand: FrankaHand) -> None:
    begun = time.monotonic()
    hand.move(100.0)
    assert time.monotonic() - begun < 0.1
    assert eventually(lambda: hand.state().position > 99.0)
    hand.move(60.0)
    assert eventually(lambda: abs(hand.state().position - 60.0) < 1.0 and not hand.state().moving)


def test_to_close_is_to_grasp_what_is_there(hand: FrankaHand) -> None:
    hand.move(0.0)
    assert eventually(lambda: hand.state().object_detected)
    assert hand.state().position == pytest.approx(100 * 0.03 / 0.08, abs=1.0)
    hand.move(90.0)
    assert eventually(lambda: hand.state().position > 89.0)
    assert not hand.state().object_detected


def test_a_target_the_other_way_ends_the_movement_under_way(hand: FrankaHand) -> None:
    hand.move(100.0)
    assert eventually(lambda: hand.state().position > 95.0)
    hand.move(45.0, speed_percent=10.0)
    assert eventually(lambda: hand.state().position < 90.0)
    hand.move(100.0)
    assert eventually(lambda: hand.state().position > 95.0)


def test_a_stop_stops(hand: FrankaHand) -> None:
    hand.move(100.0, speed_percent=5.0)
    assert eventually(lambda: hand.state().moving)
    hand.stop()
    assert eventually(lambda: not hand.state().moving)
    assert hand.state().position < 90.0


def test_homing_finds_the_ends() -> None:
    with emulator("fr3", "--address", own_address()) as arm:
        hand = FrankaHand(arm.address, homing=True)
        hand.connect()
        try:
            hand.activate()
            assert hand.state().position == pytest.approx(100.0, abs=1.0)
        finally:
            hand.disconnect()


def test_a_closed_connection_is_a_fault_that_a_new_one_mends(arm: EmulatorProcess, hand: FrankaHand) -> None:
    arm.fault("tcp_close")
    assert eventually(lambda: hand.fault is not None)
    assert "recover" in str(hand.fault)
    with pytest.raises(RobotError):
        hand.recover()
    assert hand.fault is not None
    arm.fault("clear tcp_close")
    hand.recover()
    assert hand.fault is None
    hand.move(100.0)
    assert eventually(lambda: hand.state().position > 99.0)


def test_a_hand_that_another_program_has_is_said(arm: EmulatorProcess, hand: FrankaHand) -> None:
    second = FrankaHand(arm.address)
    with pytest.raises(RobotError, match=r"another program|does not answer"):
        second.connect()
    assert hand.fault is None


def test_no_hand_is_said_and_nothing_is_left() -> None:
    threads = set(threading.enumerate())
    hand = FrankaHand(own_address())
    with pytest.raises(RobotError, match="does not answer"):
        hand.connect()
    with pytest.raises(RobotError, match="not connected"):
        hand.state()
    hand.disconnect()
    assert set(threading.enumerate()) == threads
