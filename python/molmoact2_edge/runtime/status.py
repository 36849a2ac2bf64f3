"""Live status: one block that is drawn over itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TextIO

_UP_AND_CLEAR = "\x1b[{}F\x1b[J"
_NOTHING_HELD = ("none", "starting", "stop_requested")


def gate_counts(reason_ticks: Mapping[str, int]) -> str:
    """Return what the gate changed or held and in how many ticks, the most frequent first; empty where nothing."""
    held = {reason: ticks for reason, ticks in reason_ticks.items() if reason not in _NOTHING_HELD}
    return ", ".join(f"{reason} {ticks}" for reason, ticks in sorted(held.items(), key=lambda item: -item[1]))


class StatusDisplay:
    """Writes to a stream; the block disappears when a line is written, and comes back with the next update."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._height = 0

    @property
    def live(self) -> bool:
        """Whether blocks are drawn; otherwise :meth:`update` writes nothing."""
        return self._live

    def update(self, lines: list[str]) -> None:
        """Draw the block anew."""
        if not self._live:
            return
        width = shutil.get_terminal_size().columns - 1
        self._erase()
        self._stream.write("".join(f"{line[:width]}\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._erase()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _erase(self) -> None:
        if self._height:
            self._stream.write(_UP_AND_CLEAR.format(self._height))
            self._height = 0
