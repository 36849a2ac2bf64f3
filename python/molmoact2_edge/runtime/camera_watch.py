"""Tells the loop how old each camera's newest image is, whatever the policy is doing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType

from molmoact2_drivers import Camera
from molmoact2_edge.control import ControlLoop
from molmoact2_edge.errors import RobotError

_LOOKS_PER_LIMIT = (
    10  # a report is at most this share of the limit late, and late reports only hold too early
)
_JOIN_TIMEOUT_S = 1.0


class CameraWatch:
    """A thread that reports exposures; the loop judges them by its own clock, so that it may die, too."""

    def __init__(self, loop: ControlLoop, cameras: Mapping[str, Camera]) -> None:
        """``cameras`` in the order of the loop's ``watchdogs.cameras``."""
        self._loop = loop
        self._cameras = list(cameras.values())
        self._period_s = min(loop.watchdogs.camera_age_max_s / _LOOKS_PER_LIMIT, 0.02)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera-watch", daemon=True)

    def __enter__(self) -> CameraWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(_JOIN_TIMEOUT_S)  # a camera that never answers must not keep the arm from its stop

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            for number, camera in enumerate(self._cameras):
                try:
                    exposed_ns = camera.latest().time_ns
                except RobotError:  # its silence is what the loop acts on
                    continue
                self._loop.report_frame(number, exposed_ns)
