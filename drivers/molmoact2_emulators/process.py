"""What every emulator's process does: say its address first, take faults from standard input, end when asked."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan

_FIFO_PRIORITY = 10
_PR_SET_TIMERSLACK = 29


def add_fault_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every emulator has."""
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="a script of faults, one a line: SECONDS NAME key=value"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of all that is drawn at random (default: %(default)s)",
    )


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


def ask_for_punctuality() -> None:
    """Ask the system to run this thread when it wants to, as far as it grants that: for whoever answers on a wire."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    with contextlib.suppress(OSError, AttributeError):
        # Without a real-time policy the kernel lets a sleeper oversleep by 50 us, to spare power.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    # What exists by now stays; a collection would come in the middle of an answer, and nothing here makes cycles.
    gc.collect()
    gc.freeze()
    gc.disable()


def _take_faults(plan: FaultPlan, ended: threading.Event) -> None:
    for line in sys.stdin:
        print(_taken(line, plan), file=sys.stderr, flush=True)
    if Path("/dev/stdin").is_fifo():
        ended.set()


def _taken(line: str, plan: FaultPlan) -> str:
    try:
        plan.add(line)
    except InputError as error:
        return f"fault refused: {error}"
    return f"fault: {line.strip()}"
