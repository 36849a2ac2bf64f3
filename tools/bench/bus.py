"""Time what a tick of the loop does on the wire: read six servos' positions, write six goals.

    python tools/bench/bus.py [--rounds N] [--cycles N] [--json FILE]

An emulated SO-101 in a process of its own answers at its real baud rate, with exact timing (it wants a processor for
itself). This package's port and rustypot do the same exchanges in turns, in this process, one cycle right after the
other: a cycle cannot be shorter than its bytes take on the wire. The port is driven as the control loop does it, from
C++, and from Python as rustypot is. Prints median and spread of each, and of the exchange with the block of everything
that the servos measure.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.calibration import load_calibration
from molmoact2_edge._core import feetech
from molmoact2_edge.machine import machine_facts

BAUD = 1_000_000
SERVOS = (1, 2, 3, 4, 5, 6)
BITS_PER_BYTE = 10
OVERHEAD = 6  # bytes of a packet besides its parameters or data
POSITION_BYTES = 2
BLOCK_BYTES = 15
NEVER = 1_000_000_000
WARM_UP_CYCLES = 20
PATIENCE_S = 2.0
"""For an answer, in all of them: on a shared computer the emulator itself may stand still for a moment."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cycles", type=int, default=200, help="of each in a round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, emulated_arm(Path(directory) / "arm.json") as address:
        times = measure(address, Path(directory) / "arm.json", arguments.rounds, arguments.cycles)
    result = {
        "baud": BAUD,
        "servos": len(SERVOS),
        "rounds": arguments.rounds,
        "cycles": arguments.cycles,
        "exchanges": {
            "positions": compare(times, "positions", wire_ms(POSITION_BYTES)),
            "block": compare(times, "block", wire_ms(BLOCK_BYTES)),
        },
        "rustypot": metadata.version("rustypot"),
        "machine": machine_facts(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


def wire_ms(data_bytes: int) -> float:
    """Return the time of all bytes of a cycle: request, six answers, six goals."""
    read = OVERHEAD + 2 + len(SERVOS) + len(SERVOS) * (OVERHEAD + data_bytes)
    write = OVERHEAD + 2 + len(SERVOS) * (1 + POSITION_BYTES)
    return (read + write) * BITS_PER_BYTE * 1e3 / BAUD


@contextmanager
def emulated_arm(calibration: Path) -> Iterator[str]:
    """Start the emulator; its first line is the address."""
    command = [
        sys.executable,
        "-m",
        "molmoact2_edge",
        "emulate",
        "so101",
        "--busy",
        "--calibration",
        str(calibration),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit("the emulator did not start; run it by hand: molmoact2-edge emulate so101")
        yield address
    finally:
        process.stdin.close()
        process.wait(10.0)


def measure(address: str, calibration: Path, rounds: int, cycles: int) -> dict[str, list[float]]:
    """Return every cycle's milliseconds, by what was measured."""
    times: dict[str, list[float]] = {
        name: [] for name in ("positions", "block", "from_python_positions", "rustypot_positions")
    }
    gc.disable()
    try:
        for _ in range(rounds):
            for name, block_every in (("positions", NEVER), ("block", 1)):
                with own_port(address, calibration, block_every) as port:
                    times[name] += exchanged(port, cycles)
                    if name == "positions":
                        times["from_python_positions"] += timed(partial(cycle_of, port), cycles)
            with rustypot_bus(address) as cycle:
                times["rustypot_positions"] += timed(cycle, cycles)
    finally:
        gc.enable()
    return times


def exchanged(port: feetech.FeetechPort, cycles: int) -> list[float]:
    """Return milliseconds from one cycle's end to the next one's, as the loop has them."""
    ends = port.exchange(WARM_UP_CYCLES + cycles + 1)
    if len(ends) != WARM_UP_CYCLES + cycles + 1:
        raise SystemExit(f"the emulated arm does not answer: {port.statistics()}")
    milliseconds: list[float] = (np.diff(ends[WARM_UP_CYCLES:]) * 1e-6).tolist()
    return milliseconds


def cycle_of(port: feetech.FeetechPort) -> None:
    """Write the pose that was read, from Python."""
    status, positions, _ = port.read()
    if status != "ok" or port.write(positions) != "ok":
        raise SystemExit(f"the emulated arm does not answer: {port.statistics()}")


def timed(cycle: Callable[[], None], cycles: int) -> list[float]:
    """Return milliseconds from one cycle's end to the next one's."""
    for _ in range(WARM_UP_CYCLES):
        cycle()
    ends = np.empty(cycles + 1)
    ends[0] = time.perf_counter()
    for k in range(cycles):
        cycle()
        ends[k + 1] = time.perf_counter()
    milliseconds: list[float] = (np.diff(ends) * 1e3).tolist()
    return milliseconds


@contextmanager
def own_port(address: str, calibration: Path, block_every: int) -> Iterator[feetech.FeetechPort]:
    """The loop's port, on the open line."""
    joints = load_calibration(calibration)
    bus = feetech.ServoBus(address, BAUD)
    bus.open()
    port = feetech.FeetechPort(
        bus,
        servos=list(SERVOS),
        scales=[
            feetech.JointScale(joint.range_min, joint.range_max, name == "gripper", bool(joint.drive_mode))
            for name, joint in joints.items()
        ],
        homing_offsets=[joint.homing_offset for joint in joints.values()],
        block_every=block_every,
        read_budget_s=PATIENCE_S,
        answer_slack_s=PATIENCE_S,
    )
    port.follow(True)
    try:
        if block_every > 1:
            port.read()  # the first asks for everything
        yield port
    finally:
        bus.close()


@contextmanager
def rustypot_bus(address: str) -> Iterator[Callable[[], None]]:
    """The same with rustypot."""
    from rustypot import Sts3215PyController

    # It closes its port when nobody refers to it any more.
    controllers = [Sts3215PyController(address, BAUD, PATIENCE_S)]
    ids = list(SERVOS)

    def cycle() -> None:
        controller = controllers[0]
        controller.sync_write_raw_goal_position(ids, controller.sync_read_raw_present_position(ids))

    try:
        yield cycle
    finally:
        controllers.clear()


def compare(times: dict[str, list[float]], name: str, wire: float) -> dict[str, Any]:
    """Return each side's times, and their medians as multiples of the wire's."""
    sides = {"molmoact2_edge": np.array(times[name])}
    for side, prefix in (("molmoact2_edge_from_python", "from_python"), ("rustypot", "rustypot")):
        if f"{prefix}_{name}" in times:
            sides[side] = np.array(times[f"{prefix}_{name}"])
    return {"wire_ms": wire, **{side: spread(values, wire) for side, values in sides.items()}}


def spread(values: npt.NDArray[np.float64], wire: float) -> dict[str, float]:
    """Return median and spread of the milliseconds."""
    low, median, high, highest = np.percentile(values, [5, 50, 95, 99])
    return {
        "median_ms": round(float(median), 4),
        "p5_ms": round(float(low), 4),
        "p95_ms": round(float(high), 4),
        "p99_ms": round(float(highest), 4),
        "median_of_wire": round(float(median) / wire, 4),
    }


if __name__ == "__main__":
    main()
