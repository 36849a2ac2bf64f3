"""Live status: one block that is drawn over itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from typing import TextIO

_UP_AND_CLEAR = "\x1b[{}F\x1b[J"


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
