"""Servos on one half-duplex line: who answers what, in which order, and after how long.

Unless told otherwise by a source, the line works like this:

- Only PING and SYNC_READ may be broadcast for an answer. A broadcast PING is answered in the order of the ids; in a
  SYNC_READ a servo that says nothing leaves the wire silent for as long as its answer would have taken.
- Servos with the same id speak at once: the wire carries the AND of their bits.
- A servo hears nothing that was sent at another rate than its own.
- Unknown instructions, and requests with parameters of the wrong length, are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from molmoact2_emulators import feetech_packets as packets
from molmoact2_emulators.feetech_packets import BROADCAST, OVERHEAD, Request
from molmoact2_emulators.feetech_servo import Servo


@dataclass(frozen=True)
class Answer:
    """One packet from a servo."""

    data: bytes
    delay_ns: int = 0
    """The servo's own pause, from the end of what was on the wire before."""
    silent_bytes: int = 0
    """Bytes' times of silence before it, left by servos that are not there."""


class Bus:
    """The line with its servos. ``connected[i]`` says whether servo ``i`` hears anything."""

    def __init__(self, servos: Sequence[Servo]) -> None:
        self.servos = tuple(servos)
        self.connected = [True] * len(self.servos)

    def handle(self, request: Request, baud: int | None = None) -> list[Answer]:
        """Do what a request asks; returns the answers in their order. ``baud`` None reaches every servo."""
        listening = [
            servo
            for servo, connected in zip(self.servos, self.connected, strict=True)
            if connected and (baud is None or servo.baud == baud)
        ]
        if request.instruction == packets.SYNC_WRITE:
            self._sync_write(request, listening)
            return []
        if request.instruction == packets.SYNC_READ:
            return self._sync_read(request, listening)
        if request.id == BROADCAST:
            return self._broadcast(request, listening)
        answers = [
            answer
            for servo in listening
            if servo.id == request.id
            if (answer := _unicast(servo, request)) is not None
        ]
        return [_at_once(answers)] if answers else []

    def _sync_write(self, request: Request, listening: Iterable[Servo]) -> None:
        if request.id != BROADCAST:
            return
        by_id = _by_id(listening)
        for servo_id, address, data in packets.sync_writes(request.parameters):
            for servo in by_id.get(servo_id, ()):
                servo.write(address, data)

    def _sync_read(self, request: Request, listening: Iterable[Servo]) -> list[Answer]:
        if request.id != BROADCAST or len(request.parameters) < 2:
            return []
        address, length = request.parameters[:2]
        by_id = _by_id(listening)
        answers = []
        silent_bytes = 0
        for servo_id in request.parameters[2:]:
            servos = by_id.get(servo_id)
            if not servos:
                silent_bytes += OVERHEAD + length
                continue
            together = _at_once([_answer(servo, servo_id, servo.read(address, length)) for servo in servos])
            answers.append(Answer(together.data, together.delay_ns, silent_bytes))
            silent_bytes = 0
        return answers

    def _broadcast(self, request: Request, listening: Iterable[Servo]) -> list[Answer]:
        if request.instruction == packets.PING:
            by_id = _by_id(listening)
            return [_at_once([_answer(servo, key) for servo in by_id[key]]) for key in sorted(by_id)]
        if request.instruction != packets.READ:
            for servo in listening:
                _unicast(servo, request)
        return []


def _by_id(servos: Iterable[Servo]) -> dict[int, list[Servo]]:
    found: dict[int, list[Servo]] = {}
    for servo in servos:
        found.setdefault(servo.id, []).append(servo)
    return found


def _answer(servo: Servo, servo_id: int, data: bytes = b"") -> Answer:
    return Answer(packets.packet(servo_id, servo.error, data), servo.return_delay_ns)


def _unicast(servo: Servo, request: Request) -> Answer | None:
    """Do a request that names this servo, or all; returns what it answers where it was named."""
    parameters = request.parameters
    # A new id holds from the next request on: the answer still comes from the old one.
    servo_id = servo.id
    match request.instruction:
        case packets.PING:
            return _answer(servo, servo_id)
        case packets.READ if len(parameters) == 2:
            return _answer(servo, servo_id, servo.read(parameters[0], parameters[1]))
        case packets.WRITE if len(parameters) >= 2:
            servo.write(parameters[0], parameters[1:])
        case packets.REG_WRITE if len(parameters) >= 2:
            servo.hold_write(parameters[0], parameters[1:])
        case packets.ACTION if not parameters:
            servo.release_write()
        case _:
            return None
    return _answer(servo, servo_id) if servo.answers_writes else None


def _at_once(answers: Sequence[Answer]) -> Answer:
    """Return what the wire carries when several servos speak at the same time: a 0 wins over a 1."""
    if len(answers) == 1:
        return answers[0]
    length = max(len(answer.data) for answer in answers)
    mixed = bytes(length)
    for number, answer in enumerate(answers):
        data = answer.data.ljust(length, b"\xff")
        mixed = data if number == 0 else bytes(a & b for a, b in zip(mixed, data, strict=True))
    return Answer(mixed, min(answer.delay_ns for answer in answers))
