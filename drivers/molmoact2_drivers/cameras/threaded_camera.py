"""A camera that any Capture becomes: a thread that reads, keeps the newest frame, and opens a lost device again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from molmoact2_drivers.cameras.capture import Capture, Opened, Reading, SourceEndedError, Wanted
from molmoact2_drivers.cameras.picture import Picture
from molmoact2_drivers.newest_frame import NewestFrameCamera
from molmoact2_drivers.protocol import CameraCapabilities, LifeCycle
from molmoact2_edge.errors import RobotError

_READ_S = 0.1  # how long an end of the thread may wait for it
_FIRST_FRAME_S = 5.0
_SILENCE_S = 2.0  # a device that is there and says nothing for so long is opened again
_BACK_OFF_FIRST_S = 0.1
_BACK_OFF_LONGEST_S = 2.0
_SAMPLE = 16


@dataclass(frozen=True)
class CameraStatistics:
    """What a camera has done since it was connected."""

    frames: int = 0
    """Whole ones."""
    dropped: int = 0
    """Gaps in the device's numbers while it was open."""
    damaged: int = 0
    """Came, and were thrown away."""
    frozen: int = 0
    """Equal to the frame before, to the byte."""
    reconnects: int = 0
    """How often it was opened again."""


class ThreadedCamera(NewestFrameCamera):
    """A `molmoact2_drivers.Camera`.

    While the device is lost `latest` goes on giving the last frame with its own time, so that whoever watches ages sees
    it at once. After `lost_fault_s` without a frame, or `freeze_fault_s` with frames that are equal to the byte, the
    state is ERROR. The thread goes on trying all the time; a new frame makes the camera ACTIVE again.
    """

    def __init__(
        self,
        name: str,
        capture: Capture,
        wanted: Wanted,
        *,
        lost_fault_s: float = 5.0,
        freeze_fault_s: float | None = None,
    ) -> None:
        super().__init__(name)
        self._capture = capture
        self._wanted = wanted
        self._lost_fault_s = lost_fault_s
        self._freeze_fault_s = freeze_fault_s
        self._opened: Opened | None = None
        self._statistics = CameraStatistics()
        # The thread's own.
        self._heard_s = 0.0
        self._listening_s = 0.0
        self._same_since_s: float | None = None
        self._number_offset = 0
        self._renumber = False

    @property
    def capabilities(self) -> CameraCapabilities:
        """Size and rate; before `connect` what is wanted."""
        if self._opened is not None:
            return self._opened.capabilities
        height, width = self._wanted.size or (0, 0)
        return CameraCapabilities(height, width, self._wanted.rate_hz)

    @property
    def description(self) -> str:
        """What comes from the device and what is done to it; "" before `connect`."""
        return "" if self._opened is None else self._opened.description

    @property
    def statistics(self) -> CameraStatistics:
        """Counted since `connect`."""
        return self._statistics

    def connect(self) -> None:
        """Open the device and wait for its first frame.

        Raises:
            RobotError: it is not there, does not give what is wanted, or sends nothing; or the camera is connected.
            MissingExtraError: a package is not installed.
        """
        self._require_disconnected()
        try:
            self._opened = self._capture.open(self._wanted)
        except RobotError as error:
            raise RobotError(f"camera {self._name}: {error}") from error
        self._statistics = CameraStatistics()
        self._heard_s = self._listening_s = time.monotonic()
        self._same_since_s = None
        self._number_offset, self._renumber = 0, False
        self._begin(self._run, _FIRST_FRAME_S)

    def _run(self) -> None:
        try:
            self._read_on()
        except SourceEndedError as error:
            self._fail(f"{self._name}: {error}")
        except Exception as error:  # a thread that dies unseen leaves a picture that looks alive
            self._fail(f"{self._name}: the camera's thread failed: {type(error).__name__}: {error}")
        finally:
            self._capture.close()

    def _read_on(self) -> None:
        back_off_s = _BACK_OFF_FIRST_S
        is_open = True
        while not self._ending.is_set():
            try:
                if not is_open:
                    self._opened = self._capture.open(self._wanted)
                    is_open = True
                    self._begin_anew()
                reading = self._capture.read(_READ_S)
                silent_s = time.monotonic() - self._listening_s
                if reading.frame is None and silent_s > _SILENCE_S:
                    raise RobotError(f"the device is there, but no whole frame came for {silent_s:.1f} s")
            except SourceEndedError:
                raise
            except RobotError as error:
                self._trouble = f"{error}"
                self._capture.close()
                is_open = False
                self._judge()
                self._ending.wait(back_off_s)
                back_off_s = min(2.0 * back_off_s, _BACK_OFF_LONGEST_S)
                continue
            self._take(reading)
            if reading.frame is not None:
                back_off_s = _BACK_OFF_FIRST_S
            self._judge()

    def _begin_anew(self) -> None:
        self._listening_s = time.monotonic()
        self._renumber = True
        self._statistics = replace(self._statistics, reconnects=self._statistics.reconnects + 1)

    def _take(self, reading: Reading) -> None:
        counted = self._statistics
        frame, last = reading.frame, self._frame
        frozen = frame is not None and last is not None and _equal(frame.image, last.image)
        self._statistics = replace(
            counted,
            frames=counted.frames + (frame is not None),
            dropped=counted.dropped + reading.dropped,
            damaged=counted.damaged + reading.damaged,
            frozen=counted.frozen + frozen,
        )
        if frame is None:
            return
        now_s = time.monotonic()
        self._heard_s = self._listening_s = now_s
        if not frozen:
            self._same_since_s = None
        elif self._same_since_s is None:
            self._same_since_s = now_s
        if self._renumber and last is not None:
            # A device counts from 0 again once it is opened; what it counts here must not go back.
            self._number_offset = last.sequence + 1 - frame.sequence
        self._renumber = False
        self._show(replace(frame, sequence=frame.sequence + self._number_offset))

    def _judge(self) -> None:
        silent_s = time.monotonic() - self._heard_s
        # Between frames: a pause is no picture that stays the same.
        same_s = 0.0 if self._same_since_s is None else self._heard_s - self._same_since_s
        if silent_s > self._lost_fault_s:
            cause = self._trouble or "the device is there, but sends nothing"
            self._fail(f"{self._name}: no frame for {silent_s:.1f} s: {cause}")
        elif self._freeze_fault_s is not None and same_s > self._freeze_fault_s:
            self._fail(
                f"{self._name}: the same picture to the byte for {same_s:.1f} s: the camera is frozen; plug it in "
                "again, or set freeze_fault_s to null where pictures may stand still"
            )
        elif self._life_cycle is LifeCycle.ERROR:
            self._trouble = ""
            self._work_again()


def _equal(picture: Picture, other: Picture) -> bool:
    # Nearly all pictures differ in a few of their pixels, so that the whole is seldom compared.
    if picture.shape != other.shape:
        return False
    few, others = picture[::_SAMPLE, ::_SAMPLE], other[::_SAMPLE, ::_SAMPLE]
    return bool(np.array_equal(few, others) and np.array_equal(picture, other))
