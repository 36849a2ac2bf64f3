"""The parts of a ``multipart/x-mixed-replace`` answer, out of bytes as they come."""

from __future__ import annotations

import re

from molmoact2_edge.errors import RobotError

_PART_BYTES_AT_MOST = 32 << 20
_HEADER_BYTES_AT_MOST = 64 << 10
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class PartReader:
    """Takes bytes in pieces of any size and gives whole parts, by their length or, where that is not told, by the next
    boundary.
    """

    def __init__(self, boundary: str) -> None:
        """``boundary`` as the answer's header gives it."""
        # Some cameras count the two dashes to the name, as nobody should.
        self._boundary = b"--" + boundary.removeprefix("--").encode()
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; returns the contents of the parts that are whole now.

        Raises:
            RobotError: a part or its header does not end.
        """
        self._data += data
        parts = []
        while (part := self._next()) is not None:
            parts.append(part)
        if len(self._data) > _PART_BYTES_AT_MOST:
            raise RobotError(f"a part of the stream is longer than {_PART_BYTES_AT_MOST} bytes")
        return parts

    def _next(self) -> bytes | None:
        begin = self._data.find(self._boundary)
        if begin < 0:
            # What comes before the first boundary is nothing; the boundary itself may be half there.
            del self._data[: max(0, len(self._data) - len(self._boundary) + 1)]
            return None
        head = begin + len(self._boundary)
        header_end = _HEADER_END.search(self._data, head)
        if header_end is None:
            if len(self._data) - head > _HEADER_BYTES_AT_MOST:
                raise RobotError("the header of a part of the stream does not end")
            return None
        body = header_end.end()
        length = _LENGTH.search(self._data, head, header_end.start() + 1)
        if length is not None:
            end = body + int(length[1])
            if len(self._data) < end:
                return None
            part = bytes(self._data[body:end])
        else:
            end = self._data.find(b"\n" + self._boundary, body)
            if end < 0:
                return None
            part = bytes(self._data[body:end]).removesuffix(b"\r")
        del self._data[:end]
        return part
