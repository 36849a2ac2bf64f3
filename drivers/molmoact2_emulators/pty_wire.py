"""A serial device made of a pseudo-terminal: bytes take the time that they take on the real wire, and it can be pulled.

The kernel's pseudo-terminal accepts any baud rate and delays nothing, so the pacing is done here, on a line of time of
its own: a byte occupies the wire for 10 bits, whoever sends it, and one side speaks at a time. What the kernel itself
needs to hand bytes over is measured when the device is plugged in, and made good: the client sees an answer's last byte
when the wire would have it there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import struct
import tempfile
import termios
import time
import tty
from pathlib import Path
from typing import Protocol

from molmoact2_edge.errors import RobotError

_BITS_PER_BYTE = 10  # 8N1
_SPIN_NS = 150_000  # sleeping wakes up late by less than this, mostly
_POLL_NS = 300_000  # after an exchange the next request is looked for, not waited for
_READ_BYTES = 4096
_HANDOVER_PROBES = 41
_HANDOVER_LIMIT_NS = 100_000
_PROBE_SPIN_NS = 2_000_000
_PROBE_TIMEOUT_S = 10.0
# Linux's struct termios2 tells rates without a constant, too: four words of flags, the line, 19 characters, two rates.
_TCGETS2 = 0x802C542A
_TERMIOS2 = struct.Struct("4IB19B2I")


class Clock(Protocol):
    """The monotonic clock, or a test's."""

    def now_ns(self) -> int:
        """Return nanoseconds."""

    def wait_until(self, time_ns: int) -> None:
        """Return at that time, or at once if it is over."""


class SystemClock:
    """CLOCK_MONOTONIC; waits by sleeping for most of the time and turning round for the rest of it."""

    def now_ns(self) -> int:
        """Return nanoseconds."""
        return time.monotonic_ns()

    def wait_until(self, time_ns: int) -> None:
        """Return within about a microsecond of that time, where the system lets us."""
        left = time_ns - time.monotonic_ns()
        if left > _SPIN_NS:
            time.sleep((left - _SPIN_NS) * 1e-9)
        while time.monotonic_ns() < time_ns:
            pass


class LineTime:
    """When which byte is on the wire."""

    def __init__(self, baud: float | None) -> None:
        """`baud` None: bytes take no time."""
        self.free_ns = 0
        """When the wire is silent again."""
        self._ns_per_byte = 0.0
        self.set_baud(baud)

    def set_baud(self, baud: float | None) -> None:
        """Change the rate of bytes to come."""
        self._ns_per_byte = 0.0 if not baud else _BITS_PER_BYTE * 1e9 / baud

    def duration_ns(self, count: int) -> int:
        """Return how long that many bytes take."""
        return round(count * self._ns_per_byte)

    def occupy(self, count: int, earliest_ns: int) -> int:
        """Put bytes on the wire as soon as it is free, but not before a time; returns when the last one is over."""
        self.free_ns = max(self.free_ns, earliest_ns) + self.duration_ns(count)
        return self.free_ns


