"""Puts ticks and camera frames, which come at rates of their own, into rows at a dataset's rate."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from molmoact2_drivers import Frame
from molmoact2_edge.control import TickRecord
from molmoact2_edge.types import DoubleArray, Image

_GRACE_NS = 200_000_000  # a frame may come this long after its exposure
_TICKS_KEPT = 4096
_FRAMES_KEPT = 32


@dataclass(frozen=True)
class Row:
    """One frame of a dataset: what was seen and done at one time."""

    time_ns: int
    """Monotonic; rows of an episode are whole frame periods apart."""
    state: DoubleArray
    """(joints,) the measured pose of the last tick before that time."""
    action: DoubleArray
    """(joints,) the command that this tick wrote: after the gate."""
    images: dict[str, Image]
    """The newest that was exposed before that time."""


class RowAssembly:
    """Of one episode. The time is that of the ticks: it asks no clock."""

    def __init__(self, cameras: Sequence[str], fps: int, loop_rate_hz: float, frame_age_max_s: float) -> None:
        self.dropped: Counter[str] = Counter()
        """Rows that have no place in the dataset because something was missing: ``camera`` or ``tick``."""
        self._fps = fps
        self._frame_age_max_ns = round(frame_age_max_s * 1e9)
        self._tick_age_max_ns = round(1e9 * max(1.0 / fps, 3.0 / loop_rate_hz))
        self._ticks: deque[TickRecord] = deque(maxlen=_TICKS_KEPT)
        self._frames: dict[str, deque[Frame]] = {name: deque(maxlen=_FRAMES_KEPT) for name in cameras}
        self._begin_ns: int | None = None
        self._count = 0

    def add_tick(self, record: TickRecord) -> None:
        """Take in a tick; those that wrote no command have no action and are left out."""
        if record["written_ns"]:
            self._ticks.append(record)

    def add_frame(self, camera: str, frame: Frame) -> None:
        self._frames[camera].append(frame)

    def rows(self, *, final: bool = False) -> Iterator[Row]:
        """Give the rows that nothing which is still to come can change; with ``final`` all that there are."""
        if self._begin_ns is None:
            self._begin_ns = self._first_complete()
        while self._begin_ns is not None and self._ticks:
            time_ns = self._begin_ns + round(self._count * 1e9 / self._fps)
            newest_ns = self._ticks[-1]["wakeup_ns"]
            if newest_ns < time_ns or not (final or self._settled(time_ns, newest_ns)):
                return
            self._count += 1
            row = self._row(time_ns)
            if row is not None:
                yield row

    def _first_complete(self) -> int | None:
        """The first tick for which every camera had a frame."""
        if not all(self._frames.values()):
            return None
        seen_ns = max(frames[0].time_ns for frames in self._frames.values())
        return next((tick["wakeup_ns"] for tick in self._ticks if tick["wakeup_ns"] >= seen_ns), None)

    def _settled(self, time_ns: int, newest_ns: int) -> bool:
        if newest_ns - time_ns >= _GRACE_NS:
            return True
        return newest_ns > time_ns and all(frames[-1].time_ns > time_ns for frames in self._frames.values())

    def _row(self, time_ns: int) -> Row | None:
        while len(self._ticks) > 1 and self._ticks[1]["wakeup_ns"] <= time_ns:
            self._ticks.popleft()
        images = {}
        for camera, frames in self._frames.items():
            while len(frames) > 1 and frames[1].time_ns <= time_ns:
                frames.popleft()
            age_ns = time_ns - frames[0].time_ns
            if not 0 <= age_ns <= self._frame_age_max_ns:
                self.dropped["camera"] += 1
                return None
            images[camera] = frames[0].image
        tick = self._ticks[0]
        if not 0 <= time_ns - tick["wakeup_ns"] <= self._tick_age_max_ns:
            self.dropped["tick"] += 1
            return None
        return Row(time_ns, tick["measured"], tick["command"], images)
