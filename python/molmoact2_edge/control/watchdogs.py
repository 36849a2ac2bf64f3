"""What the loop watches besides the bus: chunks, cameras, its own timing, motors. All of it is data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from molmoact2_edge._core import control as compiled
from molmoact2_edge.errors import InputError


@dataclass(frozen=True)
class MotorLevels:
    """Levels of one kind of reading, (joints,) each; ``inf`` where a joint has none.

    Above ``warn`` the arm is held until the reading is ``hysteresis`` below it again; above ``limit`` is a fault. A
    joint with a level whose reading is not a number is held. Levels count once exceeded for ``duration_s``. Readings
    that the robot does not report at all are not judged.
    """

    warn: ArrayLike
    limit: ArrayLike
    hysteresis: float = 0.0
    duration_s: float = 0.0


@dataclass(frozen=True)
class Watchdogs:
    """When the loop holds, and when that is a fault. None switches a watchdog off."""

    chunk_age_max_s: float | None = None
    """Of the observation behind an executed action; older: hold. Needs observations that carry their time."""
    cameras: tuple[str, ...] = ()
    """Whose frames are reported, in the order of the numbers of :meth:`ControlLoop.report_frame`."""
    camera_age_max_s: float = 0.5
    """Of each camera's newest frame, from its exposure on; older: hold."""
    overruns_max: int | None = None
    """More within ``overrun_window_s``: hold, or a fault where ``overruns_fault``."""
    overrun_window_s: float = 1.0
    overruns_fault: bool = False
    temperature: MotorLevels | None = None
    """Degrees Celsius."""
    current: MotorLevels | None = None
    """Amperes, by magnitude."""


def compiled_options(
    watchdogs: Watchdogs, joints: int, silence_hold_s: float, silence_fault_s: float
) -> compiled.WatchdogOptions:
    """Return the options as the compiled loop takes them; ValueError where they make no sense."""
    return compiled.WatchdogOptions(
        silence_hold_s=silence_hold_s,
        silence_fault_s=silence_fault_s,
        chunk_age_max_s=watchdogs.chunk_age_max_s,
        cameras=len(watchdogs.cameras),
        camera_age_max_s=watchdogs.camera_age_max_s,
        overruns_max=watchdogs.overruns_max,
        overrun_window_s=watchdogs.overrun_window_s,
        overruns_fault=watchdogs.overruns_fault,
        temperature=_levels(watchdogs.temperature, joints, "temperature"),
        current=_levels(watchdogs.current, joints, "current"),
    )


def _levels(levels: MotorLevels | None, joints: int, what: str) -> compiled.MotorLevels:
    none = np.full(joints, np.inf)
    if levels is None:
        return compiled.MotorLevels(warn=none, limit=none, hysteresis=0.0, duration_s=0.0)
    warn, limit = (np.asarray(values, dtype=np.float64) for values in (levels.warn, levels.limit))
    if warn.shape != (joints,) or limit.shape != (joints,):
        raise InputError(f"{what} levels must have shape ({joints},), got {warn.shape} and {limit.shape}")
    return compiled.MotorLevels(
        warn=warn, limit=limit, hysteresis=levels.hysteresis, duration_s=levels.duration_s
    )
