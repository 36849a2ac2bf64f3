"""What the control process and the policy's process say to each other: a JSON head and raw arrays on a stream socket.

A message is ``magic, length of the head, length of the body`` (little-endian), the head in JSON, and the arrays that
the head lists, one after the other. Nothing is pickled, every length is bounded, and whatever does not fit is an error
of the sender, never of the reader. Images do not go this way: they lie in memory that both processes have mapped.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from molmoact2_edge.types import Image

Array = npt.NDArray[np.floating[Any]]

_LENGTHS = struct.Struct("<4sIQ")
_MAGIC = b"MA2p"
_MAX_HEAD = 1 << 20
_MAX_BODY = 64 << 20
_DTYPES = ("<f4", "<f8")
_MAX_AXES = 4
_MAX_IMAGES = 16
_ALIGNMENT = 64


class WireError(Exception):
    """The other side sent what cannot be read."""


class ClosedError(Exception):
    """The other side is gone."""


@dataclass(frozen=True)
class Message:
    """``head`` is plain JSON, ``arrays`` are float32 or float64 of any shape up to four axes."""

    head: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


def send(sock: socket.socket, message: Message) -> None:
    """Write a message as a whole; the socket's time-out is per piece.

    Raises:
        ClosedError: The other side is gone.
        TimeoutError: It does not read.
    """
    arrays = {
        name: array.astype(array.dtype.newbyteorder("<"), copy=False)
        for name, array in message.arrays.items()
    }
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({**message.head, "arrays": listed}, allow_nan=False).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    try:
        sock.sendall(_LENGTHS.pack(_MAGIC, len(head), len(body)) + head + body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ClosedError from error


def receive(sock: socket.socket, limit_s: float | None = None) -> Message:
    """Read one message, waiting at most ``limit_s`` for all of it.

    Raises:
        ClosedError: The other side is gone.
        TimeoutError: The message did not come in time.
        WireError: It is none.
    """
    give_up = None if limit_s is None else time.monotonic() + limit_s
    magic, head_length, body_length = _LENGTHS.unpack(_read(sock, _LENGTHS.size, give_up))
    if magic != _MAGIC or head_length > _MAX_HEAD or body_length > _MAX_BODY:
        raise WireError(f"expected a message, got bytes that begin with {magic!r}")
    head_bytes = _read(sock, head_length, give_up)
    body = _read(sock, body_length, give_up)
    try:
        head = json.loads(head_bytes)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the head of a message is not JSON: {error}") from error
    if not isinstance(head, dict):
        raise WireError(f"the head of a message must be an object, got {type(head).__name__}")
    return Message(head, _arrays(head.pop("arrays", None), body))


def _read(sock: socket.socket, count: int, give_up: float | None) -> bytes:
    read = bytearray(count)
    filled = 0
    while filled < count:
        if give_up is not None:
            left = give_up - time.monotonic()
            if left <= 0.0:
                raise TimeoutError
            sock.settimeout(left)
        try:
            got = sock.recv_into(memoryview(read)[filled:])
        except ConnectionResetError as error:
            raise ClosedError from error
        if got == 0:
            raise ClosedError
        filled += got
    return bytes(read)


def _arrays(listed: object, body: bytes) -> dict[str, Array]:
    if not isinstance(listed, list):
        raise WireError("the head of a message does not list its arrays")
    arrays: dict[str, Array] = {}
    offset = 0
    for entry in listed:
        name, dtype, shape = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
        if not isinstance(name, str) or dtype not in _DTYPES or not _is_shape(shape):
            raise WireError(f"a message lists an array as {entry!r}")
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        if offset + size > len(body):
            raise WireError(f"a message ends within its array {name!r}")
        arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += size
    if offset != len(body):
        raise WireError(f"a message holds {len(body) - offset} bytes more than its arrays")
    return arrays


def _is_shape(shape: object) -> TypeGuard[list[int]]:
    return (
        isinstance(shape, list)
        and len(shape) <= _MAX_AXES
        and all(
            isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MAX_BODY for size in shape
        )
    )


class FrameMemory:
    """Memory that two processes share, for the images of one call.

    It belongs to the reader from a call to its answer and to the writer for the rest of the time; nothing else keeps
    them apart, and nothing else has to. It has no name in any file system: with the last process it is gone.
    """

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        """Map the memory of ``descriptor``, which this object closes."""
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(descriptor, self.size, mmap.MAP_SHARED, access)
        self._bytes = np.frombuffer(self._map, np.uint8)

    @classmethod
    def create(cls, size: int) -> FrameMemory:
        """Make memory for images of at most ``size`` bytes together."""
        import fcntl

        descriptor = os.memfd_create("molmoact2-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size + _ALIGNMENT * _MAX_IMAGES)
        # A reader that shrank it would kill the control process at its next write.
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        return cls(descriptor, writable=True)

    def write(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        """Copy images (H, W, 3) uint8 in and return where they lie, as JSON; the only copy on their way.

        Raises:
            ValueError: They do not fit.
        """
        placed: list[dict[str, Any]] = []
        offset = 0
        for image in images:
            if len(placed) == _MAX_IMAGES or image.dtype != np.uint8 or offset + image.size > self.size:
                raise ValueError(
                    f"{len(images)} images of {[image.shape for image in images]} do not fit into {self.size} bytes"
                )
            np.copyto(self._bytes[offset : offset + image.size].reshape(image.shape), image)
            placed.append({"offset": offset, "shape": list(image.shape)})
            offset += -(-image.size // _ALIGNMENT) * _ALIGNMENT
        return placed

    def read(self, placed: object) -> list[Image]:
        """Return the images in place, read-only; they are good until the answer is sent.

        Raises:
            WireError: ``placed`` is not what :meth:`write` returns.
        """
        if not isinstance(placed, list) or len(placed) > _MAX_IMAGES:
            raise WireError(f"expected a list of images, got {placed!r}")
        images = []
        for entry in placed:
            offset, shape = (
                (entry.get("offset"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
            )
            if not isinstance(offset, int) or offset < 0 or not _is_shape(shape):
                raise WireError(f"an image is given as {entry!r}")
            if offset + math.prod(shape) > self.size:
                raise WireError(f"an image of shape {shape} at {offset} lies outside of {self.size} bytes")
            image = self._bytes[offset : offset + math.prod(shape)].reshape(shape).view()
            image.flags.writeable = False
            images.append(image)
        return images

    def close(self) -> None:
        """Unmap and close."""
        os.close(self.descriptor)
        # Unmapped with the last image that still lies in it.
        self._bytes = np.empty(0, np.uint8)
        del self._map


def number_table(value: object) -> dict[str, float]:
    """Return ``value`` as names with finite numbers.

    Raises:
        WireError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise WireError(f"expected names with numbers, got {value!r}")
    table: dict[str, float] = {}
    for name, number in value.items():
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            raise WireError(f"expected a finite number for {name!r}, got {number!r}")
        table[str(name)] = float(number)
    return table
