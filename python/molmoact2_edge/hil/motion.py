"""Slow motion around a pose, handed to a control loop chunk by chunk, and how well the arm followed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from molmoact2_edge.control import ControlLoop, TickRecord

Poses = npt.NDArray[np.float64]
Motion = Callable[[Poses], Poses]
"""From seconds since the run's first step, (n,), to targets, (n, joints)."""

_AHEAD_S = 1.0
_FEED_S = 0.1
_LAGS_S = np.arange(0.0, 0.5, 0.002)


def stand(pose: Poses) -> Motion:
    """Stay at a pose (joints,)."""
    return lambda times: np.tile(pose, (len(times), 1))


def sway(pose: Poses, amplitudes: Poses, hertz: float) -> Motion:
    """Swing from a pose (joints,) by ``amplitudes`` (joints,), which have the sign of the way out, and back."""
    return lambda times: pose + amplitudes * 0.5 * (1.0 - np.cos(2.0 * np.pi * hertz * times))[:, None]


def room(pose: Poses, low: Poses, high: Poses, amplitude: Poses) -> Poses:
    """Return ``amplitude`` (joints,) with the sign of the side with more room, and no more than half of that."""
    up, down = high - pose, pose - low
    size = np.minimum(amplitude, 0.5 * np.maximum(up, down))
    return np.where(up >= down, size, -size)


class Feeder:
    """A thread that hands a loop the targets of a motion, early enough; ends with its block."""

    def __init__(self, loop: ControlLoop, motion: Motion) -> None:
        self._loop = loop
        self._motion = motion
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hil-feeder", daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        rate = self._loop.chunk_rate_hz
        rows = np.arange(int(_AHEAD_S * rate) + 2) / rate
        while True:
            observation = self._loop.observation_at(time.monotonic_ns())
            if observation is not None:
                self._loop.push(self._motion(observation.step / self._loop.rate_hz + rows), observation)
            if self._ending.wait(_FEED_S if observation is not None else 0.005):
                return


@dataclass(frozen=True)
class Following:
    """How one joint followed its commands, in the joint's unit."""

    lag_s: float
    """By which the measured pose comes after the command."""
    error_rms: float
    """Of what is left once that is taken into account."""
    error_max: float
    range: float
    """Of the commands: how far they moved."""


def following(records: Sequence[TickRecord], joint: int) -> Following:
    """Compare one joint's commands with its poses by their own times."""
    written = [record for record in records if record["written_ns"]]
    begin = written[0]["written_ns"]
    given = np.array([(record["written_ns"] - begin) * 1e-9 for record in written])
    command = np.array([record["command"][joint] for record in written])
    seen = np.array([(record["measured_ns"] - begin) * 1e-9 for record in written])
    pose = np.array([record["measured"][joint] for record in written])
    inside = (seen >= given[0] + _LAGS_S[-1]) & (seen <= given[-1])
    errors = [pose[inside] - np.interp(seen[inside] - lag, given, command) for lag in _LAGS_S]
    spread = [float(np.std(error)) for error in errors]
    best = int(np.argmin(spread))
    left = errors[best]
    return Following(
        lag_s=round(float(_LAGS_S[best]), 3),
        error_rms=round(float(np.sqrt(np.mean(left**2))), 3),
        error_max=round(float(np.abs(left).max()), 3),
        range=round(float(np.ptp(command)), 3),
    )
