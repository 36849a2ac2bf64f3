"""The file through which an emulated camera's pictures reach its clients: one writer, any readers, nobody waits.

Whoever makes pictures writes them here; the V4L2 shim (``csrc/emulation/``) and :class:`FrameReader` read them. All of
them map the file. Everything is little-endian; version 1 is laid out so:

====== ===== =======================================================================================================
offset bytes header (4096 bytes)
====== ===== =======================================================================================================
0      8     magic ``MA2FRAME``
8      4     version: 1
12     4     bytes of this header: 4096; the slots follow
16     4     width
20     4     height
24     8     frames per second that the writer aims at, float64
32     4     number of slots
36     4     bytes of a slot, a multiple of 4096
40     4     bytes of a slot's own header: 64; its pixels follow
44     4     bytes for a JPEG picture behind the pixels; 0: there are none
48     8     frames written so far, ``n``; the newest lies in slot ``(n - 1) % slots``
56     8     pluggings: odd while the device is there; a client that saw another number has lost its device
64     32    the device's name, UTF-8, padded with zeros
====== ===== =======================================================================================================

====== ===== =======================================================================================================
offset bytes slot
====== ===== =======================================================================================================
0      8     guard: odd while the slot is written; a copy counts only if the guard was even before and is the same after
8      8     sequence number; a gap is a frame that the device lost
16     8     CLOCK_MONOTONIC of the exposure, nanoseconds
24     4     1: the frame was damaged on its way (cut in half), 0: it is whole
28     4     bytes of the JPEG picture; 0: none
64     w*h*3 pixels, RGB, rows from the top
then         the JPEG picture
====== ===== =======================================================================================================

A new writer makes a new file and puts it in the old one's place, so that no reader's mapping shrinks under its feet.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmoact2_edge.errors import InputError

MAGIC = b"MA2FRAME"
VERSION = 1

_HEADER = struct.Struct("<8s4Id4IQQ32s")
_HEADER_BYTES = 4096
_SLOT = struct.Struct("<QQqII")
_SLOT_HEADER_BYTES = 64
_SLOTS = 4
_PAGE = 4096
# In words of eight bytes: what others look at while it changes is stored whole.
_WRITTEN = 48 // 8
_PLUGGINGS = 56 // 8
_NAME_BYTES = 32
_ATTEMPTS = 64
_SIZE_MAX = 4096
_JPEG_QUALITY = 90
_JPEG_SPARE_BYTES = 4096  # its tables, for the smallest of pictures

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StoredFrame:
    """One frame, copied out of the file."""

    image: Picture
    """(H, W, 3) RGB"""
    time_ns: int
    """CLOCK_MONOTONIC of the exposure."""
    sequence: int
    damaged: bool
    jpeg: bytes | None
    """The same picture; cut off where it is damaged. None where the writer makes none."""


class FrameWriter:
    """The camera's side of the file. One thread at a time."""

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        rate_hz: float,
        *,
        name: str = "Emulated camera",
        mjpg: bool = False,
    ) -> None:
        """Make the file, with the device plugged in and no frame yet. ``mjpg`` stores each picture as JPEG, too.

        Raises:
            InputError: a size that is odd or not from 2 to 4096, a rate that is not above 0 and at most 1000, or a
                place where no file can be made.
        """
        for side in (width, height):
            # Two neighbours share their colour in YUYV.
            if not 2 <= side <= _SIZE_MAX or side % 2:
                raise InputError(
                    f"a camera's width and height are even and 2 to {_SIZE_MAX}, got {width}x{height}"
                )
        if not 0.0 < rate_hz <= 1000.0:
            raise InputError(f"a camera's rate is above 0 and at most 1000 Hz, got {rate_hz}")
        self.path = Path(path)
        self.width, self.height, self.rate_hz = width, height, rate_hz
        self._mjpg = mjpg
        pixels = width * height * 3
        self._jpeg_capacity = pixels + _JPEG_SPARE_BYTES if mjpg else 0
        slot_bytes = -(-(_SLOT_HEADER_BYTES + pixels + self._jpeg_capacity) // _PAGE) * _PAGE
        self._slot_bytes = slot_bytes
        self._sequence = 0
        self._written = 0
        self._lock = threading.Lock()
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            _HEADER_BYTES,
            width,
            height,
            rate_hz,
            _SLOTS,
            slot_bytes,
            _SLOT_HEADER_BYTES,
            self._jpeg_capacity,
            0,
            1,
            name.encode()[: _NAME_BYTES - 1],
        )
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            with new.open("w+b") as file:
                file.truncate(_HEADER_BYTES + _SLOTS * slot_bytes)
                self._map = mmap.mmap(file.fileno(), 0)
            self._map[: len(header)] = header
            new.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: no frame file can be made here: {error}") from error
        self._words = memoryview(self._map).cast("Q")
        self._slots = np.frombuffer(self._map, np.uint8, offset=_HEADER_BYTES).reshape(_SLOTS, slot_bytes)

    @property
    def plugged(self) -> bool:
        """Whether clients find the device."""
        return self._words[_PLUGGINGS] % 2 == 1

    def plug(self) -> None:
        """Make the device appear; who had it open before must open it again. Nothing to do where it is there."""
        if not self.plugged:
            self._sequence = 0
            self._words[_PLUGGINGS] += 1

    def unplug(self) -> None:
        """Make the device vanish: ENODEV for who has it open, ENOENT for who opens it."""
        if self.plugged:
            self._words[_PLUGGINGS] += 1

    def write(self, rgb: Picture, time_ns: int, *, damaged: bool = False) -> None:
        """Publish a picture, (height, width, 3) uint8 RGB, exposed at ``time_ns`` (CLOCK_MONOTONIC).

        ``damaged`` pictures reach clients as real ones do: half of a YUYV frame with its error mark, half of a JPEG
        file without any.

        Raises:
            InputError: another shape or type.
        """
        shape = (self.height, self.width, 3)
        if not isinstance(rgb, np.ndarray) or rgb.shape != shape or rgb.dtype != np.uint8:
            got = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise InputError(f"a frame of this camera is uint8 {shape}, got {got}")
        jpeg = self._encode(rgb) if self._mjpg else b""
        if damaged:
            jpeg = jpeg[: len(jpeg) // 2]
        number = self._written % _SLOTS
        start = _HEADER_BYTES + number * self._slot_bytes
        guard = self._words[start // 8]
        self._words[start // 8] = guard + 1
        self._fence()
        fields = (guard + 1, self._sequence, time_ns, int(damaged), len(jpeg))
        _SLOT.pack_into(self._map, start, *fields)
        pixels = self._slots[number, _SLOT_HEADER_BYTES:]
        pixels[: rgb.size].reshape(shape)[...] = rgb
        pixels[rgb.size : rgb.size + len(jpeg)] = np.frombuffer(jpeg, np.uint8)
        self._fence()
        self._words[start // 8] = guard + 2
        self._fence()
        self._written += 1
        self._words[_WRITTEN] = self._written
        self._sequence += 1

    def skip(self) -> None:
        """Lose a frame: the next one's sequence number shows it."""
        self._sequence += 1

    def close(self) -> None:
        """Unplug the device for good and remove the file. Again: nothing."""
        if self._map.closed:
            return
        self.unplug()
        self.path.unlink(missing_ok=True)
        self._words.release()
        del self._slots
        self._map.close()

    def _encode(self, rgb: Picture) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=_JPEG_QUALITY)
        data = file.getvalue()
        if len(data) > self._jpeg_capacity:
            raise InputError(
                f"a JPEG picture of {len(data)} bytes does not fit into {self._jpeg_capacity}; its pixels need less"
            )
        return data

    def _fence(self) -> None:
        # Python has no fence of memory. To take a lock that was released just before is a full one on x86-64 and Arm.
        for _ in range(2):
            with self._lock:
                pass


class FrameReader:
    """Another process's view of the file. Any thread."""

    def __init__(self, path: str | Path) -> None:
        """Map the file.

        Raises:
            InputError: there is none, or it is no frame file of this version.
        """
        try:
            with Path(path).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no frame file to read: {error}") from error
        self._view = memoryview(self._map)
        fields = _HEADER.unpack_from(self._map) if len(self._map) >= _HEADER_BYTES else (b"", 0)
        if fields[:2] != (MAGIC, VERSION):
            raise InputError(
                f"{path}: expected a frame file of version {VERSION}, got {fields[0]!r} {fields[1]}"
            )
        (_, _, self._header_bytes, self.width, self.height, self.rate_hz, self._slots) = fields[:7]
        self._slot_bytes, self._slot_header_bytes, self._jpeg_capacity = fields[7:10]
        if len(self._map) < self._header_bytes + self._slots * self._slot_bytes:
            raise InputError(f"{path}: a frame file of {len(self._map)} bytes is cut off")
        self.name: str = fields[12].split(b"\0", 1)[0].decode(errors="replace")
        self._words = self._view.cast("Q")

    @property
    def plugged(self) -> bool:
        """Whether the device is there."""
        return self._words[_PLUGGINGS] % 2 == 1

    @property
    def written(self) -> int:
        """How many frames have been written."""
        return self._words[_WRITTEN]

    def newest(self) -> StoredFrame | None:
        """Copy the newest frame; None before the first, or where the writer was faster at every attempt."""
        for _ in range(_ATTEMPTS):
            written = self.written
            if written == 0:
                return None
            start = self._header_bytes + (written - 1) % self._slots * self._slot_bytes
            guard = self._words[start // 8]
            if guard % 2:
                continue
            _, sequence, time_ns, damaged, jpeg_bytes = _SLOT.unpack_from(self._map, start)
            pixels_at = start + self._slot_header_bytes
            jpeg_at = pixels_at + self.width * self.height * 3
            image = np.frombuffer(self._view[pixels_at:jpeg_at], np.uint8).copy()
            jpeg = bytes(self._view[jpeg_at : jpeg_at + min(jpeg_bytes, self._jpeg_capacity)])
            if self._words[start // 8] == guard:
                shaped = image.reshape(self.height, self.width, 3)
                return StoredFrame(shaped, time_ns, sequence, bool(damaged), jpeg or None)
        return None

    def close(self) -> None:
        """Let go of the file. Again: nothing."""
        if not self._map.closed:
            self._words.release()
            self._view.release()
            self._map.close()
