"""``molmoact2-edge emulate so101``: six Feetech STS3215 on a serial line, believed by their real clients.

The first line on standard output is the path of the serial device. Its answers leave when the wire at the client's baud
rate would have them; a servo hears a client only at its own rate (register 6, 1,000,000 as shipped).

The line is half duplex. What a client sends before the answers to its last request are over collides with them: the
answer that is on the wire arrives garbled, and what was sent is lost.

Faults that hit packets: ``drop`` and ``corrupt`` any, ``delay`` and ``duplicate`` those of servos. ``unplug`` pulls the
cable to the computer while it lasts; the servos keep their power, ``power_loss`` takes it from them. What else can
happen to the arm is in :mod:`.so101_arm`, the judge's socket in :mod:`.so101_judge`; ``stall`` and ``drop_frames`` are
the cameras'.
"""

from __future__ import annotations

import argparse
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_bus import Answer, Bus
from molmoact2_emulators.feetech_packets import Request, RequestParser
from molmoact2_emulators.feetech_registers import FIRMWARE_MAJOR, FIRMWARE_MINOR
from molmoact2_emulators.process import add_fault_options, ask_for_punctuality, running
from molmoact2_emulators.pty_wire import PtyWire, SystemClock
from molmoact2_emulators.so101_arm import FAULTS, EmulatedArm, calibrated_servos, stops, unpacked_servos
from molmoact2_emulators.so101_calibration import (
    JOINTS,
    read_calibration,
    usual_calibration,
    write_calibration,
)
from molmoact2_emulators.so101_exchange import CameraPlan, TablePlan
from molmoact2_emulators.so101_mechanics import LightMechanics, Mechanics
from molmoact2_emulators.so101_table import TableMechanics

