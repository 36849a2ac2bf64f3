"""JPEG pictures from a network camera: one HTTP answer that never ends, a picture in each of its parts."""

from __future__ import annotations

import http.client
import select
import time
import urllib.error
import urllib.request
from http.client import HTTPException

from molmoact2_drivers.cameras.capture import Opened, Reading, Wanted
from molmoact2_drivers.cameras.multipart import PartReader
from molmoact2_drivers.cameras.picture import (
    Picture,
    check_size,
    fitted,
    load_opencv,
    resizing,
    rgb_from_jpeg,
)
from molmoact2_drivers.protocol import CameraCapabilities, Frame
from molmoact2_edge.errors import RobotError

_SILENCE_S = 2.0  # without a byte: the connection is lost
_FIRST_PARTS = 10  # until one is whole
_CHUNK_BYTES = 1 << 16
_CHUNKS_AT_MOST = 1 << 10  # behind the first picture, to be passed over at once


class StreamCapture:
    """A `Capture` of a ``multipart/x-mixed-replace`` stream.

    The stream tells neither exposure nor losses: a frame's time is that of its arrival, which is late by what the
    camera and the network take, and its number counts arrivals.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._answer: http.client.HTTPResponse | None = None
        self._parts = PartReader("")
        self._wanted = Wanted(None, None, 30.0)
        self._sequence = 0

    def open(self, wanted: Wanted) -> Opened:
        """Ask for the stream, and look at its first whole picture."""
        load_opencv()
        self._wanted = wanted
        self._sequence = 0
        try:
            answer = urllib.request.urlopen(self._url, timeout=_SILENCE_S)  # noqa: S310 - http, as parse_source saw to
        except urllib.error.HTTPError as error:
            error.close()
            raise RobotError(f"{self._url} gives no stream: {error}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise RobotError(f"{self._url} does not answer: {reason}") from error
        self._answer = answer
        kind, boundary = answer.headers.get_content_type(), answer.headers.get_param("boundary")
        try:
            if not kind.startswith("multipart/") or not isinstance(boundary, str):
                raise RobotError(
                    f"{self._url} is no stream of pictures: expected multipart/x-mixed-replace with a boundary, "
                    f"got {kind}"
                )
            self._parts = PartReader(boundary)
            picture = self._first_picture()
            size = (picture.shape[0], picture.shape[1])
            check_size(size, wanted, self._url)
        except RobotError:
            self.close()
            raise
        height, width = wanted.size or size
        return Opened(
            CameraCapabilities(height, width, wanted.rate_hz),  # it does not tell its rate
            f"MJPEG stream {size[1]}x{size[0]}{resizing(size, wanted)}",
        )

    def read(self, timeout_s: float) -> Reading:
        """Wait for a picture, at most until the connection counts as lost; the newest of several is taken."""
        if not self._waits(timeout_s):
            return Reading()
        newest: bytes | None = None
        for _ in range(_CHUNKS_AT_MOST):
            for part in self._parts.feed(self._chunk()):
                newest = part
                self._sequence += 1
            if newest is not None and not self._waits(0.0):
                break
        arrived_ns = time.monotonic_ns()
        picture = None if newest is None else rgb_from_jpeg(newest)
        if picture is None:
            return Reading(damaged=int(newest is not None))
        return Reading(Frame(fitted(picture, self._wanted), arrived_ns, self._sequence - 1))

    def close(self) -> None:
        """Leave the stream."""
        if self._answer is not None:
            self._answer.close()
        self._answer = None

    def _first_picture(self) -> Picture:
        seen = 0
        while seen < _FIRST_PARTS:
            for part in self._parts.feed(self._chunk()):
                picture = rgb_from_jpeg(part)
                if picture is not None:
                    return picture
                seen += 1
        raise RobotError(f"{self._url} sends nothing but damaged pictures")

    def _chunk(self) -> bytes:
        if self._answer is None:
            raise RobotError(f"{self._url} is not open")
        try:
            data = self._answer.read1(_CHUNK_BYTES)
        except (OSError, HTTPException, ValueError) as error:
            reason = "nothing came any more" if isinstance(error, TimeoutError) else error
            raise RobotError(f"{self._url}: the stream broke off: {reason}") from error
        if not data:
            raise RobotError(f"{self._url}: the stream has ended")
        return data

    def _waits(self, timeout_s: float) -> bool:
        if self._answer is None:
            raise RobotError(f"{self._url} is not open")
        ready, _, _ = select.select([self._answer.fileno()], [], [], timeout_s)
        return bool(ready)
