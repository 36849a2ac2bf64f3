"""The emulated line of Dynamixel servos without a terminal: who hears whom at which rate, and who speaks at once."""

from __future__ import annotations

import random

import pytest

from molmoact2_emulators import dynamixel_packet as wire
from molmoact2_emulators.dynamixel import parse_servos
from molmoact2_emulators.dynamixel_line import FAULTS, Line
from molmoact2_emulators.dynamixel_servo import Servo
from molmoact2_emulators.dynamixel_table import BAUDS
from molmoact2_emulators.faults import FaultPlan

POSITION, GOAL = 132, 116
TWO = "1:xl330-m288:1000,2:xl330-m288:3000"


class Cable:
    """Carries what a test asks, and keeps what is answered."""

    def __init__(self) -> None:
        self.baud: int | None = 1_000_000
        self.asked = b""
        self.answers: list[bytes] = []

    def client_baud(self) -> int | None:
        return self.baud

    def duration_ns(self, count: int) -> int:
        return count * 10_000

    def receive(self, timeout_s: float) -> tuple[bytes, int]:
        asked, self.asked = self.asked, b""
        return asked, 1_000_000_000

    def send(self, data: bytes, earliest_ns: int = 0) -> int:
        self.answers.append(data)
        return earliest_ns + self.duration_ns(len(data))


class Bench:
    """Two servos and their cable."""

    def __init__(self, servos: str = TWO) -> None:
        self.servos: list[Servo] = parse_servos(servos, 0.0)
        self.cable = Cable()
        self.plan = FaultPlan(FAULTS)
        self.line = Line(self.cable, self.servos, self.plan)

    def ask(self, servo: int, instruction: int, parameters: bytes = b"") -> list[bytes]:
        self.cable.answers = []
        self.cable.asked = wire.packet(servo, instruction, parameters)
        self.line.attend(0.0)
        return self.cable.answers


def word(number: int) -> bytes:
    return number.to_bytes(2, "little")


@pytest.mark.parametrize("own", BAUDS)
def test_a_servo_hears_its_own_rate_and_no_other(own: int) -> None:
    bench = Bench()
    bench.servos[1]["Baud Rate"] = BAUDS.index(own)
    goal = bench.servos[1]["Goal Position"]
    for baud in (*BAUDS, 250_000):
        bench.cable.baud = baud
        assert bool(bench.ask(2, wire.PING)) == (baud == own)
        if baud != own:
            bench.ask(2, wire.WRITE, word(GOAL) + (700).to_bytes(4, "little"))
            bench.ask(wire.BROADCAST, wire.SYNC_WRITE, word(GOAL) + word(4) + b"\x02" + bytes(4))
            assert bench.servos[1]["Goal Position"] == goal
    bench.cable.baud = None  # a system that does not tell rates
    assert bench.ask(2, wire.PING)


def test_a_new_rate_holds_from_the_next_request_on() -> None:
    bench = Bench()
    assert bench.ask(2, wire.WRITE, word(8) + b"\x01") == [wire.status(2, 0)]
    assert bench.ask(2, wire.PING) == []
    bench.cable.baud = 57_600
    assert len(bench.ask(2, wire.PING)) == 1
    assert bench.ask(1, wire.PING) == []
    assert len(bench.ask(wire.BROADCAST, wire.PING)) == 1


def test_who_shares_an_id_speaks_at_once() -> None:
    bench = Bench()
    bench.servos[1]["ID"] = 1
    read = word(POSITION) + word(4)
    assert bench.ask(1, wire.PING) == [wire.status(1, 0, word(1200) + bytes([46]))]
    positions = [wire.status(1, 0, ticks.to_bytes(4, "little")) for ticks in (1000, 3000)]
    garbled = bytes(a & b for a, b in zip(*positions, strict=True))
    assert garbled not in positions
    assert bench.ask(1, wire.READ, read) == [garbled]
    assert bench.ask(wire.BROADCAST, wire.SYNC_READ, read + b"\x01") == [garbled]
    (fast,) = bench.ask(wire.BROADCAST, wire.FAST_SYNC_READ, read + b"\x01")
    assert wire.crc_fast(fast[:-2]) != int.from_bytes(fast[-2:], "little")
    assert len(bench.ask(wire.BROADCAST, wire.PING)) == 1
    bench.ask(1, wire.WRITE, word(65) + b"\x01")
    bench.ask(wire.BROADCAST, wire.SYNC_WRITE, word(84) + word(2) + b"\x01" + word(640))
    bench.ask(wire.BROADCAST, wire.BULK_WRITE, b"\x01" + word(82) + word(2) + word(7))
    for servo in bench.servos:
        assert (servo["LED"], servo["Position P Gain"], servo["Position I Gain"]) == (1, 640, 7)


def test_a_servo_alone_on_the_line_and_one_that_has_another_id_by_now() -> None:
    bench = Bench()
    bench.servos[1]["ID"] = 9
    bench.plan.add("only servo=2")  # as it was called at the start
    assert bench.ask(1, wire.PING) == []
    assert len(bench.ask(9, wire.PING)) == 1
    bench.plan.add("clear only")
    bench.plan.add("absent servo=2")
    assert len(bench.ask(1, wire.PING)) == 1
    assert bench.ask(9, wire.PING) == []


def test_goals_are_counted_where_they_were_sent_and_where_they_came() -> None:
    bench = Bench()
    bench.plan.add("corrupt probability=0.3")
    chance = random.Random(3)
    for _ in range(200):
        ticks = chance.randint(0, 4095).to_bytes(4, "little")
        bench.ask(wire.BROADCAST, wire.SYNC_WRITE, word(GOAL) + word(4) + b"\x01" + ticks)
        bench.ask(wire.BROADCAST, wire.SYNC_WRITE, word(84) + word(2) + b"\x01" + word(640))
    counters = bench.line.counters
    assert (counters.requests, counters.goal_writes_heard) == (400, 200)
    assert 110 < counters.goal_writes_accepted < 170
    assert counters.unheard > 200 - counters.goal_writes_accepted
