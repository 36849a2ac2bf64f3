"""Looks at a run from outside: the loop's new records and the cameras' new frames, without a wait for either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from molmoact2_drivers import Camera, Frame
from molmoact2_edge.control import ControlLoop, TickRecord
from molmoact2_edge.errors import RobotError


@dataclass
class RunNews:
    """What is new since the last look."""

    ticks: list[TickRecord] = field(default_factory=list)
    lost_ticks: int = 0
    """Overwritten in the ring before they were read."""
    frames: list[tuple[str, Frame]] = field(default_factory=list)
    silent_cameras: list[str] = field(default_factory=list)
    """Cameras that raised an error when asked."""


class RunFollower:
    """Used by one thread."""

    def __init__(self, loop: ControlLoop, cameras: Mapping[str, Camera]) -> None:
        """Begins with what is there now: older records and frames are never told."""
        self._loop = loop
        self._cameras = cameras
        self._position = loop.ticks
        self._newest: dict[str, int] = {}
        self._look_at_cameras(RunNews())

    def look(self) -> RunNews:
        """Return what came since the last look; of each camera at most one frame, the newest."""
        news = RunNews()
        self._look_at_cameras(news)  # first: a frame is then never newer than the ticks around it
        telemetry = self._loop.records(self._position)
        self._position = telemetry.newest
        news.ticks, news.lost_ticks = telemetry.records, telemetry.lost
        return news

    def _look_at_cameras(self, news: RunNews) -> None:
        for name, camera in self._cameras.items():
            try:
                frame = camera.latest()
            except RobotError:
                news.silent_cameras.append(name)
                continue
            if frame.time_ns > self._newest.get(name, 0):
                self._newest[name] = frame.time_ns
                news.frames.append((name, frame))
