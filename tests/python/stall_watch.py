"""Tells whether the computer itself stood still while a test ran.

Clients and drivers on a wire wait a few milliseconds for an answer. A virtual machine that is not given a processor, or
one that compiles beside its tests, stops emulated servos and their client alike for longer than that; what is seen then
is no fault of either. This module says that it happened, so that such a test can be repeated, and a failure on a
computer that kept time stays a failure.

As a program (``python stall_watch.py FILE PROCESSOR``) it sleeps a few milliseconds at a time on one processor, since
one can stand still while the others go on, and in a process of its own, so that no other thread's work is taken for a
stall. After each nap it sends a byte through a pseudo-terminal: a worker of the kernel carries it, which can be kept
waiting while everybody else runs. It writes into FILE when it was last woken late, or the byte was.
"""

from __future__ import annotations

import mmap
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path

NAP_S = 0.005
LATE_S = 0.02
"""A servo's answer is waited for about as long."""
_TIME = struct.Struct("d")


class StallWatch:
    """Watches every processor that this process may use, from its making until it is closed."""

    def __init__(self) -> None:
        self._watches = [_ProcessorWatch(processor) for processor in sorted(os.sched_getaffinity(0))]

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """One for each processor."""
        return [watch.process for watch in self._watches]

    def stood_still_since(self, begin_s: float) -> bool:
        """Return whether a stall ended after ``begin_s`` (seconds, monotonic)."""
        return any(watch.last_stall_s() > begin_s for watch in self._watches)

    def close(self) -> None:
        for watch in self._watches:
            watch.close()


class _ProcessorWatch:
    def __init__(self, processor: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="stalls-")  # noqa: SIM115
        self._file.write(_TIME.pack(-1.0))
        self._file.flush()
        self._shown = mmap.mmap(self._file.fileno(), _TIME.size, access=mmap.ACCESS_READ)
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__)), self._file.name, str(processor)]
        )

    def last_stall_s(self) -> float:
        (last,) = _TIME.unpack(self._shown[:])
        return float(last)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._shown.close()
        self._file.close()


def watch(path: str, processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    master, slave = pty.openpty()
    tty.setraw(slave)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), _TIME.size) as shown:

        def tell() -> None:
            shown[:] = _TIME.pack(time.monotonic())

        while True:
            before = time.monotonic()
            time.sleep(NAP_S)
            if time.monotonic() - before > NAP_S + LATE_S:
                tell()
            os.write(slave, b"\0")
            # Told while it lasts, too: a test may fail, and be judged, before the byte is there.
            while not select.select([master], [], [], LATE_S)[0]:
                tell()
            os.read(master, 1)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
