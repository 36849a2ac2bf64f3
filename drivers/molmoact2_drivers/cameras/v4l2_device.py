"""The kernel's video capture interface, as far as a memory-mapped camera needs it. Errors are OSError.

Layouts are those of ``linux/videodev2.h`` on 64-bit computers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CAPTURE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
_MMAP = 1  # V4L2_MEMORY_MMAP
_FIELD_ANY = 0
_CAN_CAPTURE = 0x00000001
_CAN_STREAM = 0x04000000
_HAS_DEVICE_CAPABILITIES = 0x80000000
_DISCRETE = 1
_ERROR = 0x0040
_ENUMERATED_AT_MOST = 256

_CAPABILITY = struct.Struct("=16s32s32s3I12x")
_FORMAT_DESCRIPTION = struct.Struct("=3I32sI16x")
_FRAME_SIZE = struct.Struct("=9I8x")
_FRAME_INTERVAL = struct.Struct("=11I8x")
_FORMAT = struct.Struct("=I4x6I176x")
_PARAMETERS = struct.Struct("=5I184x")
_REQUEST = struct.Struct("=4I4x")
_BUFFER = struct.Struct("=5I4xqq16x2IQ3I4x")
_INT = struct.Struct("=i")

_READ, _WRITE = 2, 1


def _request(direction: int, number: int, layout: struct.Struct) -> int:
    return direction << 30 | layout.size << 16 | ord("V") << 8 | number


_QUERYCAP = _request(_READ, 0, _CAPABILITY)
_ENUM_FMT = _request(_READ | _WRITE, 2, _FORMAT_DESCRIPTION)
_S_FMT = _request(_READ | _WRITE, 5, _FORMAT)
_REQBUFS = _request(_READ | _WRITE, 8, _REQUEST)
_QUERYBUF = _request(_READ | _WRITE, 9, _BUFFER)
_QBUF = _request(_READ | _WRITE, 15, _BUFFER)
_DQBUF = _request(_READ | _WRITE, 17, _BUFFER)
_STREAMON = _request(_WRITE, 18, _INT)
_STREAMOFF = _request(_WRITE, 19, _INT)
_G_PARM = _request(_READ | _WRITE, 21, _PARAMETERS)
_S_PARM = _request(_READ | _WRITE, 22, _PARAMETERS)
_ENUM_FRAMESIZES = _request(_READ | _WRITE, 74, _FRAME_SIZE)
_ENUM_FRAMEINTERVALS = _request(_READ | _WRITE, 75, _FRAME_INTERVAL)


@dataclass(frozen=True)
class FrameSizes:
    """A size that a format comes in, or a range of them. Pixels."""

    width_min: int
    width_max: int
    width_step: int
    height_min: int
    height_max: int
    height_step: int

    def at_least(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest size (height, width) that is no smaller than that, or the largest one."""
        return (
            _step_up(height, self.height_min, self.height_max, self.height_step),
            _step_up(width, self.width_min, self.width_max, self.width_step),
        )


@dataclass(frozen=True)
class DequeuedBuffer:
    """A frame as the driver delivered it; its data are valid until it is queued again."""

    index: int
    data: memoryview
    sequence: int
    time_ns: int
    """The driver's stamp, in the clock that the driver chose."""
    error: bool
    """The driver says that it is damaged."""


