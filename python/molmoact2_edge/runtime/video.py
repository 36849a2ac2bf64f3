"""Records the cameras side by side, with a caption, in a thread of its own."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from molmoact2_drivers import Camera
from molmoact2_edge.errors import InputError, MissingExtraError, RobotError
from molmoact2_edge.types import Image

_RATE_HZ = 20
_PANEL_HEIGHT = 336
_CAPTION_HEIGHT = 32
_OUTCOME_FRAMES = 15
_JOIN_TIMEOUT_S = 10.0


class VideoRecorder:
    """Writes an MP4 of what the cameras see between :meth:`begin` and :meth:`end`."""

    def __init__(self, path: Path, cameras: dict[str, Camera]) -> None:
        """Open the file.

        Raises:
            MissingExtraError: PyAV is not installed.
            InputError: the file cannot be written.
        """
        try:
            import av
        except ImportError as error:
            raise MissingExtraError(
                "--video needs PyAV, which is not installed: pip install molmoact2-edge[sim]"
            ) from error
        self._av: Any = av
        try:
            self._container: Any = av.open(str(path), mode="w", format="mp4")
        except OSError as error:
            raise InputError(f"cannot write the video {path}: {error}") from error
        self._cameras = cameras
        self._stream: Any = None
        self._font = ImageFont.load_default(size=18)
        self._lock = threading.Lock()
        self._caption: str | None = None
        self._last: Image | None = None
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def begin(self, caption: str) -> None:
        """Record from now on."""
        with self._lock:
            self._caption = caption

    def end(self, outcome: str) -> None:
        """Stop recording, and show the last picture with its outcome for a moment."""
        with self._lock:
            self._caption = None
            if self._last is not None:
                picture = self._with_caption(self._last, outcome)
                for _ in range(_OUTCOME_FRAMES):
                    self._encode(picture)

    def close(self) -> str | None:
        """Finish the file; returns what went wrong while recording, or None."""
        self._stopping.set()
        self._thread.join(_JOIN_TIMEOUT_S)
        with self._lock:
            if self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
        return self._failure

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            with self._lock:
                if self._caption is not None:
                    self._record(self._caption)
            due = max(due + 1.0 / _RATE_HZ, time.monotonic())
            self._stopping.wait(due - time.monotonic())

    def _record(self, caption: str) -> None:
        try:
            images = [camera.latest().image for camera in self._cameras.values()]
        except RobotError as error:
            self._failure = self._failure or str(error)
            return
        self._last = side_by_side(images)
        self._encode(self._with_caption(self._last, caption))

    def _with_caption(self, picture: Image, caption: str) -> Image:
        height, width, _ = picture.shape
        canvas = PillowImage.new("RGB", (width, height + _CAPTION_HEIGHT))
        canvas.paste(PillowImage.fromarray(picture), (0, 0))
        ImageDraw.Draw(canvas).text((8, height + 4), caption, fill="white", font=self._font)
        return np.asarray(canvas)

    def _encode(self, picture: Image) -> None:
        if self._stream is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=_RATE_HZ)
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def side_by_side(images: list[Image]) -> Image:
    """Scale (H, W, 3) images to one even height and put them beside each other."""
    panels = []
    for image in images:
        height, width, _ = image.shape
        panel_width = 2 * round(width * _PANEL_HEIGHT / height / 2)  # yuv420p halves both sides
        resized = PillowImage.fromarray(image).resize(
            (panel_width, _PANEL_HEIGHT), PillowImage.Resampling.NEAREST
        )
        panels.append(np.asarray(resized))
    return np.concatenate(panels, axis=1)
