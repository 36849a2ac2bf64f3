"""The adapter's end of Lawicel's text protocol: what slcan hosts such as python-can write and read.

As the widespread USB adapters do it, frames that were taken are not acknowledged unless that is asked for.
"""

from __future__ import annotations

import re

from molmoact2_emulators.damiao_codec import CanFrame

_OK, _REFUSED = b"\r", b"\a"
_LINE_MAX = 64
_STANDARD_MAX, _EXTENDED_MAX = 0x7FF, 0x1FFFFFFF
# Python's own readers of numbers take signs, blanks, underscores and the digits of every script.
_HEX = "[0-9A-Fa-f]"
_FRAME = re.compile(f"(?:([tr])({_HEX}{{3}})|([TR])({_HEX}{{8}}))([0-8])((?:{_HEX}{{2}})*)")


def line_of(frame: CanFrame) -> bytes:
    """Return a frame's line."""
    letter = "r" if frame.remote else "t"
    head = f"{letter.upper()}{frame.id:08X}" if frame.extended else f"{letter}{frame.id:03X}"
    return f"{head}{len(frame.data)}{'' if frame.remote else frame.data.hex().upper()}\r".encode()


def frame_of(line: str) -> CanFrame | None:
    """Return the frame of a line without its CR; None where it is none."""
    parts = _FRAME.fullmatch(line)
    if parts is None:
        return None
    extended, remote = parts[3] is not None, line[0] in "rR"
    number, content = int(parts[4] or parts[2], 16), bytes.fromhex(parts[6])
    largest = _EXTENDED_MAX if extended else _STANDARD_MAX
    if number > largest or len(content) != (0 if remote else int(parts[5])):
        return None
    return CanFrame(number, content, extended, remote)


class SlcanAdapter:
    """Takes the host's bytes; gives the frames for the bus, and the bytes of its own answers."""

    def __init__(self, acknowledge: bool = False) -> None:
        """`acknowledge`: say ``z`` for every frame taken, as Lawicel's own adapters can."""
        self._acknowledge = acknowledge
        self._line = bytearray()
        self.is_open = False
        self.bitrate_code: str | None = None

    def take(self, data: bytes) -> tuple[list[CanFrame], bytes]:
        """Return the frames to be sent, in order, and what the host is answered."""
        frames: list[CanFrame] = []
        answers = bytearray()
        for byte in data:
            if byte != 0x0D:
                self._line.append(byte)
                continue
            line, self._line = bytes(self._line), bytearray()
            if not line:
                continue
            frame = frame_of(line.decode("latin-1")) if len(line) <= _LINE_MAX else None
            if frame is None:
                answers += self._obey(line.decode("latin-1"))
            elif not self.is_open:
                answers += _REFUSED
            else:
                frames.append(frame)
                if self._acknowledge:
                    answers += (b"Z" if frame.extended else b"z") + _OK
        return frames, bytes(answers)

    def _obey(self, line: str) -> bytes:
        command, rest = line[:1], line[1:]
        if command == "S" and not self.is_open and rest in tuple("0123456789"):
            self.bitrate_code = rest
            return _OK
        if command in ("O", "L") and not rest and self.bitrate_code is not None:
            self.is_open = True
            return _OK
        if command == "C" and not rest:
            self.is_open = False
            return _OK
        answers = {"V": b"V1013\r", "N": b"N0001\r", "F": b"F00\r"}
        return answers.get(line, _REFUSED)

    def unplug(self) -> None:
        """Lose its power: closed, with nothing half said."""
        self.is_open = False
        self.bitrate_code = None
        self._line.clear()
