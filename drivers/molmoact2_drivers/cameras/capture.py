"""What the thread of a camera asks of a device: open it, read frames, close it. One class for each kind of source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from molmoact2_drivers.protocol import CameraCapabilities, Frame
from molmoact2_edge.errors import RobotError


@dataclass(frozen=True)
class Wanted:
    """What frames must be like."""

    height: int | None
    """None, with a width of None: as they come."""
    width: int | None
    rate_hz: float
    resize: bool = False
    """Whether frames of another size may be made to fit; without it such a camera is refused."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), or None."""
        return None if self.height is None or self.width is None else (self.height, self.width)


@dataclass(frozen=True)
class Opened:
    """What an open device gives."""

    capabilities: CameraCapabilities
    """Of the frames, after they were made to fit."""
    description: str
    """What comes from the device and what is done to it: "YUYV 1280x720 at 30 Hz, resized to 640x480"."""


@dataclass(frozen=True)
class Reading:
    """What happened since the last reading."""

    frame: Frame | None = None
    """The newest whole frame; None: no new one."""
    dropped: int = 0
    """Frames that the device numbered and did not deliver."""
    damaged: int = 0
    """Frames that came cut off or garbled, and were thrown away."""


class SourceEndedError(RobotError):
    """There are no more frames, and there will be none."""


class Capture(Protocol):
    """A way to get frames from a device. One thread at a time."""

    def open(self, wanted: Wanted) -> Opened:
        """Open the device and start it; nothing is left open where that fails.

        Raises:
            RobotError: it is not there, is in use, or does not give what is wanted.
            MissingExtraError: a package that it needs is not installed.
        """

    def read(self, timeout_s: float) -> Reading:
        """Wait for a frame, for at most about that long.

        Raises:
            RobotError: the device is gone; open it again.
            SourceEndedError: it has come to its end.
        """

    def close(self) -> None:
        """Close the device from any state; does not raise."""
