"""Starts ``molmoact2-edge emulate NAME`` in a process of its own for a test, and ends it for certain.

with emulator("so101", "--seed", "3") as arm:
    client.open(arm.address)
    arm.fault("corrupt probability=0.01 duration=5")
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

_START_TIMEOUT_S = 60.0
_FAULT_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.005


class EmulatorProcess:
    """One emulator that runs."""

    def __init__(self, process: subprocess.Popen[str], start_timeout_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin = process.stdin
        self._said = ""
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Both pipes are read to their ends, so that an emulator that says much never waits for its test.
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self._note), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.address = self._first_line(start_timeout_s)
        """What clients connect to: the emulator's first line."""

    @property
    def pid(self) -> int:
        """The emulator's process."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it has said on standard error so far."""
        return self._said

    def fault(self, line: str) -> None:
        """Bring on a fault, as a person would type it; returns once the emulator has taken it.

        Raises:
            AssertionError: the emulator refuses the line, or says nothing.
        """
        self._stdin.write(line + "\n")
        self._stdin.flush()
        try:
            answer = self._answers.get(timeout=_FAULT_TIMEOUT_S)
        except queue.Empty:
            raise AssertionError(f"no word about the fault {line!r}; {self._last_words()}") from None
        assert answer.startswith("fault: "), answer

    def stop(self) -> int:
        """Close its standard input, on which every emulator ends, and return its exit code; may be called twice."""
        if not self._stdin.closed:
            self._stdin.close()
        try:
            return self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(
                f"the emulator did not end with its standard input; {self._last_words()}"
            ) from None
        finally:
            for reader in self._readers:
                reader.join(_END_TIMEOUT_S)

    def _first_line(self, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=_LOOK_AGAIN_S)
            except queue.Empty:
                if self._process.poll() is not None and self._lines.empty():
                    break
                continue
            return line.rstrip("\n")
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(_END_TIMEOUT_S)
        raise AssertionError(f"the emulator did not say its address; {self._last_words()}")

    def _note(self, line: str) -> None:
        self._said += line
        if line.startswith(("fault: ", "fault refused: ")):
            self._answers.put(line.rstrip("\n"))

    @staticmethod
    def _read(pipe: IO[str], take: Callable[[str], None]) -> None:
        with pipe:
            for line in pipe:
                take(line)

    def _last_words(self) -> str:
        return f"exit code {self._process.poll()}, standard error:\n{self._said}"


@contextmanager
def emulator(
    name: str, *options: str, start_timeout_s: float = _START_TIMEOUT_S
) -> Iterator[EmulatorProcess]:
    """Run ``molmoact2-edge emulate name options``; ends the process, whatever happens in between."""
    command = [sys.executable, "-c", "import sys; from molmoact2_edge.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, "emulate", name, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        running = EmulatorProcess(process, start_timeout_s)
        try:
            yield running
        finally:
            running.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