class PtyWire:
    """The device's end of a serial line. One thread uses it.

    Clients open `path`, which stays the same over an unplugging: a symbolic link to the present pseudo-terminal.
    """

    def __init__(
        self,
        name: str,
        baud: float | None,
        directory: Path | None = None,
        *,
        clock: Clock | None = None,
        follow_client: bool = False,
        busy: bool = False,
    ) -> None:
        """Plug the device in.

        Args:
            name: of the link.
            baud: paces the bytes; None delays nothing.
            directory: where the link lies, else in a new temporary directory.
            clock: the system's where none is given.
            follow_client: pace at the rate that the client has set; `baud` is what a client has that sets none.
            busy: look for requests all the time instead of sleeping until one comes; costs a processor.
        """
        self._clock = SystemClock() if clock is None else clock
        self._baud = baud
        self._line = LineTime(baud)
        self._follow_client = follow_client and baud is not None
        self._busy = busy
        self._temporary = tempfile.TemporaryDirectory(prefix="molmoact2-") if directory is None else None
        place = directory if self._temporary is None else self._temporary.name
        assert place is not None
        self.path = Path(place) / name
        self._master = -1
        self._slave = -1
        self._poll_until_ns = 0
        self._inward_ns = self._outward_ns = 0
        self.plug()

    @property
    def plugged(self) -> bool:
        """Whether a client could open it now."""
        return self._master >= 0

    def plug(self) -> None:
        """Make the device appear; nothing to do where it is there.

        Raises:
            RobotError: the system's pseudo-terminals do not work.
        """
        if self.plugged:
            return
        # The slave stays open here: without it the master would read EIO after a client's last close.
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        _set_rate(self._slave, self._baud)
        os.set_blocking(self._master, False)
        if self._baud is not None:
            self._inward_ns, self._outward_ns = _handover_times(self._master, self._slave)
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

    def client_baud(self) -> int | None:
        """Return the rate that the client has set; None where the system does not tell."""
        if not self.plugged:
            return None
        state = bytearray(_TERMIOS2.size)
        try:
            fcntl.ioctl(self._slave, _TCGETS2, state)
        except OSError:
            return None
        return int(_TERMIOS2.unpack(state)[-1])

    def duration_ns(self, count: int) -> int:
        """Return how long that many bytes take on this wire."""
        return self._line.duration_ns(count)

    def receive(self, timeout_s: float) -> tuple[bytes, int]:
        """Wait for bytes; returns them (none after the timeout) and when the last was on the wire, monotonic ns."""
        if not self.plugged:
            time.sleep(timeout_s)
            return b"", self._clock.now_ns()
        data = self._wait_for_bytes(timeout_s)
        now = self._clock.now_ns()
        if not data:
            return b"", now
        self._poll_until_ns = now + _POLL_NS
        if self._follow_client:
            self._line.set_baud(self.client_baud() or self._baud)
        return data, self._line.occupy(len(data), now - self._inward_ns)

    def send(self, data: bytes, earliest_ns: int = 0) -> int:
        """Deliver bytes once the last of them could be there; returns that time, monotonic ns.

        They begin at `earliest_ns`, or when the wire is free.
        """
        end_ns = self.wait_for(data, earliest_ns)
        self.deliver(data)
        return end_ns

    def wait_for(self, data: bytes, earliest_ns: int = 0) -> int:
        """Wait as `send` does, and return the same; what is then handed over with `deliver` is the caller's to say."""
        end_ns = self._line.occupy(len(data), earliest_ns)
        self._clock.wait_until(end_ns - self._outward_ns)
        return end_ns

    def discard(self) -> int:
        """Drop what has come in meanwhile; returns how many bytes that were."""
        return len(self._read()) if self.plugged else 0

    def deliver(self, data: bytes) -> None:
        """Hand bytes over now."""
        # Nobody listens, or nobody is there: on a wire the bytes are gone just the same.
        with contextlib.suppress(BlockingIOError, OSError):
            if self.plugged:
                os.write(self._master, data)
        self._poll_until_ns = self._clock.now_ns() + _POLL_NS

    def _wait_for_bytes(self, timeout_s: float) -> bytes:
        data = self._read()
        if data or timeout_s <= 0.0:
            return data
        deadline = time.monotonic_ns() + round(timeout_s * 1e9)
        poll_until = deadline if self._busy else min(deadline, self._poll_until_ns)
        while time.monotonic_ns() < poll_until:
            data = self._read()
            if data:
                return data
        left_s = (deadline - time.monotonic_ns()) * 1e-9
        if left_s > 0.0:
            select.select([self._master], [], [], left_s)
        return self._read()

    def _read(self) -> bytes:
        try:
            return os.read(self._master, _READ_BYTES)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EIO):
                return b""
            raise


def _set_rate(device: int, baud: float | None) -> None:
    constant = getattr(termios, f"B{baud:.0f}", None) if baud is not None else None
    if constant is not None:
        attributes = termios.tcgetattr(device)
        attributes[4] = attributes[5] = constant
        termios.tcsetattr(device, termios.TCSANOW, attributes)


def _handover_times(master: int, slave: int) -> tuple[int, int]:
    """Return how long the kernel takes from the client's write to our reading, and the other way, in nanoseconds.

    The shorter times of several tries count: what a busy moment adds is no property of the device.
    """
    inward, outward = [], []
    os.set_blocking(slave, False)
    for _ in range(_HANDOVER_PROBES):
        inward.append(_handover_ns(slave, master))
        outward.append(_handover_ns(master, slave))
    os.set_blocking(slave, True)
    middle = _HANDOVER_PROBES // 3
    return min(sorted(inward)[middle], _HANDOVER_LIMIT_NS), min(sorted(outward)[middle], _HANDOVER_LIMIT_NS)


def _handover_ns(source: int, sink: int) -> int:
    begin = time.monotonic_ns()
    os.write(source, b"\0")
    while (now := time.monotonic_ns()) - begin < _PROBE_SPIN_NS:
        with contextlib.suppress(BlockingIOError):
            if os.read(sink, 1):
                return now - begin
    # A busy moment: the byte must still be taken off the line.
    if not select.select([sink], [], [], _PROBE_TIMEOUT_S)[0]:
        raise RobotError(
            f"this system's pseudo-terminals lose bytes: one did not come within {_PROBE_TIMEOUT_S:g} s"
        )
    os.read(sink, 1)
    return time.monotonic_ns() - begin
