"""Work for a computer to do while its loop is measured. Whatever happens, it ends with the process that asked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from molmoact2_edge.errors import InputError

LOADS = ("cpu", "gil", "io")
"""``cpu``: a busy process on every usable core; ``gil``: a busy Python thread in this process; ``io``: a process
that writes to the disk and waits for it."""

_END_TIMEOUT_S = 5.0

# Both end by themselves when this process is gone, even by SIGKILL: then they have another parent.
_BUSY = """
import os, sys
parent, core = int(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, {core})
number = 1.0
while os.getppid() == parent:
    for _ in range(200_000):
        number = number * 1.0000001 + 1e-9
"""
_WRITING = """
import os, sys, tempfile
parent = int(sys.argv[1])
block = os.urandom(4 << 20)
# The file has no name, so that nothing of it is left however this process ends.
with tempfile.TemporaryFile(dir=sys.argv[2]) as file:
    while os.getppid() == parent:
        file.seek(0)
        for _ in range(16):
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
"""


def parse_loads(text: str) -> tuple[str, ...]:
    """Return the loads that ``text`` names, separated by commas, in the order of :data:`LOADS`; "none" is none.

    Raises:
        InputError: a name is unknown.
    """
    names = {word.strip() for word in text.split(",") if word.strip()} - {"none"}
    unknown = sorted(names.difference(LOADS))
    if unknown:
        raise InputError(f"load {unknown[0]!r} is unknown; known are {', '.join(LOADS)}, or none")
    return tuple(name for name in LOADS if name in names)


@contextmanager
def loaded(names: Sequence[str], scratch: str | None = None) -> Iterator[None]:
    """Keep the loads of these names going within the block.

    ``scratch`` is the directory whose disk is written to; None takes the system's for temporary files.
    """
    with ExitStack() as stack:
        if "cpu" in names:
            for core in sorted(os.sched_getaffinity(0)):
                stack.enter_context(_process(_BUSY, str(core)))
        if "io" in names:
            stack.enter_context(_process(_WRITING, scratch or tempfile.gettempdir()))
        if "gil" in names:
            stack.enter_context(_busy_thread())
        yield


@contextmanager
def _process(program: str, argument: str) -> Iterator[None]:
    # -S and -I: starts in milliseconds and ignores the surroundings; this interpreter, so that it is there.
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", program, str(os.getpid()), argument],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _busy_thread() -> Iterator[None]:
    ending = threading.Event()

    def spin() -> None:
        number = 1.0
        while not ending.is_set():
            for _ in range(1000):
                number = number * 1.0000001 + 1e-9

    thread = threading.Thread(target=spin, name="busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
