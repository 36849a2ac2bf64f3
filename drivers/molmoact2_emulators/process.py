"""What every emulator's process does: say its address first, take faults from standard input, end when asked."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan


def add_fault_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every emulator has."""
    parser.add_argument("--faults", type=Path, metavar="FILE", help="a script of faults, one a line: SECONDS NAME key=value")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what faults draw (default: %(default)s)")


@contextmanager
def running(address: str, plan: FaultPlan, arguments: argparse.Namespace) -> Iterator[threading.Event]:
    """Announce the address and start the faults; the event is set on SIGINT, SIGTERM, or when a pipe that is standard
    input is closed: no emulator outlives the test that started it.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if arguments.faults is not None:
        plan.read(arguments.faults)
    plan.start()
    print(address, flush=True)
    threading.Thread(target=_take_faults, args=(plan, ended), name="faults", daemon=True).start()
    yield ended


def _take_faults(plan: FaultPlan, ended: threading.Event) -> None:
    for line in sys.stdin:
        try:
            plan.add(line)
        except InputError as error:
            print(f"fault refused: {error}", file=sys.stderr, flush=True)
        else:
            print(f"fault: {line.strip()}", file=sys.stderr, flush=True)
    if Path("/dev/stdin").is_fifo():
        ended.set()
