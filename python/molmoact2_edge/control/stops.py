"""Ways to stop a loop that need neither Python nor its lock."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType

from molmoact2_edge._core import control as compiled
from molmoact2_edge.control.loop import ControlLoop
from molmoact2_edge.control.states import Reason
from molmoact2_edge.errors import InputError, RobotError


class StopMonitor:
    """A C++ thread that stops a loop for good when a key is pressed, a signal comes, a file appears or a socket speaks.

    The stop is latched: the present run decelerates to rest, and every later one ends as it begins, until
    :meth:`ControlLoop.release_stop`; the monitor goes on, and a file that is still there stops again. As a context
    manager it ends with its block.

    ``key`` is the descriptor of a terminal (0 for standard input) or None; where it is no terminal, or another process
    is in its foreground, no key is watched. ``file`` is a path whose appearing stops; its directory must exist.
    ``socket`` is ``unix:PATH`` or ``tcp:PORT``, the latter on 127.0.0.1 only: whatever a client sends stops, and is
    answered with ``stopping``; so does a client that cannot be taken, because no file descriptor is left (see
    :attr:`failure`). With ``signals``, SIGINT, SIGTERM and SIGHUP stop, whoever holds the interpreter's lock; this
    takes ``signal.set_wakeup_fd``, and needs the main thread and Python handlers for these signals.

    Raises:
        InputError: a source makes no sense.
        RobotError: the system refuses one, or ``signals`` outside the main thread.
    """

    def __init__(
        self,
        loop: ControlLoop,
        *,
        key: int | None = None,
        file: str | None = None,
        socket: str | None = None,
        signals: bool = False,
    ) -> None:
        if signals and threading.current_thread() is not threading.main_thread():
            raise RobotError("signals can be watched from the main thread only; pass signals=False")
        try:
            self._monitor: compiled.StopMonitor | None = compiled.StopMonitor(
                loop=loop._loop, key=-1 if key is None else key, file=file or "", socket=socket or ""
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        except RuntimeError as error:
            raise RobotError(str(error)) from None
        self.sources: tuple[str, ...] = tuple(
            name
            for name, watched in (
                ("any key", self._monitor.watches_key),
                ("SIGINT, SIGTERM and SIGHUP", signals),
                (f"file {file}", bool(file)),
                (f"tcp:{self._monitor.port}" if self._monitor.port else f"{socket}", bool(socket)),
            )
            if watched
        )
        """What is watched, for people."""
        self._signals = signals
        self._failure: str | None = None
        self._wakeup_before = -1
        if signals:
            self._wakeup_before = signal.set_wakeup_fd(
                self._monitor.signal_descriptor, warn_on_full_buffer=False
            )

    @property
    def reason(self) -> Reason:
        """Why the loop was stopped; ``none`` while nothing came."""
        return Reason.NONE if self._monitor is None else Reason(self._monitor.reason)

    @property
    def stopped_at_ns(self) -> int:
        """When that was, on the monotonic clock; 0 while nothing came."""
        return 0 if self._monitor is None else self._monitor.stopped_at_ns

    @property
    def port(self) -> int:
        """The TCP port that is listened at; 0 without one."""
        return 0 if self._monitor is None else self._monitor.port

    @property
    def failure(self) -> str | None:
        """What kept the socket from taking a client, which then stopped the loop unheard; None: nothing did."""
        if self._monitor is not None and self._monitor.failed_accepts > 0:
            self._failure = (
                f"a client of the stop socket could not be taken ({os.strerror(self._monitor.accept_error)}, "
                f"{self._monitor.failed_accepts} times), which counts as a stop"
            )
        return self._failure

    def close(self) -> None:
        """Give back the terminal, the signals and the socket. The loop's stop stays latched."""
        _ = self.failure  # the last word of the monitor, for who asks later
        if self._signals:
            signal.set_wakeup_fd(self._wakeup_before)
            self._signals = False
        self._monitor = None

    def __enter__(self) -> StopMonitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
