"""Several emulated Dynamixel servos on one line: who hears a request, who answers it, when, and what goes wrong.

A servo hears nothing that was sent at another rate than its own. Servos with the same id speak at once: the wire
carries the AND of their bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from molmoact2_emulators import dynamixel_packet as wire
from molmoact2_emulators.dynamixel_packet import Request, RequestReader
from molmoact2_emulators.dynamixel_servo import Ailments, Servo
from molmoact2_emulators.faults import FaultPlan

FAULTS: dict[str, tuple[str, ...]] = {
    "drop": ("probability",),
    "corrupt": ("probability",),
    "delay": ("probability", "seconds"),
    "duplicate": ("probability",),
    "unplug": (),
    "absent": ("servo",),
    "only": ("servo",),
    "overload": ("servo",),
    "overtemperature": ("servo", "celsius"),
    "locked": (),
    "power_loss": ("servo",),
    "hand": ("servo", "ticks"),
}
"""Servos go by the ids that they had at the start. A hand turns the shaft of one whose torque is off."""

_PING_SLOT_BYTES = 14  # a servo answers a ping to all in the place that its id gives it
_SILENCE_S = 0.1  # an unfinished request is forgotten after it
_GOAL_POSITION = (116).to_bytes(2, "little")


class Wire(Protocol):
    """The device's end of a serial line: see ``PtyWire``."""

    def client_baud(self) -> int | None:
        """Return the rate that the client has set; None where the system does not tell."""

    def duration_ns(self, count: int) -> int:
        """Return how long that many bytes take."""

    def receive(self, timeout_s: float) -> tuple[bytes, int]:
        """Wait for bytes; returns them and when the last was on the wire, monotonic ns."""

    def send(self, data: bytes, earliest_ns: int = 0) -> int:
        """Deliver bytes, not beginning before that time; returns when the last was on the wire."""


@dataclass
class LineCounters:
    """What has been on the line, to be held against what a client believes."""

    requests: int = 0
    unheard: int = 0
    """Requests that a fault damaged or dropped."""
    goal_writes_heard: int = 0
    """Sync writes of goal positions that were whole when the client sent them."""
    goal_writes_accepted: int = 0
    """Of these, came to the servos."""


