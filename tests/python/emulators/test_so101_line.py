"""Six servos on one line: who answers what and when, collisions, and what happens to packets on the way.

The wire is one of the test: it carries bytes at once and keeps the real one's times.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_emulators import feetech_packets as packets
from molmoact2_emulators import feetech_registers as reg
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_bus import Bus
from molmoact2_emulators.feetech_line import PACKET_FAULTS, ServoLine
from molmoact2_emulators.feetech_packets import BROADCAST, Request, packet, sync_read
from molmoact2_emulators.feetech_servo import Servo
from molmoact2_emulators.pty_wire import LineTime

BYTE_NS = 10_000
INSTRUCTIONS = (
    packets.PING,
    packets.READ,
    packets.WRITE,
    packets.REG_WRITE,
    packets.ACTION,
    packets.SYNC_READ,
    packets.SYNC_WRITE,
)


class Wire:
    """What a line of servos does with a wire, without a kernel."""

    def __init__(self) -> None:
        self.line = LineTime(1_000_000)
        self.baud: int | None = 1_000_000
        self.delivered: list[tuple[int, bytes]] = []
        self.meanwhile: list[int] = []

    def client_baud(self) -> int | None:
        return self.baud

    def duration_ns(self, count: int) -> int:
        return self.line.duration_ns(count)

    def wait_for(self, data: bytes, earliest_ns: int = 0) -> int:
        return self.line.occupy(len(data), earliest_ns)

    def discard(self) -> int:
        return self.meanwhile.pop(0) if self.meanwhile else 0

    def deliver(self, data: bytes) -> None:
        self.delivered.append((self.line.free_ns, data))


class Six:
    """Servos 1 to 6 behind a line."""

    def __init__(self, seed: int = 0) -> None:
        self.servos = [Servo() for _ in range(6)]
        for number, servo in enumerate(self.servos, start=1):
            servo.set_factory(id=number, return_delay=0)
            servo.shaft.position = 2000.0 + number
            servo.lose_power()
        self.bus = Bus(self.servos)
        self.wire = Wire()
        self.plan = FaultPlan(PACKET_FAULTS, seed, clock=lambda: 0.0)
        self.line = ServoLine(self.wire, self.bus, self.plan)
        self.now_ns = 0

    def ask(self, data: bytes) -> list[tuple[int, bytes]]:
        """Send bytes on a silent line; returns the answers, each with its end, counted from the request's begin."""
        self.now_ns = begin = max(self.wire.line.free_ns, self.now_ns) + 30_000_000
        self.wire.delivered.clear()
        self.line.answer(data, self.wire.line.occupy(len(data), begin))
        return [(end - begin, answer) for end, answer in self.wire.delivered]

    def answers(self, request: Request) -> list[bytes]:
        return [answer for _, answer in self.ask(request.encoded())]


@pytest.fixture
def six() -> Six:
    return Six()


def test_each_instruction(six: Six) -> None:
    assert six.answers(Request(3, packets.PING)) == [packet(3, 0)]
    assert six.answers(Request(3, packets.READ, b"\x38\x02")) == [packet(3, 0, (2003).to_bytes(2, "little"))]
    assert six.answers(Request(3, packets.WRITE, b"\x2a\x10\x08")) == [packet(3, 0)]
    assert six.servos[2].memory[reg.GOAL_POSITION] == 0x810
    assert six.answers(Request(3, packets.REG_WRITE, b"\x2a\x20\x08")) == [packet(3, 0)]
    assert six.servos[2].memory[reg.GOAL_POSITION] == 0x810
    assert six.answers(Request(3, packets.ACTION)) == [packet(3, 0)]
    assert six.servos[2].memory[reg.GOAL_POSITION] == 0x820
    assert six.answers(Request(7, packets.PING)) == []


