"""SIGINT, SIGTERM and SIGHUP as a clean end: the first asks, a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Which signal asked the process to end, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = threading.Event()

    def ask(self, number: int) -> None:
        """Note a signal."""
        self.signal = signal.Signals(number)
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds``, or until asked to end; returns whether that is so."""
        return self._asked.wait(seconds)

    @property
    def asked(self) -> bool:
        return self._asked.is_set()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first SIGINT, SIGTERM or SIGHUP within the block into a request; a second one has its usual effect.

    SIGHUP says that the terminal is gone, as when a connection breaks; where it is ignored, as under ``nohup``, it
    stays so. Works in the main thread only, as signal handlers do.
    """
    interruption = Interruption()
    usual = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }

    def note(number: int, _frame: FrameType | None) -> None:
        interruption.ask(number)
        for known, handler in usual.items():
            signal.signal(known, handler)

    for number in usual:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
