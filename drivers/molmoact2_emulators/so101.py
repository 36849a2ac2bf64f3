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
import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_line import PACKET_FAULTS, ServoLine
from molmoact2_emulators.feetech_registers import FIRMWARE_MAJOR, FIRMWARE_MINOR
from molmoact2_emulators.feetech_servo import Servo
from molmoact2_emulators.process import add_fault_options, ask_for_punctuality, running
from molmoact2_emulators.pty_wire import PtyWire, SystemClock
from molmoact2_emulators.so101_arm import FAULTS, EmulatedArm, calibrated_servos, stops, unpacked_servos
from molmoact2_emulators.so101_calibration import (
    JOINTS,
    MIDDLE,
    Mounting,
    read_calibration,
    usual_calibration,
    write_calibration,
)
from molmoact2_emulators.so101_exchange import CameraPlan, TablePlan
from molmoact2_emulators.so101_mechanics import LightMechanics, Mechanics
from molmoact2_emulators.so101_table import TableMechanics

BAUD = 1_000_000
_IDLE_S = 0.002
_OTHER_FAULTS = {"unplug": (), "stall": (), "drop_frames": ("probability",)}


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
    if arguments.unpacked and arguments.calibration is not None:
        raise InputError("an arm as shipped has no calibration yet: leave out --calibration or --unpacked")
    plan = FaultPlan({**PACKET_FAULTS, **FAULTS, **_OTHER_FAULTS}, seed=arguments.seed)
    servos, mountings = _servos(arguments)
    table = _table(arguments, mountings) if arguments.table else None
    mechanics: Mechanics = _light(servos, mountings) if table is None else table
    try:
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
            ask_for_punctuality()
            with running(str(wire.path), plan, arguments) as ended:
                _serve(wire, line, arm, plan, table, ended)
            print(f"counts: {json.dumps(asdict(line.counts))}", file=sys.stderr, flush=True)
        finally:
            wire.close()
    finally:
        mechanics.close()
    return 0


def _servos(arguments: argparse.Namespace) -> tuple[list[Servo], list[Mounting]]:
    if arguments.unpacked:
        servos, mountings = unpacked_servos(arguments.seed)
    else:
        calibration = usual_calibration()
        if arguments.calibrated_as is not None:
            calibration = read_calibration(arguments.calibrated_as)
        if arguments.calibration is not None:
            write_calibration(arguments.calibration, calibration)
        servos, mountings = calibrated_servos(calibration)
    for number, major, minor in arguments.firmware:
        servos[number - 1].set_factory(**{FIRMWARE_MAJOR.name: major, FIRMWARE_MINOR.name: minor})
    return servos, mountings


def _table(arguments: argparse.Namespace, mountings: Sequence[Mounting]) -> TableMechanics:
    width, height = arguments.camera_size
    cameras = tuple(
        CameraPlan(role, file, width, height, arguments.camera_rate) for role, file in arguments.camera
    )
    judge = None if arguments.judge is None else str(arguments.judge)
    return TableMechanics(mountings, TablePlan(arguments.seed, cameras, judge))


def _light(servos: Sequence[Servo], mountings: Sequence[Mounting]) -> LightMechanics:
    """Return an arm that stands at the middle of its ranges."""
    for servo, mounting, middle in zip(servos, mountings, MIDDLE, strict=True):
        servo.shaft.position = mounting.ticks(middle)
    return LightMechanics([servo.shaft for servo in servos], stops(mountings))


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