def test_reading_several_at_once(six: Six) -> None:
    answers = six.ask(sync_read(56, 2, [5, 1, 9, 6]).encoded())
    assert [answer for _, answer in answers] == [
        packet(number, 0, (2000 + number).to_bytes(2, "little")) for number in (5, 1, 6)
    ]
    # 12 bytes of request; then 8 for each answer, also for the one of servo 9, which is silence.
    assert [end for end, _ in answers] == [(12 + 8) * BYTE_NS, (12 + 16) * BYTE_NS, (12 + 32) * BYTE_NS]


def test_writing_several_at_once(six: Six) -> None:
    parameters = bytes((42, 2)) + b"".join(bytes((number, number, 4)) for number in range(1, 7))
    assert six.answers(Request(BROADCAST, packets.SYNC_WRITE, parameters)) == []
    assert [servo.memory[reg.GOAL_POSITION] for servo in six.servos] == [
        0x400 + number for number in range(1, 7)
    ]


def test_a_cycle_takes_what_the_wire_takes(six: Six) -> None:
    goals = bytes((42, 2)) + b"".join(bytes((number, 0, 8)) for number in range(1, 7))
    write = Request(BROADCAST, packets.SYNC_WRITE, goals).encoded()
    for length, total in ((2, 88), (15, 166)):
        answers = six.ask(write + sync_read(56, length, [1, 2, 3, 4, 5, 6]).encoded())
        assert len(answers) == 6
        assert answers[-1][0] == total * BYTE_NS


def test_broadcasts(six: Six) -> None:
    assert six.answers(Request(BROADCAST, packets.PING)) == [packet(number, 0) for number in range(1, 7)]
    assert six.answers(Request(BROADCAST, packets.READ, b"\x38\x02")) == []
    assert six.answers(Request(BROADCAST, packets.WRITE, b"\x29\x09")) == []
    assert {servo.memory[reg.ACCELERATION] for servo in six.servos} == {9}
    assert six.answers(Request(BROADCAST, packets.REG_WRITE, b"\x29\x0a")) == []
    assert {servo.memory[reg.ACCELERATION] for servo in six.servos} == {9}
    assert six.answers(Request(BROADCAST, packets.ACTION)) == []
    assert {servo.memory[reg.ACCELERATION] for servo in six.servos} == {10}


@pytest.mark.parametrize(
    "request_",
    [
        Request(1, 0x77),
        Request(1, packets.READ, b"\x38"),
        Request(1, packets.WRITE, b"\x29"),
        Request(1, packets.REG_WRITE),
        Request(1, packets.ACTION, b"\x00"),
        Request(1, packets.SYNC_READ, b"\x38\x02\x01"),
        Request(1, packets.SYNC_WRITE, b"\x29\x01\x01\x05"),
        Request(BROADCAST, packets.SYNC_READ, b"\x38"),
        Request(BROADCAST, packets.SYNC_WRITE, b"\x29\x01\x01\x05\x02"),
    ],
)
def test_what_makes_no_sense_is_ignored(six: Six, request_: Request) -> None:
    before = [servo.read(0, 56) for servo in six.servos]
    assert six.answers(request_) == []
    assert [servo.read(0, 56) for servo in six.servos] == before


@given(
    st.sampled_from([1, 6, 7, BROADCAST]) | st.integers(0, 254),
    st.sampled_from(INSTRUCTIONS) | st.integers(0, 255),
    st.binary(max_size=3) | st.binary(max_size=40),
)
@settings(max_examples=300)
def test_any_request_is_answered_by_whom_it_names_or_by_nobody(
    servo: int, instruction: int, parameters: bytes
) -> None:
    six = Six()
    for answer in six.answers(Request(servo, instruction, parameters)):
        assert answer[:2] == b"\xff\xff"
        assert answer == packet(answer[2], answer[4], answer[5:-1])
        assert servo in (BROADCAST, answer[2])


def test_a_wrong_checksum_is_not_worth_a_word(six: Six) -> None:
    good = Request(1, packets.PING).encoded()
    assert six.ask(good[:-1] + bytes((good[-1] ^ 1,))) == []
    assert len(six.ask(good)) == 1