BAUD = 1_000_000
_IDLE_S = 0.002
_WIRE_FAULTS = {
    "drop": ("probability",),
    "corrupt": ("probability",),
    "delay": ("probability", "seconds"),
    "duplicate": ("probability",),
    "unplug": (),
}
_CAMERA_FAULTS = {"stall": (), "drop_frames": ("probability",)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the emulator's options."""
    wire = parser.add_argument_group("serial line")
    wire.add_argument("--name", default="so101", help="of the device (default: %(default)s)")
    wire.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the device lies (default: a new temporary one)"
    )
    wire.add_argument(
        "--unpaced", action="store_true", help="answer as fast as possible, whatever the baud rate"
    )
    wire.add_argument(
        "--busy", action="store_true", help="look for requests all the time: exact timing, costs a processor"
    )
    arm = parser.add_argument_group("arm")
    arm.add_argument(
        "--firmware",
        action="append",
        default=[],
        type=_firmware,
        metavar="SERVO=MAJOR.MINOR",
        help="of one servo (default: 3.10); may be given several times",
    )
    arm.add_argument(
        "--calibration", type=Path, metavar="FILE", help="write the arm's calibration, in LeRobot's format"
    )
    build = arm.add_mutually_exclusive_group()
    build.add_argument(
        "--calibrated-as", type=Path, metavar="FILE", help="be an arm with this calibration of LeRobot's"
    )
    build.add_argument(
        "--unpacked", action="store_true", help="be six servos as shipped, all id 1, put together by hand"
    )
    table = parser.add_argument_group("simulated table")
    table.add_argument(
        "--table", action="store_true", help="move the arm in the simulated table; --seed draws the scene"
    )
    table.add_argument(
        "--camera",
        action="append",
        default=[],
        type=_camera,
        metavar="ROLE=FILE",
        help="write the pictures of camera front or wrist to a frame file; may be given several times",
    )
    table.add_argument(
        "--camera-size", default=(640, 480), type=_size, metavar="WxH", help="in pixels (default: 640x480)"
    )
    table.add_argument(
        "--camera-rate", default=30.0, type=float, metavar="HZ", help="frames a second (default: %(default)g)"
    )
    table.add_argument(
        "--judge", type=Path, metavar="SOCKET", help="draw scenes and judge the task on this unix socket"
    )
    add_fault_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until asked to end."""
    if not arguments.table and (arguments.camera or arguments.judge):
        raise InputError("--camera and --judge are of the simulated table: give --table, too")
    plan = FaultPlan({**_WIRE_FAULTS, **FAULTS, **_CAMERA_FAULTS}, seed=arguments.seed)
    calibration = usual_calibration()
    if arguments.calibrated_as is not None:
        calibration = read_calibration(arguments.calibrated_as)
    if arguments.unpacked:
        if arguments.calibration is not None:
            raise InputError(
                "an arm as shipped has no calibration yet: leave out --calibration or --unpacked"
            )
        servos, mountings = unpacked_servos(arguments.seed)
    else:
        servos, mountings = calibrated_servos(calibration)
    for number, major, minor in arguments.firmware:
        servos[number - 1].set_factory(**{FIRMWARE_MAJOR.name: major, FIRMWARE_MINOR.name: minor})
    mechanics: Mechanics
    table: TableMechanics | None = None
    if arguments.table:
        cameras = tuple(
            CameraPlan(role, file, *arguments.camera_size, arguments.camera_rate)
            for role, file in arguments.camera
        )
        judge = None if arguments.judge is None else str(arguments.judge)
        mechanics = table = TableMechanics(mountings, TablePlan(arguments.seed, cameras, judge))
    else:
        for servo, mounting in zip(servos, mountings, strict=True):
            servo.shaft.position = mounting.ticks(50.0 if mounting is mountings[-1] else 0.0)
        mechanics = LightMechanics([servo.shaft for servo in servos], stops(mountings))
    try:
        if arguments.calibration is not None:
            write_calibration(arguments.calibration, calibration)
        clock = SystemClock()
        arm = EmulatedArm(servos, mountings, mechanics, plan, clock.now_ns())
        wire = PtyWire(
            arguments.name,
            None if arguments.unpaced else BAUD,
            arguments.directory,
            clock=clock,
            follow_client=True,
            busy=arguments.busy,
        )
        try:
            line = ServoLine(wire, arm.bus, plan)
            with running(str(wire.path), plan, arguments) as ended:
                ask_for_punctuality()
                _serve(wire, line, arm, plan, table, ended)
        finally:
            wire.close()
    finally:
        mechanics.close()
    return 0


def _serve(
    wire: PtyWire,
    line: ServoLine,
    arm: EmulatedArm,
    plan: FaultPlan,
    table: TableMechanics | None,
    ended: threading.Event,
) -> None:
    def look() -> None:
        if plan.on("unplug") == wire.plugged:
            line.forget()
            if wire.plugged:
                wire.unplug()
            else:
                wire.plug()
        if table is not None:
            table.stalled = plan.on("stall")
            table.drop_probability = max(
                (fault["probability"] for fault in plan.active("drop_frames")), default=0.0
            )

    clock = SystemClock()
    while not ended.is_set():
        data, heard_ns = wire.receive(_IDLE_S)
        if data:
            line.answer(data, heard_ns)
        # Afterwards, so that answers need not wait for it: what they tell is at most an idle wait old.
        arm.advance(clock.now_ns(), look)


@dataclass
class ServoLine:
    """From bytes to answers, with what happens to packets on the way."""

    wire: PtyWire
    bus: Bus
    plan: FaultPlan

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
            for received in self._on_the_way(request, sent_ns):
                answers = self.bus.handle(received, baud)
                if answers and self._send(answers, sent_ns, collides=following > 0):
                    return

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


def _firmware(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([1-6])=(\d{1,3})\.(\d{1,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected SERVO=MAJOR.MINOR with a servo from 1 to {len(JOINTS)}, got {text!r}"
        )
    number, major, minor = (int(group) for group in match.groups())
    if max(major, minor) > 255:
        raise argparse.ArgumentTypeError(f"a version's numbers are at most 255, got {text!r}")
    return number, major, minor


def _camera(text: str) -> tuple[str, str]:
    role, equals, file = text.partition("=")
    if role not in ("front", "wrist") or not equals or not file:
        raise argparse.ArgumentTypeError(f"expected front=FILE or wrist=FILE, got {text!r}")
    return role, file


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text!r}")
    return int(match[1]), int(match[2])
