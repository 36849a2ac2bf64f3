"""Talks with a person: lines, questions, single keys, and a block of lines that is drawn over itself.

It works on a terminal and, for scripts, with pipes: answers are then read line by line, blocks are not drawn.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime.status import StatusDisplay

_ESCAPE_GAP_S = 0.03  # the bytes of one key come together; a lone escape is followed by nothing
_READ_BYTES = 1024
_NAMES = {"\n": "enter", "\r": "enter", " ": "space", "\t": "tab", "\x7f": "backspace", "\b": "backspace"}
_SEQUENCES = {"A": "up", "B": "down", "C": "right", "D": "left"}
_INTERRUPT, _END_OF_INPUT = "\x03", "\x04"


class Terminal:
    """One person at one terminal, by default the process's own."""

    def __init__(self, descriptor: int = 0, stream: TextIO | None = None) -> None:
        """Keys and lines are read from ``descriptor``, texts go to ``stream``, by default standard output."""
        self._descriptor = descriptor
        self._stream = sys.stdout if stream is None else stream
        self._display = StatusDisplay(self._stream)
        self._pending = ""

    @property
    def live(self) -> bool:
        """Whether :meth:`show` draws."""
        return self._display.live

    def say(self, text: str = "") -> None:
        """Write a text that stays."""
        self._display.line(text)

    def show(self, lines: Sequence[str]) -> None:
        """Draw a block over the last one; nothing where the output is no terminal."""
        self._display.update(list(lines))

    def wait_for_enter(self, prompt: str) -> None:
        """Wait until the person has pressed Enter."""
        self._prompt(f"{prompt} ")
        self._read_line()

    def ask(self, question: str, answers: Mapping[str, str]) -> str:
        """Return the key of the answer that the person typed; Enter alone is the first one.

        ``answers`` has a short text for each: ``{"y": "write it", "n": "leave everything as it is"}``.
        """
        keys = list(answers)
        first = f"Enter: {answers[keys[0]]}"
        choices = ", ".join([first, *(f"{key}: {answers[key]}" for key in keys[1:])])
        while True:
            self._prompt(f"{question} [{choices}] ")
            typed = self._read_line().strip().lower()
            if not typed:
                return keys[0]
            if typed in answers:
                return typed
            self.say(f"{typed!r} is none of the answers.")

    @contextmanager
    def keys(self) -> Iterator[Keys]:
        """Read single keys instead of lines within the block; the terminal is given back as it was."""
        if not os.isatty(self._descriptor):
            yield Keys(self)
            return
        before = termios.tcgetattr(self._descriptor)
        try:
            tty.setcbreak(self._descriptor)
            yield Keys(self)
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def _prompt(self, text: str) -> None:
        if os.isatty(self._descriptor):
            # What was typed before the question is no answer to it.
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
            self._pending = ""
        self._display.line("")
        self._stream.write(text)
        self._stream.flush()

    def _read_line(self) -> str:
        while "\n" not in self._pending:
            self._receive()
        line, _, self._pending = self._pending.partition("\n")
        if not os.isatty(self._descriptor):
            self._stream.write("\n")  # a pipe echoes nothing
        return line

    def _receive(self) -> None:
        """Wait for bytes of the person and keep them."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            raise InputError(
                "standard input has ended, and this command asks a person; run it in a terminal, "
                "or see --help for what it can do without one"
            )
        self._pending += data.decode(errors="replace")


class Keys:
    """Single keys: a character, or ``enter space tab backspace escape up down left right``."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def get(self, timeout_s: float) -> str | None:
        """The next key; None where none was pressed in time.

        Raises:
            InputError: input has ended.
            KeyboardInterrupt: Ctrl-C, also where it comes as a byte.
        """
        if not self._terminal._pending and not self._wait(timeout_s):
            return None
        key, rest = self._terminal._pending[0], self._terminal._pending[1:]
        if key == "\x1b":
            return self._escape()
        self._terminal._pending = rest
        if key == _INTERRUPT:
            raise KeyboardInterrupt
        return "escape" if key == _END_OF_INPUT else _NAMES.get(key, key)

    def _escape(self) -> str:
        deadline = time.monotonic() + _ESCAPE_GAP_S
        while len(self._terminal._pending) < 3 and self._wait(deadline - time.monotonic()):
            pass
        typed = self._terminal._pending
        if len(typed) >= 3 and typed[1] in "[O" and typed[2] in _SEQUENCES:
            self._terminal._pending = typed[3:]
            return _SEQUENCES[typed[2]]
        self._terminal._pending = typed[1:]
        return "escape"

    def _wait(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._terminal._descriptor], [], [], max(timeout_s, 0.0))
        if ready:
            self._terminal._receive()
        return bool(ready)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with columns under each other; what looks like a number is flush right."""
    columns = list(zip(*([headers, *rows]), strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [all(_numeric(cell) for cell in column[1:]) and len(column) > 1 for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [headers, *rows]
    ]


def _numeric(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("+-").replace(".", "", 1).isdigit()