def test_response_level_0_answers_ping_and_read_only(six: Six) -> None:
    assert six.answers(Request(2, packets.WRITE, b"\x08\x00")) == []
    assert six.answers(Request(2, packets.WRITE, b"\x29\x07")) == []
    assert six.answers(Request(2, packets.REG_WRITE, b"\x29\x08")) == []
    assert six.answers(Request(2, packets.ACTION)) == []
    assert six.answers(Request(2, packets.READ, b"\x29\x01")) == [packet(2, 0, b"\x08")]
    assert six.answers(Request(2, packets.PING)) == [packet(2, 0)]
    assert len(six.answers(sync_read(56, 2, [1, 2]))) == 2


def test_the_return_delay_is_waited(six: Six) -> None:
    assert six.ask(Request(1, packets.PING).encoded())[0][0] == 12 * BYTE_NS
    six.answers(Request(1, packets.WRITE, bytes((reg.RETURN_DELAY.address, 250))))
    assert six.ask(Request(1, packets.PING).encoded())[0][0] == 12 * BYTE_NS + 500_000


def test_a_new_id_holds_from_the_next_request_on(six: Six) -> None:
    assert six.answers(Request(6, packets.WRITE, bytes((reg.ID.address, 9)))) == [packet(6, 0)]
    assert six.answers(Request(6, packets.PING)) == []
    assert six.answers(Request(9, packets.PING)) == [packet(9, 0)]


def test_servos_of_one_id_speak_at_once(six: Six) -> None:
    six.answers(Request(2, packets.WRITE, bytes((reg.ID.address, 1))))
    assert six.answers(Request(1, packets.PING)) == [packet(1, 0)]
    (mixed,) = six.answers(Request(1, packets.READ, b"\x38\x02"))
    one, two = (packet(1, 0, value.to_bytes(2, "little")) for value in (2001, 2002))
    assert mixed == bytes(a & b for a, b in zip(one, two, strict=True))
    assert mixed not in (one, two)


def test_another_rate_is_not_understood(six: Six) -> None:
    assert six.answers(Request(4, packets.WRITE, bytes((reg.BAUD.address, 4)))) == [packet(4, 0)]
    assert six.answers(Request(4, packets.PING)) == []
    assert len(six.answers(Request(BROADCAST, packets.PING))) == 5
    six.wire.baud = 115_200
    assert six.answers(Request(4, packets.PING)) == [packet(4, 0)]
    assert six.answers(Request(1, packets.PING)) == []
    six.wire.baud = None
    assert len(six.answers(Request(BROADCAST, packets.PING))) == 6


def test_a_loose_cable(six: Six) -> None:
    six.bus.connected[2] = False
    assert six.answers(Request(3, packets.PING)) == []
    answers = six.ask(sync_read(56, 2, [2, 3, 4]).encoded())
    assert [answer[2] for _, answer in answers] == [2, 4]
    assert answers[1][0] - answers[0][0] == 16 * BYTE_NS


def test_the_error_byte_is_in_every_answer(six: Six) -> None:
    servo = six.servos[0]
    servo.faults.overload = True
    servo.write(reg.TORQUE_ENABLE.address, b"\x01")
    servo.step(0.002)
    assert six.answers(Request(1, packets.PING)) == [packet(1, reg.OVERLOAD_ERROR)]
    assert six.answers(sync_read(56, 2, [1]))[0][4] == reg.OVERLOAD_ERROR


def test_a_request_during_an_answer_garbles_it_and_is_lost(six: Six) -> None:
    six.wire.meanwhile = [0, 12]
    answers = six.ask(sync_read(56, 2, [1, 2, 3]).encoded())
    assert answers[0][1] == packet(1, 0, (2001).to_bytes(2, "little"))
    assert len(answers) == 2
    assert b"\xff\xff" not in answers[1][1]
    assert len(answers[1][1]) == 8


