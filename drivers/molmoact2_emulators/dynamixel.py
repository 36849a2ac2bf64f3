"""``molmoact2-edge emulate dynamixel``: X-series servos on a serial line, as a Koch arm has them."""

from __future__ import annotations

import argparse
import time

from molmoact2_edge.errors import InputError
from molmoact2_emulators.dynamixel_line import FAULTS, Line
from molmoact2_emulators.dynamixel_servo import TICKS_PER_TURN, Servo
from molmoact2_emulators.dynamixel_table import MODELS
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.process import add_fault_options, running
from molmoact2_emulators.pty_wire import PtyWire

_KOCH = "1:xl430-w250,2:xl430-w250,3:xl330-m288,4:xl330-m288,5:xl330-m288,6:xl330-m288"
_LOOK_S = 0.01  # how often faults and motors are looked after while nobody speaks


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this emulator's options."""
    parser.add_argument(
        "--servos",
        default=_KOCH,
        metavar="ID:MODEL[:POSITION],...",
        help=f"who is on the line (default: a Koch arm); models: {', '.join(MODELS)}",
    )
    parser.add_argument("--baud", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--unpaced", action="store_true", help="deliver bytes at once instead of at the baud rate"
    )
    add_fault_options(parser)


def parse_servos(text: str, now_s: float) -> list[Servo]:
    """Make the servos that ``ID:MODEL[:POSITION],...`` names; positions in ticks, the middle by default.

    Raises:
        InputError: an entry is not of that form, the model unknown, or an id taken.
    """
    servos: dict[int, Servo] = {}
    for entry in text.split(","):
        servo, _, rest = entry.strip().partition(":")
        name, _, position = rest.partition(":")
        if name not in MODELS:
            raise InputError(
                f"servos: {entry!r}: expected ID:MODEL[:POSITION], MODEL one of {', '.join(MODELS)}"
            )
        try:
            servo_id, ticks = int(servo), int(position or TICKS_PER_TURN // 2)
        except ValueError as error:
            raise InputError(f"servos: {entry!r}: id and position are whole numbers") from error
        if not 0 <= servo_id <= 252 or servo_id in servos:
            raise InputError(f"servos: {entry!r}: ids are different numbers from 0 to 252")
        servos[servo_id] = Servo(MODELS[name], servo_id, ticks, now_s)
    return list(servos.values())


def run(arguments: argparse.Namespace) -> int:
    """Emulate until asked to end; returns the exit code."""
    if arguments.baud <= 0:
        raise InputError(f"baud must be above 0, got {arguments.baud}")
    plan = FaultPlan(FAULTS, seed=arguments.seed)
    servos = parse_servos(arguments.servos, time.monotonic())
    wire = PtyWire("ttyDYNAMIXEL", None if arguments.unpaced else arguments.baud)
    line = Line(wire, servos, plan, arguments.baud)
    try:
        with running(str(wire.path), plan, arguments) as ended:
            while not ended.is_set():
                if plan.on("unplug"):
                    wire.unplug()
                else:
                    wire.plug()
                line.attend(_LOOK_S)
    finally:
        wire.close()
    return 0