class VideoDevice:
    """One open device. One thread at a time."""

    def __init__(self, path: str) -> None:
        """Open it, without waiting."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def close(self) -> None:
        """Stop and close. Again: nothing."""
        if self._descriptor < 0:
            return
        try:
            self.stop()
        except OSError:  # it is gone; what is mapped must go all the same
            self._unmap()
        os.close(self._descriptor)
        self._descriptor = -1

    def identify(self) -> tuple[str, str, bool]:
        """Return its name, the bus it is on, and whether it is a camera that streams."""
        _, card, bus, _, capabilities, own = self._control(_QUERYCAP, _CAPABILITY, b"", b"", b"", 0, 0, 0)
        can = own if capabilities & _HAS_DEVICE_CAPABILITIES else capabilities
        return _text(card), _text(bus), bool(can & _CAN_CAPTURE and can & _CAN_STREAM)

    def formats(self) -> list[str]:
        """Return the pixel formats that it offers, as four letters."""
        found = []
        for index in range(_ENUMERATED_AT_MOST):
            answer = self._next(_ENUM_FMT, _FORMAT_DESCRIPTION, index, _CAPTURE, 0, b"", 0)
            if answer is None:
                break
            found.append(four_letters(answer[4]))
        return found

    def sizes(self, pixel_format: str) -> Iterator[FrameSizes]:
        """Yield the sizes of a format."""
        for index in range(_ENUMERATED_AT_MOST):
            answer = self._next(_ENUM_FRAMESIZES, _FRAME_SIZE, index, _code(pixel_format), *([0] * 7))
            if answer is None:
                return
            kind, numbers = answer[2], answer[3:]
            if kind == _DISCRETE:
                width, height = numbers[:2]
                yield FrameSizes(width, width, 1, height, height, 1)
            else:
                yield FrameSizes(*numbers)
                return

    def rates_hz(self, pixel_format: str, height: int, width: int) -> list[float]:
        """Return the frames per second at that size, fastest first; only the fastest one where any slower one goes."""
        found = set()
        for index in range(_ENUMERATED_AT_MOST):
            values = (index, _code(pixel_format), width, height, *([0] * 7))
            answer = self._next(_ENUM_FRAMEINTERVALS, _FRAME_INTERVAL, *values)
            if answer is None:
                break
            numerator, denominator = answer[5:7]
            if numerator:
                found.add(denominator / numerator)
            if answer[4] != _DISCRETE:
                break
        return sorted(found, reverse=True)

    def set_format(self, pixel_format: str, height: int, width: int) -> tuple[str, int, int, int]:
        """Ask for a format; returns what the driver made of it: format, height, width, bytes of a row."""
        values = (_CAPTURE, width, height, _code(pixel_format), _FIELD_ANY, 0, 0)
        answer = self._control(_S_FMT, _FORMAT, *values)
        return four_letters(answer[3]), answer[2], answer[1], answer[5]

    def set_rate(self, rate_hz: float) -> float | None:
        """Ask for a rate; returns the one that the driver set, None where it does not tell."""
        try:
            values = (_CAPTURE, 0, 0, 1000, round(rate_hz * 1000))
            answer = self._control(_S_PARM, _PARAMETERS, *values)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # it has no rate to set
                return None
            raise
        numerator, denominator = answer[3:5]
        return denominator / numerator if numerator else None

    def start(self, buffers: int) -> None:
        """Map that many buffers, hand them to the driver and start."""
        count = self._control(_REQBUFS, _REQUEST, buffers, _CAPTURE, _MMAP, 0)[0]
        for index in range(count):
            answer = self._buffer_control(_QUERYBUF, index)
            offset, length = answer[9], answer[10]
            mapped = mmap.mmap(self._descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
            self._maps.append(mapped)
            self._views.append(memoryview(mapped))
            self.queue(index)
        fcntl.ioctl(self._descriptor, _STREAMON, _INT.pack(_CAPTURE))

    def stop(self) -> None:
        """Stop and give the buffers back."""
        fcntl.ioctl(self._descriptor, _STREAMOFF, _INT.pack(_CAPTURE))
        self._unmap()
        self._control(_REQBUFS, _REQUEST, 0, _CAPTURE, _MMAP, 0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until a buffer is ready, or the device has something worse to tell; False after the timeout."""
        return bool(self._poll.poll(max(0.0, timeout_s) * 1000))

    def dequeue(self) -> DequeuedBuffer | None:
        """Take the oldest frame that is ready; None where none is."""
        try:
            answer = self._buffer_control(_DQBUF, 0)
        except BlockingIOError:
            return None
        index, _, used, flags = answer[:4]
        seconds, microseconds, sequence = answer[5], answer[6], answer[7]
        time_ns = seconds * 1_000_000_000 + microseconds * 1_000
        return DequeuedBuffer(index, self._views[index][:used], sequence, time_ns, bool(flags & _ERROR))

    def queue(self, index: int) -> None:
        """Give a buffer back to the driver."""
        self._buffer_control(_QBUF, index)

    def _unmap(self) -> None:
        maps, self._maps = self._maps, []
        while self._views:
            self._views.pop().release()
        for mapped in maps:
            # Where somebody still looks at a frame, the mapping ends with that look.
            with contextlib.suppress(BufferError):
                mapped.close()

    def _control(self, request: int, layout: struct.Struct, *values: int | bytes) -> tuple[Any, ...]:
        answer = bytearray(layout.pack(*values))
        fcntl.ioctl(self._descriptor, request, answer)
        return layout.unpack(answer)

    def _next(self, request: int, layout: struct.Struct, *values: int | bytes) -> tuple[Any, ...] | None:
        try:
            return self._control(request, layout, *values)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # the end of the list, or no such list
                return None
            raise

    def _buffer_control(self, request: int, index: int) -> tuple[Any, ...]:
        return self._control(request, _BUFFER, index, _CAPTURE, 0, 0, 0, 0, 0, 0, _MMAP, 0, 0, 0, 0)


def four_letters(code: int) -> str:
    """Return a pixel format's name: "YUYV"."""
    return code.to_bytes(4, "little").decode("ascii", errors="replace").rstrip()


def _code(letters: str) -> int:
    return int.from_bytes(letters.ljust(4).encode("ascii"), "little")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def _step_up(value: int, low: int, high: int, step: int) -> int:
    steps = -(-max(0, value - low) // max(1, step))
    return min(high, low + steps * max(1, step))
