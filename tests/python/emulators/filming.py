"""A camera in a thread of the test's own process: writes numbered pictures into a frame file, faults included."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molmoact2_emulators.camera_feed import CAMERA_FAULTS, CameraFeed
from molmoact2_emulators.camera_frames import FrameWriter
from molmoact2_emulators.camera_picture import NumberedPicture
from molmoact2_emulators.faults import FaultPlan


class Filming:
    """What films, and the switches of its faults."""

    def __init__(self, writer: FrameWriter) -> None:
        self.writer = writer
        self.plan = FaultPlan(CAMERA_FAULTS, seed=7)
        self.ended = threading.Event()
        self.published = 0

    def fault(self, line: str) -> None:
        """Begin a fault, or end it with ``clear NAME``."""
        self.plan.add(line)

    def run(self) -> None:
        picture = NumberedPicture(self.writer.width, self.writer.height)
        feed = CameraFeed(self.writer, self.plan)
        while not self.ended.wait(1.0 / self.writer.rate_hz):
            feed.publish(picture.draw(self.published), time.monotonic_ns())
            self.published += 1


@contextmanager
def filming(
    path: Path, width: int = 160, height: int = 120, rate_hz: float = 100.0, mjpg: bool = False
) -> Iterator[Filming]:
    """Film into the file at ``path``, faster than a real camera, for tests that shall not take long."""
    writer = FrameWriter(path, width, height, rate_hz, name="Filming", mjpg=mjpg)
    film = Filming(writer)
    thread = threading.Thread(target=film.run, name="filming")
    thread.start()
    try:
        yield film
    finally:
        film.ended.set()
        thread.join()
        writer.close()
