"""Pictures on their way from where they are made to an emulated camera's clients, and what goes wrong there."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from molmoact2_emulators.camera_frames import FrameWriter, Picture
from molmoact2_emulators.faults import FaultPlan

CAMERA_FAULTS: dict[str, tuple[str, ...]] = {
    "stall": (),  # no frame comes any more, the device stays
    "drop_frames": ("probability",),  # a frame is lost, its number is not given again
    "unplug": (),  # the device is gone; when it is over, it is there again
    "delay": (
        "probability",
        "seconds",
    ),  # a frame comes late, with the time of its exposure; later ones wait behind it
    "corrupt": ("probability",),  # a frame is cut in half
    "freeze": (),  # the last picture comes again and again as if it were new
}
"""The faults of a camera, with the keys of their lines: for :class:`FaultPlan`."""

_DELAYED_AT_MOST = 64


def camera_faults(prefix: str = "") -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return CAMERA_FAULTS under prefixed names, and the names to give :class:`CameraFeed`: for a plan that has
    faults of an arm, too.
    """
    return (
        {prefix + name: keys for name, keys in CAMERA_FAULTS.items()},
        {name: prefix + name for name in CAMERA_FAULTS},
    )


class CameraFeed:
    """Publishes pictures as the faults of the moment let it. One thread; call it for every frame, whatever is wrong."""

    def __init__(self, writer: FrameWriter, plan: FaultPlan, names: Mapping[str, str] | None = None) -> None:
        """``names`` are what the faults are called in ``plan``, where not as in :data:`CAMERA_FAULTS`."""
        self._writer = writer
        self._plan = plan
        self._names = {name: name for name in CAMERA_FAULTS} | dict(names or {})
        self._last: Picture | None = None
        self._waiting: deque[tuple[float, Picture, int, bool]] = deque(maxlen=_DELAYED_AT_MOST)

    def publish(self, rgb: Picture, time_ns: int) -> None:
        """Take a picture, (height, width, 3) uint8 RGB, exposed at ``time_ns`` (CLOCK_MONOTONIC).

        Raises:
            InputError: another shape or type.
        """
        if self._plan.on(self._names["unplug"]):
            self._waiting.clear()
            self._writer.unplug()
            return
        self._writer.plug()
        if self._plan.on(self._names["stall"]):
            return
        if self._plan.on(self._names["freeze"]) and self._last is not None:
            rgb = self._last
        else:
            self._last = np.array(rgb)
        if self._plan.strikes(self._names["drop_frames"]) is not None:
            self._writer.skip()
        else:
            damaged = self._plan.strikes(self._names["corrupt"]) is not None
            late = self._plan.strikes(self._names["delay"])
            due_s = self._plan.now_s() + (0.0 if late is None else late["seconds"])
            if len(self._waiting) == self._waiting.maxlen:
                self._writer.skip()  # the oldest one falls out
            self._waiting.append(
                (due_s, self._last if rgb is self._last else np.array(rgb), time_ns, damaged)
            )
        self._send_due()

    def _send_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._plan.now_s():
            _, rgb, time_ns, damaged = self._waiting.popleft()
            self._writer.write(rgb, time_ns, damaged=damaged)
