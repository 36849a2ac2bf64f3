"""``molmoact2-edge emulate dynamixel``: X-series servos on a serial line, as a Koch arm has them.

The first line on standard output is the path of the serial device. Its answers leave when the wire at the client's baud
rate would have them; a servo hears a client only at its own rate (address 8).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict

from molmoact2_edge.errors import InputError
from molmoact2_emulators.dynamixel_line import FAULTS, Line
from molmoact2_emulators.dynamixel_servo import TICKS_PER_TURN, Servo
from molmoact2_emulators.dynamixel_table import BAUDS, MODELS, SHIPPED_BAUD, SHIPPED_ID
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.process import add_fault_options, ask_for_punctuality, running
from molmoact2_emulators.pty_wire import PtyWire

_KOCH = "1:xl430-w250,2:xl430-w250,3:xl330-m288,4:xl330-m288,5:xl330-m288,6:xl330-m288"
_BAUD = 1_000_000
_HORN_SLACK = 400  # ticks by which a horn is mounted beside the middle
_LOOK_S = 0.01  # how often faults and motors are looked after while nobody speaks


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this emulator's options."""
    parser.add_argument(
        "--servos",
        default=_KOCH,
        metavar="ID:MODEL[:POSITION],...",
        help=f"who is on the line (default: a Koch arm); models: {', '.join(MODELS)}",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--baud",
        type=int,
        default=_BAUD,
        metavar="N",
        help="that the servos are set to (default: %(default)s)",
    )
    rate.add_argument(
        "--unpacked",
        action="store_true",
        help=f"be servos as shipped, all id {SHIPPED_ID} at {SHIPPED_BAUD} baud, put together by hand; faults name "
        "them by the ids of --servos",
    )
    parser.add_argument(
        "--unpaced", action="store_true", help="deliver bytes at once instead of at the baud rate"
    )
    add_fault_options(parser)


def parse_servos(text: str, now_s: float, baud: int = _BAUD) -> list[Servo]:
    """Make the servos that ``ID:MODEL[:POSITION],...`` names; positions in ticks, the middle by default.

    Raises:
        InputError: an entry is not of that form, the model unknown, an id taken, or there is no such baud rate.
    """
    if baud not in BAUDS:
        raise InputError(f"baud must be one of {', '.join(map(str, BAUDS))}, got {baud}")
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
        made = servos[servo_id] = Servo(MODELS[name], servo_id, ticks, now_s)
        made["Baud Rate"] = BAUDS.index(baud)
    return list(servos.values())


def _unpacked_servos(text: str, now_s: float, seed: int) -> list[Servo]:
    chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
    servos = parse_servos(text, now_s, SHIPPED_BAUD)
    for servo in servos:
        servo["ID"] = SHIPPED_ID
        servo.turn(chance.randint(-_HORN_SLACK, _HORN_SLACK))
    return servos


def run(arguments: argparse.Namespace) -> int:
    """Emulate until asked to end; returns the exit code."""
    plan = FaultPlan(FAULTS, seed=arguments.seed)
    now_s = time.monotonic()
    servos = (
        _unpacked_servos(arguments.servos, now_s, arguments.seed)
        if arguments.unpacked
        else parse_servos(arguments.servos, now_s, arguments.baud)
    )
    wire = PtyWire("ttyDYNAMIXEL", None if arguments.unpaced else arguments.baud, follow_client=True)
    line = Line(wire, servos, plan)
    try:
        ask_for_punctuality()
        with running(str(wire.path), plan, arguments) as ended:
            while not ended.is_set():
                if plan.on("unplug"):
                    wire.unplug()
                else:
                    wire.plug()
                line.attend(_LOOK_S)
        print(f"counts: {json.dumps(asdict(line.counters))}", file=sys.stderr, flush=True)
    finally:
        wire.close()
    return 0