class Line:
    """The servos' side of a wire."""

    def __init__(self, port: Wire, servos: Iterable[Servo], plan: FaultPlan) -> None:
        self._wire = port
        self._servos = list(servos)
        self._plan = plan
        self._client_baud: int | None = None
        self._reader = RequestReader()
        self._last_byte_ns = 0
        self._without_power: set[int] = set()
        self.counters = LineCounters()

    def attend(self, timeout_s: float) -> None:
        """Wait for bytes at most so long, and answer what is whole."""
        data, end_ns = self._wire.receive(timeout_s)
        if not data:
            if time.monotonic_ns() - self._last_byte_ns > _SILENCE_S * 1e9:
                self._reader.forget()
            self._suffer(time.monotonic_ns())
            return
        self._last_byte_ns = end_ns
        self._client_baud = self._wire.client_baud()
        for request in self._reader.feed(data):
            goals = request.instruction == wire.SYNC_WRITE and request.parameters[:2] == _GOAL_POSITION
            self.counters.requests += 1
            self.counters.goal_writes_heard += goals
            if self._plan.strikes("drop") or self._plan.strikes("corrupt"):
                self.counters.unheard += 1
                continue
            self.counters.goal_writes_accepted += goals
            self._suffer(end_ns)
            for servo in self._present():
                servo.hear(end_ns * 1e-9)
            self._carry_out(request, end_ns)

    # --- who is there ---

    def _suffer(self, now_ns: int) -> None:
        now_s = now_ns * 1e-9
        lost = {fault.integer("servo") for fault in self._plan.active("power_loss")}
        heat = {fault.integer("servo"): fault["celsius"] for fault in self._plan.active("overtemperature")}
        hands = {fault.integer("servo"): fault["ticks"] for fault in self._plan.active("hand")}
        for servo in self._servos:
            servo.ailments = Ailments(
                overload=self._plan.on("overload", servo=servo.number),
                celsius=heat.get(servo.number),
                locked=self._plan.on("locked"),
                hand=hands.get(servo.number),
            )
            if servo.number in self._without_power - lost:
                servo.reboot(now_s)
            servo.advance(now_s)
        self._without_power = lost

    def _present(self) -> list[Servo]:
        """Return who hears what the client has just sent."""
        now_s = time.monotonic()
        only = {fault.integer("servo") for fault in self._plan.active("only")}
        return [
            servo
            for servo in self._servos
            if servo.answers(now_s)
            and self._client_baud in (None, servo.baud)
            and (not only or servo.number in only)
            and servo.number not in self._without_power
            and not self._plan.on("absent", servo=servo.number)
        ]

    def _present_by_id(self) -> dict[int, list[Servo]]:
        found: dict[int, list[Servo]] = {}
        for servo in self._present():
            found.setdefault(servo["ID"], []).append(servo)
        return found

    # --- what is asked ---

    def _carry_out(self, request: Request, end_ns: int) -> None:
        if request.instruction in (wire.SYNC_READ, wire.FAST_SYNC_READ):
            self._sync_read(request, end_ns)
        elif request.instruction in (wire.BULK_READ, wire.FAST_BULK_READ):
            self._bulk_read(request, end_ns)
        elif request.instruction == wire.SYNC_WRITE:
            self._sync_write(request.parameters)
        elif request.instruction == wire.BULK_WRITE:
            self._bulk_write(request.parameters)
        elif request.servo == wire.BROADCAST:
            self._to_all(request, end_ns)
        else:
            self._to_one(request, end_ns)

    def _to_all(self, request: Request, end_ns: int) -> None:
        if request.instruction != wire.PING:
            for servo in self._present():
                self._instruct(servo, request, end_ns)
            return
        for servo_id, servos in sorted(self._present_by_id().items()):
            slot_ns = self._wire.duration_ns(servo_id * _PING_SLOT_BYTES)
            said = [(servo, self._status(servo, servo_id, 0, self._identity(servo))) for servo in servos]
            self._answer(said, end_ns + slot_ns)

    def _to_one(self, request: Request, end_ns: int) -> None:
        said: list[tuple[Servo, bytes]] = []
        present = self._present()
        named = [servo for servo in present if servo["ID"] == request.servo]
        for servo in present:
            if servo in named:
                error, data = self._instruct(servo, request, end_ns)
                level = servo["Status Return Level"]
                asked = request.instruction == wire.PING or (level >= 1 and request.instruction == wire.READ)
                if level >= 2 or asked:
                    # A new id holds from the next request on: this answer still comes from the old one.
                    said.append((servo, self._status(servo, request.servo, error, data)))
            elif servo["Secondary(Shadow) ID"] == request.servo and request.servo < 253:
                self._instruct(servo, request, end_ns)
        self._answer(said, end_ns)
        if request.instruction == wire.REBOOT:
            for servo in named:
                servo.reboot(end_ns * 1e-9)

    @staticmethod
    def _identity(servo: Servo) -> bytes:
        return servo["Model Number"].to_bytes(2, "little") + bytes([servo["Firmware Version"]])

    def _instruct(self, servo: Servo, request: Request, end_ns: int) -> tuple[int, bytes]:
        """Have one servo carry out what concerns it alone; returns an error number and what it says."""
        parameters = request.parameters
        address = int.from_bytes(parameters[:2], "little")
        if request.instruction == wire.PING:
            return 0, self._identity(servo)
        if request.instruction == wire.READ:
            if len(parameters) != 4:
                return wire.DATA_LENGTH, b""
            return servo.read(address, int.from_bytes(parameters[2:], "little"))
        if request.instruction in (wire.WRITE, wire.REG_WRITE):
            if len(parameters) < 3:
                return wire.DATA_LENGTH, b""
            take = servo.write if request.instruction == wire.WRITE else servo.register_write
            return take(address, parameters[2:]), b""
        if request.instruction == wire.ACTION:
            servo.action()
            return 0, b""
        if request.instruction == wire.REBOOT:
            if request.servo == wire.BROADCAST:
                servo.reboot(end_ns * 1e-9)
            return 0, b""
        if request.instruction == wire.FACTORY_RESET:
            # To everybody it would give all of them the same id.
            if request.servo == wire.BROADCAST and parameters[:1] == b"\xff":
                return wire.RESULT_FAIL, b""
            return servo.factory_reset(parameters[0] if parameters else 0xFF, end_ns * 1e-9), b""
        if request.instruction == wire.CLEAR:
            return (servo.clear_turns() if parameters == b"\x01DXL\x22" else wire.DATA_RANGE), b""
        return wire.INSTRUCTION_ERROR, b""

    def _sync_read(self, request: Request, end_ns: int) -> None:
        parameters = request.parameters
        if request.servo != wire.BROADCAST or len(parameters) < 5:
            return
        address = int.from_bytes(parameters[:2], "little")
        size = int.from_bytes(parameters[2:4], "little")
        wanted = [(servo, address, size) for servo in parameters[4:]]
        self._read_many(wanted, request.instruction == wire.FAST_SYNC_READ, end_ns)

    def _bulk_read(self, request: Request, end_ns: int) -> None:
        parameters = request.parameters
        if request.servo != wire.BROADCAST or not parameters or len(parameters) % 5:
            return
        wanted = [
            (
                parameters[at],
                int.from_bytes(parameters[at + 1 : at + 3], "little"),
                int.from_bytes(parameters[at + 3 : at + 5], "little"),
            )
            for at in range(0, len(parameters), 5)
        ]
        self._read_many(wanted, request.instruction == wire.FAST_BULK_READ, end_ns)

    def _read_many(self, wanted: list[tuple[int, int, int]], fast: bool, end_ns: int) -> None:
        """Each answers once it has heard the one before it: where one is missing, those behind it are silent."""
        parts: list[list[tuple[Servo, int, bytes]]] = []
        present = self._present_by_id()
        for servo_id, address, size in wanted:
            servos = [
                servo
                for servo in present.get(servo_id, ())
                if servo["Status Return Level"] > 0 and (servo.model.fast_reads or not fast)
            ]
            if not servos:
                break
            read = [(servo, *servo.read(address, size)) for servo in servos]
            if fast:
                parts.append(read)
            else:
                end_ns = self._answer(
                    [(servo, self._status(servo, servo_id, error, data)) for servo, error, data in read],
                    end_ns,
                )
        if parts:
            self._answer(self._combined(parts, [size for _, _, size in wanted]), end_ns)

    @staticmethod
    def _combined(
        parts: Sequence[Sequence[tuple[Servo, int, bytes]]], sizes: list[int]
    ) -> list[tuple[Servo, bytes]]:
        """Return the one packet of several servos, once for each of those that share an id."""
        said = []
        for voice in range(max(len(servos) for servos in parts)):
            heard = [servos[min(voice, len(servos) - 1)] for servos in parts]
            packet = wire.combined_status(
                [
                    (servo["ID"], error | servo.alert, data.ljust(size, b"\0"))
                    for (servo, error, data), size in zip(heard, sizes, strict=False)
                ],
                sizes,
            )
            said.append((heard[0][0], packet))
        return said

    def _sync_write(self, parameters: bytes) -> None:
        size = int.from_bytes(parameters[2:4], "little")
        entries = parameters[4:]
        if len(parameters) < 4 or size == 0 or len(entries) % (size + 1):
            return
        address = int.from_bytes(parameters[:2], "little")
        present = self._present_by_id()
        for at in range(0, len(entries), size + 1):
            for servo in present.get(entries[at], ()):
                servo.write(address, entries[at + 1 : at + 1 + size])

    def _bulk_write(self, parameters: bytes) -> None:
        at = 0
        present = self._present_by_id()
        while at + 5 <= len(parameters):
            address = int.from_bytes(parameters[at + 1 : at + 3], "little")
            size = int.from_bytes(parameters[at + 3 : at + 5], "little")
            data = parameters[at + 5 : at + 5 + size]
            if len(data) == size:
                for servo in present.get(parameters[at], ()):
                    servo.write(address, data)
            at += 5 + size

    # --- answers ---

    @staticmethod
    def _status(servo: Servo, servo_id: int, error: int, data: bytes) -> bytes:
        return wire.status(servo_id, error | servo.alert, b"" if error else data)

    def _answer(self, said: Sequence[tuple[Servo, bytes]], earliest_ns: int) -> int:
        """Send what servos say at the same time; returns when the wire is free again."""
        if not said:
            return earliest_ns
        packet = _at_once([packet for _, packet in said])
        earliest_ns += round(min(servo.return_delay_s for servo, _ in said) * 1e9)
        delayed = self._plan.strikes("delay")
        if delayed is not None:
            earliest_ns += round(delayed["seconds"] * 1e9)
        if self._plan.strikes("drop"):
            return earliest_ns + self._wire.duration_ns(len(packet))
        if self._plan.strikes("corrupt"):
            hit = self._plan.draw(len(packet))
            flipped = packet[hit] ^ (1 + self._plan.draw(255))
            packet = packet[:hit] + bytes([flipped]) + packet[hit + 1 :]
        end_ns = self._wire.send(packet, earliest_ns)
        if self._plan.strikes("duplicate"):
            end_ns = self._wire.send(packet, end_ns)
        return end_ns


def _at_once(packets: Sequence[bytes]) -> bytes:
    """Return what the wire carries when several servos speak at the same time: a 0 wins over a 1."""
    length = max(len(packet) for packet in packets)
    mixed = b"\xff" * length
    for packet in packets:
        mixed = bytes(a & b for a, b in zip(mixed, packet.ljust(length, b"\xff"), strict=True))
    return mixed
