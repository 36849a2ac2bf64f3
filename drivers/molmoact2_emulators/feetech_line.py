"""The serial line of Feetech servos: requests from a client's bytes, answers at their time, and what packets suffer.

The line is half duplex. What a client sends before the answers to its last request are over collides with them: the
answer that is on the wire arrives garbled, and what was sent is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_bus import Answer, Bus
from molmoact2_emulators.feetech_packets import SYNC_WRITE, Request, RequestParser
from molmoact2_emulators.feetech_registers import GOAL_POSITION

PACKET_FAULTS: Mapping[str, tuple[str, ...]] = {
    "drop": ("probability",),
    "corrupt": ("probability",),
    "delay": ("probability", "seconds"),
    "duplicate": ("probability",),
}
"""What packets suffer: the first two any, the others those of servos."""


@dataclass
class LineCounts:
    """What became of a client's goals, to be held against what the client believes."""

    goal_writes_heard: int = 0
    """Sync writes of goals that were whole when the client sent them."""
    goal_writes_accepted: int = 0
    """Of these, came to the servos as they were sent."""
    goal_writes_damaged: int = 0
    """Of these, lost by a fault."""
    collisions: int = 0
    """Times that a client spoke while servos did: what it said is lost, and not among those heard."""


class Wire(Protocol):
    """What carries the bytes; see `pty_wire.PtyWire`."""

    def client_baud(self) -> int | None:
        """Return the rate that the client has set."""

    def duration_ns(self, count: int) -> int:
        """Return how long that many bytes take."""

    def wait_for(self, data: bytes, earliest_ns: int = 0) -> int:
        """Wait until the last of these bytes could be there; returns when that is."""

    def discard(self) -> int:
        """Drop what has come in meanwhile; returns how many bytes that were."""

    def deliver(self, data: bytes) -> None:
        """Hand bytes over."""


@dataclass
class ServoLine:
    """From bytes to answers, with what happens to packets on the way."""

    wire: Wire
    bus: Bus
    plan: FaultPlan
    counts: LineCounts = field(default_factory=LineCounts)

    def __post_init__(self) -> None:
        self._from_client = RequestParser()
        self._at_servos = RequestParser()

    def forget(self) -> None:
        """Forget half a packet: the cable was pulled."""
        self.__post_init__()

    def answer(self, data: bytes, heard_ns: int) -> None:
        """Take bytes whose last was on the wire at a time, and send what they cause."""
        baud = self.wire.client_baud()
        for request, following in self._from_client.feed(data, heard_ns):
            sent_ns = heard_ns - self.wire.duration_ns(following)
            whole = self._on_the_way(request, sent_ns)
            self._count(request, whole)
            for received in whole:
                answers = self.bus.handle(received, baud)
                if answers and self._send(answers, sent_ns, collides=following > 0):
                    self.counts.collisions += 1
                    return

    def _count(self, request: Request, received: list[Request]) -> None:
        if request.instruction != SYNC_WRITE or request.parameters[:1] != bytes((GOAL_POSITION.address,)):
            return
        self.counts.goal_writes_heard += 1
        if request in received:
            self.counts.goal_writes_accepted += 1
        else:
            self.counts.goal_writes_damaged += 1

    def _on_the_way(self, request: Request, sent_ns: int) -> list[Request]:
        """Return what the servos receive of a request."""
        if self.plan.strikes("drop") is not None:
            return []
        if self.plan.strikes("corrupt") is not None:
            garbled = self._garbled(request.encoded())
            return [received for received, _ in self._at_servos.feed(garbled, sent_ns)]
        return [request]

    def _send(self, answers: list[Answer], begin_ns: int, collides: bool) -> bool:
        """Send answers one after the other; returns whether something from the client collided with them."""
        wire, plan = self.wire, self.plan
        for answer in answers:
            begin_ns += answer.delay_ns + wire.duration_ns(answer.silent_bytes)
            late = plan.strikes("delay")
            if late is not None:
                begin_ns += round(late["seconds"] * 1e9)
            if plan.strikes("drop") is not None:
                begin_ns += wire.duration_ns(len(answer.data))
                continue
            data = answer.data if plan.strikes("corrupt") is None else self._garbled(answer.data)
            for _ in range(1 if plan.strikes("duplicate") is None else 2):
                begin_ns = wire.wait_for(data, begin_ns)
                collides = wire.discard() > 0 or collides
                wire.deliver(_collided(data) if collides else data)
            if collides:
                return True
        return False

    def _garbled(self, data: bytes) -> bytes:
        """Return a packet with one byte changed."""
        at = self.plan.draw(len(data))
        change = 1 + self.plan.draw(255)
        return data[:at] + bytes((data[at] ^ change,)) + data[at + 1 :]


def _collided(data: bytes) -> bytes:
    """Return what is left of a packet where two spoke: its checksum cannot hold."""
    return bytes(byte & 0x55 for byte in data)
