"""Frames of a video or picture file, at their own pace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from molmoact2_drivers.cameras.capture import Opened, Reading, SourceEndedError, Wanted
from molmoact2_drivers.cameras.picture import Picture, check_size, fitted, load_opencv, resizing
from molmoact2_drivers.protocol import CameraCapabilities, Frame
from molmoact2_edge.errors import RobotError

_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_BEHIND_AT_MOST = 300  # frames; a computer that slept goes on from where it is


class FileCapture:
    """A `Capture` of a file. A video has its own rate, a picture the one that is wanted.

    The time of a frame is when it was due. What is not read in time is passed over, and counted as dropped.
    """

    def __init__(self, path: str, once: bool = False) -> None:
        self._path = path
        self._once = once
        self._wanted = Wanted(None, None, 30.0)
        self._still: Picture | None = None
        self._video: Any = None
        self._period_ns = 0
        self._begin_ns = 0
        self._sequence = 0
        self._shown = False

    def open(self, wanted: Wanted) -> Opened:
        """Open the file; its first frame is due at once."""
        self._wanted = wanted
        cv2 = load_opencv()
        if not Path(self._path).is_file():
            raise RobotError(f"there is no file {self._path}")
        rate_hz = wanted.rate_hz
        if Path(self._path).suffix.lower() in _PICTURES:
            bgr = cv2.imread(self._path, cv2.IMREAD_COLOR)
            if bgr is None:
                raise RobotError(f"{self._path} is no picture that OpenCV can read")
            self._still = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            size = (bgr.shape[0], bgr.shape[1])
        else:
            self._video = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
            size = (
                round(self._video.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                round(self._video.get(cv2.CAP_PROP_FRAME_WIDTH)),
            )
            rate_hz = float(self._video.get(cv2.CAP_PROP_FPS))
            if not self._video.isOpened() or min(size) <= 0 or not 0.0 < rate_hz <= 1000.0:
                self.close()
                raise RobotError(f"{self._path} is no video that OpenCV can read")
        try:
            check_size(size, wanted, self._path)
        except RobotError:
            self.close()
            raise
        self._period_ns = round(1e9 / rate_hz)
        self._begin_ns = time.monotonic_ns()
        self._sequence = 0
        self._shown = False
        kind = "picture" if self._still is not None else "video"
        height, width = wanted.size or size
        return Opened(
            CameraCapabilities(height, width, rate_hz),
            f"{kind} {size[1]}x{size[0]} at {rate_hz:g} Hz{resizing(size, wanted)}",
        )

    def read(self, timeout_s: float) -> Reading:
        """Wait until the next frame is due, and read it."""
        if self._video is None and self._still is None:
            raise RobotError(f"{self._path} is not open")
        due_ns = self._begin_ns + self._sequence * self._period_ns
        wait_s = (due_ns - time.monotonic_ns()) * 1e-9
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        if wait_s > timeout_s:
            return Reading()
        behind = (time.monotonic_ns() - due_ns) // self._period_ns
        if behind > _BEHIND_AT_MOST:
            self._begin_ns += behind * self._period_ns
            behind = 0
        for _ in range(behind):
            self._pass_over()
        frame = Frame(
            fitted(self._next(), self._wanted),
            self._begin_ns + self._sequence * self._period_ns,
            self._sequence,
        )
        self._sequence += 1
        return Reading(frame, dropped=behind)

    def close(self) -> None:
        """Let go of the file."""
        if self._video is not None:
            self._video.release()
        self._video = None
        self._still = None

    def _pass_over(self) -> None:
        if self._video is not None and not self._video.grab():
            self._rewind()
            self._video.grab()
        self._sequence += 1

    def _next(self) -> Picture:
        if self._still is not None:
            if self._once and self._shown:
                raise SourceEndedError(f"{self._path} has been shown")
            self._shown = True
            return self._still
        cv2 = load_opencv()
        whole, bgr = self._video.read()
        if not whole:
            self._rewind()
            whole, bgr = self._video.read()
            if not whole:
                raise RobotError(f"{self._path} has no frame that can be read")
        rgb: Picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return rgb

    def _rewind(self) -> None:
        if self._once:
            raise SourceEndedError(f"{self._path} has come to its end")
        self._video.release()
        cv2 = load_opencv()
        self._video = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
