"""A serial device made of a pseudo-terminal: bytes take the time that they take on the real wire, and it can be unplugged.

The kernel's pseudo-terminal accepts any baud rate and delays nothing, so the pacing is done here, on a line of time of its
own: a byte occupies the wire for 10 bits, whoever sends it, and one side speaks at a time.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import tempfile
import time
import tty
from pathlib import Path

_BITS_PER_BYTE = 10  # 8N1
_SPIN_NS = 150_000  # sleeping wakes up late by less than this, mostly
_READ_BYTES = 4096


class PtyWire:
    """The device's end of a serial line. One thread uses it.

    Clients open `path`, which stays the same over an unplugging: a symbolic link to the present pseudo-terminal.
    """

    def __init__(self, name: str, baud: float | None, directory: Path | None = None) -> None:
        """`baud` None delays nothing. The link lies in `directory`, else in a new temporary one."""
        self._ns_per_byte = 0.0 if baud is None else _BITS_PER_BYTE * 1e9 / baud
        self._temporary = tempfile.TemporaryDirectory(prefix="molmoact2-") if directory is None else None
        self.path = Path(directory if self._temporary is None else self._temporary.name) / name
        self._master = -1
        self._slave = -1
        self._free_ns = 0
        self.plug()

    @property
    def plugged(self) -> bool:
        """Whether a client could open it now."""
        return self._master >= 0

    def plug(self) -> None:
        """Make the device appear; nothing to do where it is there."""
        if self.plugged:
            return
        # The slave stays open here: without it the master would read EIO after a client's last close.
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        target = self.path.with_name(self.path.name + ".new")
        target.unlink(missing_ok=True)
        target.symlink_to(os.ttyname(self._slave))
        target.replace(self.path)

    def unplug(self) -> None:
        """Make the device vanish: clients see a hang-up, and nothing at the path."""
        if not self.plugged:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def close(self) -> None:
        """Remove the device for good."""
        self.unplug()
        if self._temporary is not None:
            self._temporary.cleanup()

    def receive(self, timeout_s: float) -> tuple[bytes, int]:
        """Wait for bytes; returns them (none after the timeout) and when the last was on the wire, monotonic ns."""
        if not self.plugged:
            time.sleep(timeout_s)
            return b"", time.monotonic_ns()
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        now = time.monotonic_ns()
        if not ready:
            return b"", now
        try:
            data = os.read(self._master, _READ_BYTES)
        except (BlockingIOError, OSError):
            return b"", now
        self._free_ns = max(self._free_ns, now) + round(len(data) * self._ns_per_byte)
        return data, self._free_ns

    def send(self, data: bytes, earliest_ns: int = 0) -> int:
        """Deliver bytes once the last of them could be there; returns that time, monotonic ns.

        They begin at `earliest_ns`, or when the wire is free.
        """
        end_ns = max(self._free_ns, earliest_ns) + round(len(data) * self._ns_per_byte)
        self._free_ns = end_ns
        _wait_until(end_ns)
        # Nobody listens, or nobody is there: on a wire the bytes are gone just the same.
        with contextlib.suppress(BlockingIOError, OSError):
            if self.plugged:
                os.write(self._master, data)
        return end_ns


def _wait_until(time_ns: int) -> None:
    left = time_ns - time.monotonic_ns()
    if left > _SPIN_NS:
        time.sleep((left - _SPIN_NS) * 1e-9)
    while time.monotonic_ns() < time_ns:
        pass
