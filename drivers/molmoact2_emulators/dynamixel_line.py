"""Several emulated Dynamixel servos on one line: who hears a request, who answers it, when, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable
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
    "overload": ("servo",),
    "overtemperature": ("servo", "celsius"),
    "locked": (),
    "power_loss": ("servo",),
}

_PING_SLOT_BYTES = 14  # a servo answers a ping to all in the place that its id gives it
_SILENCE_S = 0.1  # an unfinished request is forgotten after it


class Wire(Protocol):
    """The device's end of a serial line: see ``PtyWire``."""

    def receive(self, timeout_s: float) -> tuple[bytes, int]:
        """Wait for bytes; returns them and when the last was on the wire, monotonic ns."""

    def send(self, data: bytes, earliest_ns: int = 0) -> int:
        """Deliver bytes, not beginning before that time; returns when the last was on the wire."""


@dataclass
class LineCounters:
    """What has been on the line; for tests that count losses."""

    requests: int = 0
    unheard: int = 0
    """Requests that a fault damaged or dropped."""


class Line:
    """The servos' side of a wire."""

    def __init__(self, port: Wire, servos: Iterable[Servo], plan: FaultPlan, baud: int) -> None:
        self._wire = port
        self._servos = list(servos)
        self._plan = plan
        self._ns_per_byte = 10e9 / baud
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
        for request in self._reader.feed(data):
            self.counters.requests += 1
            if self._plan.strikes("drop") or self._plan.strikes("corrupt"):
                self.counters.unheard += 1
                continue
            self._suffer(end_ns)
            for servo in self._present():
                servo.hear(end_ns * 1e-9)
            self._carry_out(request, end_ns)

    # --- who is there ---

    def _suffer(self, now_ns: int) -> None:
        now_s = now_ns * 1e-9
        lost = {fault.integer("servo") for fault in self._plan.active("power_loss")}
        for servo in self._servos:
            servo_id = servo["ID"]
            hot = [
                fault["celsius"]
                for fault in self._plan.active("overtemperature")
                if fault["servo"] == servo_id
            ]
            servo.ailments = Ailments(
                overload=self._plan.on("overload", servo=servo_id),
                celsius=hot[-1] if hot else None,
                locked=self._plan.on("locked"),
            )
            if servo_id in self._without_power - lost:
                servo.reboot(now_s)
            servo.advance(now_s)
        self._without_power = lost

    def _present(self) -> list[Servo]:
        now_s = time.monotonic()
        return [
            servo
            for servo in self._servos
            if servo.answers(now_s)
            and servo["ID"] not in self._without_power
            and not self._plan.on("absent", servo=servo["ID"])
        ]

    def _find(self, servo_id: int) -> Servo | None:
        return next((servo for servo in self._present() if servo["ID"] == servo_id), None)

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
        for servo in sorted(self._present(), key=lambda servo: servo["ID"]):
            if request.instruction == wire.PING:
                slot_ns = round(servo["ID"] * _PING_SLOT_BYTES * self._ns_per_byte)
                self._answer(servo, self._status(servo, 0, self._identity(servo)), end_ns + slot_ns)
            else:
                self._instruct(servo, request, end_ns)

    def _to_one(self, request: Request, end_ns: int) -> None:
        for servo in self._present():
            if servo["ID"] == request.servo:
                error, data = self._instruct(servo, request, end_ns)
                level = servo["Status Return Level"]
                asked = request.instruction == wire.PING or (level >= 1 and request.instruction == wire.READ)
                if level >= 2 or asked:
                    self._answer(servo, self._status(servo, error, data), end_ns)
                if request.instruction == wire.REBOOT:
                    servo.reboot(end_ns * 1e-9)
            elif servo["Secondary(Shadow) ID"] == request.servo and request.servo < 253:
                self._instruct(servo, request, end_ns)

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
        parts: list[tuple[int, int, bytes]] = []
        first: Servo | None = None
        for servo_id, address, size in wanted:
            servo = self._find(servo_id)
            if servo is None or servo["Status Return Level"] == 0 or (fast and not servo.model.fast_reads):
                break
            first = first or servo
            error, data = servo.read(address, size)
            if fast:
                parts.append((servo_id, error | servo.alert, data.ljust(size, b"\0")))
            else:
                end_ns = self._answer(servo, self._status(servo, error, data), end_ns)
        if first is not None and fast:
            self._answer(first, wire.combined_status(parts, [size for _, _, size in wanted]), end_ns)

    def _sync_write(self, parameters: bytes) -> None:
        size = int.from_bytes(parameters[2:4], "little")
        entries = parameters[4:]
        if len(parameters) < 4 or size == 0 or len(entries) % (size + 1):
            return
        address = int.from_bytes(parameters[:2], "little")
        for at in range(0, len(entries), size + 1):
            servo = self._find(entries[at])
            if servo is not None:
                servo.write(address, entries[at + 1 : at + 1 + size])

    def _bulk_write(self, parameters: bytes) -> None:
        at = 0
        while at + 5 <= len(parameters):
            address = int.from_bytes(parameters[at + 1 : at + 3], "little")
            size = int.from_bytes(parameters[at + 3 : at + 5], "little")
            data = parameters[at + 5 : at + 5 + size]
            servo = self._find(parameters[at])
            if servo is not None and len(data) == size:
                servo.write(address, data)
            at += 5 + size

    # --- answers ---

    @staticmethod
    def _status(servo: Servo, error: int, data: bytes) -> bytes:
        return wire.status(servo["ID"], error | servo.alert, b"" if error else data)

    def _answer(self, servo: Servo, packet: bytes, earliest_ns: int) -> int:
        earliest_ns += round(servo.return_delay_s * 1e9)
        delayed = self._plan.strikes("delay")
        if delayed is not None:
            earliest_ns += round(delayed["seconds"] * 1e9)
        if self._plan.strikes("drop"):
            return earliest_ns + round(len(packet) * self._ns_per_byte)
        if self._plan.strikes("corrupt"):
            hit = self._plan.draw(len(packet))
            flipped = packet[hit] ^ (1 + self._plan.draw(255))
            packet = packet[:hit] + bytes([flipped]) + packet[hit + 1 :]
        end_ns = self._wire.send(packet, earliest_ns)
        if self._plan.strikes("duplicate"):
            end_ns = self._wire.send(packet, end_ns)
        return end_ns
