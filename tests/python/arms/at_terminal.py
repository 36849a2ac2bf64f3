"""Runs the real command in a child process at a terminal of its own, reads what a person would see, presses keys.

with at_terminal("jog", "--robot", "so101", "--port", port) as person:
    person.sees("shoulder_pan")
    person.types("q")
    assert person.exit_code() == 0
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

WAIT_S = 60.0
_END_S = 60.0
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The terminal becomes the child's own, as in a shell; only then do Ctrl-C and the keys of a monitor reach it.
_OWN_TERMINAL = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
_COMMAND = _OWN_TERMINAL + "from molmoact2_edge.cli import main\nsys.exit(main())\n"
_SHELL = _OWN_TERMINAL + "os.execvp('bash', ['bash', '-euc', sys.argv[1]])\n"


class Person:
    """Somebody at the terminal of one command."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.screen = ""
        """Everything that was shown, without control sequences."""
        self._read_to = 0

    def sees(self, text: str, timeout_s: float = WAIT_S) -> str:
        """Wait for a text that was not waited for before; returns what came up to it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.screen[self._read_to :]:
            if not self._read(deadline):
                raise AssertionError(f"never showed {text!r}; showed:\n{self.screen}")
        end = self.screen.index(text, self._read_to) + len(text)
        seen, self._read_to = self.screen[self._read_to : end], end
        return seen

    def watches(self, seen: Callable[[str], bool], timeout_s: float = WAIT_S) -> None:
        """Wait until what was shown so far is as wanted; for tables that are drawn again and again."""
        deadline = time.monotonic() + timeout_s
        while not seen(self.screen):
            if not self._read(deadline):
                raise AssertionError(
                    f"never showed what was waited for; showed at last:\n{self.screen[-3000:]}"
                )

    def rows(self, begins: Sequence[str]) -> list[list[str]]:
        """Return the newest complete table whose rows begin with these words, as words."""
        found = re.findall(rf"^(?:{'|'.join(begins)}) .*\S *$", self.screen[-8000:], re.MULTILINE)
        rows = [row.split() for row in found]
        # What is read may begin and end in the middle of a table.
        ends = [index for index, row in enumerate(rows) if row[0] == begins[-1] and index + 1 >= len(begins)]
        return rows[ends[-1] + 1 - len(begins) : ends[-1] + 1] if ends else []

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def answers(self, question: str, answer: str = "") -> str:
        """Wait for a question and its prompt, before which nothing counts; type the answer and Enter."""
        seen = self.sees(question) + self.sees("] ")
        self.types(f"{answer}\n")
        return seen

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        self.process.send_signal(number)

    def exit_code(self, timeout_s: float = _END_S) -> int:
        """Wait for the command's end; returns its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 1.0))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the child has closed the terminal
            return False
        self.screen += _CONTROL.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
        return bool(data)


def at_terminal(*arguments: str, env: Mapping[str, str] | None = None) -> AbstractContextManager[Person]:
    """Start ``molmoact2-edge`` with ``arguments``; it is ended, whatever happens in between."""
    return _started(_COMMAND, arguments, env)


def in_shell(text: str, env: Mapping[str, str] | None = None) -> AbstractContextManager[Person]:
    """Start a shell with these lines of a person, in which ``molmoact2-edge`` is on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return _started(_SHELL, (text,), {"PATH": path, **(env or {})})


@contextmanager
def _started(code: str, arguments: tuple[str, ...], env: Mapping[str, str] | None) -> Iterator[Person]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "160", **(env or {})},
    )
    os.close(slave)
    try:
        yield Person(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)


def run_command(
    *arguments: str, env: Mapping[str, str] | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``molmoact2-edge`` to its end without a terminal; ``typed`` comes through a pipe."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from molmoact2_edge.cli import main; sys.exit(main())",
            *arguments,
        ],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(env or {})},
    )
