"""An emulator in a process of its own, as ``molmoact2-edge emulate`` starts it, and the faults it is told to have."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO

from molmoact2_edge.errors import RobotError

_START_S = 60.0
_ANSWER_S = 10.0
_END_S = 10.0
_LOOK_AGAIN_S = 0.005
_COMMAND = [sys.executable, "-c", "import sys; from molmoact2_edge.cli import main; sys.exit(main())"]


class EmulatorProcess:
    """Runs from ``with`` to its end; :attr:`address` is what clients connect to."""

    def __init__(self, name: str, options: Sequence[str] = ()) -> None:
        self.name = name
        self.options = tuple(options)
        self.address = ""
        self._said = ""
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    @property
    def said(self) -> str:
        """What it has said on standard error."""
        return self._said

    @property
    def pid(self) -> int:
        """Its process, once started."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> EmulatorProcess:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*_COMMAND, "emulate", self.name, *self.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        # Both pipes are read to their ends: an emulator that says much never waits for its client.
        self._readers = [
            threading.Thread(target=_read, args=(self._process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=_read, args=(self._process.stderr, self._note), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.address = self._first_line()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def fault(self, line: str) -> int:
        """Bring on a fault; returns the time, monotonic ns, at which it was asked for.

        Raises:
            RobotError: the emulator refuses it, or says nothing.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        asked_ns = time.monotonic_ns()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=_ANSWER_S)
        except (OSError, queue.Empty) as error:
            raise RobotError(
                f"the emulator says nothing about the fault {line!r}: {self._last_words()}"
            ) from error
        if not answer.startswith("fault: "):
            raise RobotError(answer)
        return asked_ns

    def _first_line(self) -> str:
        give_up = time.monotonic() + _START_S
        assert self._process is not None
        while time.monotonic() < give_up:
            if not self._lines.empty():
                return self._lines.get().rstrip("\n")
            if self._process.poll() is not None and self._lines.empty():
                break
            time.sleep(_LOOK_AGAIN_S)
        raise RobotError(f"the emulator {self.name} did not start: {self._last_words()}")

    def _end(self) -> None:
        """Close its standard input, on which every emulator ends; insist where it does not."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(_END_S)

    def _note(self, line: str) -> None:
        self._said += line
        if line.startswith(("fault: ", "fault refused: ")):
            self._answers.put(line.rstrip("\n"))

    def _last_words(self) -> str:
        code = None if self._process is None else self._process.poll()
        return f"exit code {code}; {self._said[-2000:] or 'it said nothing'}"


def _read(pipe: IO[str], take: Callable[[str], None]) -> None:
    with pipe:
        for line in pipe:
            take(line)