def test_a_request_right_behind_one_that_is_answered_collides_too(six: Six) -> None:
    goal = six.servos[1].memory[reg.GOAL_POSITION]
    read = Request(1, packets.READ, b"\x38\x02").encoded()
    write = Request(2, packets.WRITE, b"\x2a\x00\x04").encoded()
    answers = six.ask(read + write)
    assert len(answers) == 1
    assert b"\xff\xff" not in answers[0][1]
    assert six.servos[1].memory[reg.GOAL_POSITION] == goal
    # What nobody answers may be followed at once.
    goals = Request(BROADCAST, packets.SYNC_WRITE, b"\x2a\x02\x02\x00\x04").encoded()
    assert [answer for _, answer in six.ask(goals + read)] == [packet(1, 0, (2001).to_bytes(2, "little"))]


def test_half_a_packet_is_forgotten_when_the_cable_is_pulled(six: Six) -> None:
    ping = Request(1, packets.PING).encoded()
    six.line.answer(ping[:4], 0)
    six.line.forget()
    six.line.answer(ping[4:], 1)
    assert six.wire.delivered == []


def counted(
    six: Six, fault: str, check: Callable[[list[tuple[int, bytes]]], bool], tries: int = 400
) -> float:
    six.plan.add(fault)
    ping = Request(1, packets.PING).encoded()
    return sum(check(six.ask(ping)) for _ in range(tries)) / tries


# Of 400 pings; four standard deviations. Request and answer are hit with 0.2 each: 0.36 of the exchanges fail.
@pytest.mark.parametrize("fault", ["drop", "corrupt"])
def test_packets_are_hit_on_both_ways(six: Six, fault: str) -> None:
    good = packet(1, 0)

    def failed(answers: list[tuple[int, bytes]]) -> bool:
        return [answer for _, answer in answers] != [good]

    assert 0.26 < counted(six, f"{fault} probability=0.2", failed) < 0.46


def test_a_corrupted_packet_has_one_wrong_byte(six: Six) -> None:
    good = packet(1, 0)
    six.plan.add("corrupt probability=0.5")
    ping = Request(1, packets.PING).encoded()
    wrong = [answer for _ in range(200) for _, answer in six.ask(ping) if answer != good]
    assert len(wrong) > 20
    for answer in wrong:
        assert len(answer) == len(good)
        assert sum(a != b for a, b in zip(answer, good, strict=True)) == 1
    assert len({tuple(a != b for a, b in zip(answer, good, strict=True)) for answer in wrong}) == 6


def test_a_corrupted_write_writes_nothing(six: Six) -> None:
    six.plan.add("corrupt probability=1")
    goal = six.servos[0].memory[reg.GOAL_POSITION]
    for _ in range(200):
        six.answers(Request(1, packets.WRITE, b"\x2a\x00\x04"))
    assert six.servos[0].memory[reg.GOAL_POSITION] == goal


def test_late_answers(six: Six) -> None:
    six.plan.add("delay probability=1 seconds=0.005")
    assert six.ask(Request(1, packets.PING).encoded()) == [(12 * BYTE_NS + 5_000_000, packet(1, 0))]


def test_answers_that_come_twice(six: Six) -> None:
    six.plan.add("duplicate probability=1")
    assert six.ask(Request(1, packets.PING).encoded()) == [
        (12 * BYTE_NS, packet(1, 0)),
        (18 * BYTE_NS, packet(1, 0)),
    ]


@given(
    st.integers(0, 1000), st.lists(st.sampled_from(["drop", "corrupt", "duplicate"]), unique=True), st.data()
)
@settings(max_examples=60)
def test_whatever_packets_suffer_times_never_overlap(
    seed: int, faults: list[str], data: st.DataObject
) -> None:
    six = Six(seed)
    for name in faults:
        six.plan.add(f"{name} probability={data.draw(st.floats(0.1, 0.9))}")
    for _ in range(4):
        answers = six.ask(sync_read(56, 15, [1, 2, 3, 4, 5, 6]).encoded())
        before = 14 * BYTE_NS
        for end, answer in answers:
            assert end - len(answer) * BYTE_NS >= before
            before = end
        assert len(answers) <= 12
