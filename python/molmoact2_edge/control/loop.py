"""The control thread, seen from Python: started, fed with chunks, observed and stopped; never paced from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core import control as compiled
from molmoact2_edge.control.limits import JointLimits
from molmoact2_edge.control.states import Reason
from molmoact2_edge.control.watchdogs import Watchdogs, compiled_options
from molmoact2_edge.errors import InputError, RobotError

_STOP_TIMEOUT_S = 5.0


class DurationStatistics(TypedDict):
    """Seconds; quantiles are upper edges of buckets narrower than 0.8 %, the maximum is exact."""

    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    p999_s: float
    max_s: float


class LoopStatistics(TypedDict):
    """Sums over all runs of a loop. Reasons and states are named as in :mod:`.states`; absent means never."""

    ticks: int
    executed_steps: int
    overruns: int
    skipped_periods: int
    read_failures: int
    write_failures: int
    chunks_taken: int
    chunks_not_continuing: int
    """Chunks whose frozen rows were farther than ``frozen_tolerance`` from what was executed."""
    chunks_beyond_frozen: int
    """Chunks that came after more steps than they had frozen rows for."""
    state_ticks: dict[str, int]
    reason_ticks: dict[str, int]
    reason_events: dict[str, int]
    rejected_chunks: dict[str, int]
    period: DurationStatistics
    wakeup_latency: DurationStatistics
    bus: DurationStatistics
    busy: DurationStatistics
    state_age: DurationStatistics
    observation_age: DurationStatistics
    """Per executed step: from the exposure of the oldest image that led to it to the write of its command."""
    observation_to_action: DurationStatistics
    """The same at the first write from each chunk."""


class TickRecord(TypedDict):
    """What one tick did; times in nanoseconds on the monotonic clock, poses (joints,) float64."""

    tick: int
    run: int
    state: str
    reason: str
    rejected_chunk: str
    followed: bool
    deadline_ns: int
    wakeup_ns: int
    period_ns: int
    read_ns: int
    write_ns: int
    written_ns: int
    """When the command was out; 0: nothing was written."""
    busy_ns: int
    skipped_periods: int
    step: int
    chunk: int
    observed_ns: int
    """When the oldest image behind the chunk was exposed; 0: none, or unknown."""
    action: float
    remaining_steps: int
    frozen_error: float
    unfrozen_steps: int
    limited_joints: int
    measured_ns: int
    measured: NDArray[np.float64]
    target: NDArray[np.float64]
    command: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Records read from the ring: ``newest`` is the ``after`` of the next read, ``lost`` were overwritten."""

    records: list[TickRecord]
    newest: int
    lost: int


@dataclass(frozen=True, slots=True)
class TelemetryColumns:
    """The same as arrays over the ticks, named as in :class:`TickRecord`; poses are (ticks, joints).

    ``state``, ``reason`` and ``rejected_chunk`` are places in the order of :class:`GateState` and :class:`Reason`.
    """

    columns: dict[str, NDArray[Any]]
    newest: int
    lost: int


@dataclass(frozen=True, slots=True)
class SchedulingWarning:
    """Something that the system refused; the loop runs without it."""

    name: str
    """``fifo_refused``, ``memory_lock_refused`` or ``affinity_refused``."""
    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """The loop at the moment of an observation; handed back with the chunk that it led to."""

    run: int
    step: int
    """The step that was due next: row 0 of the chunk."""
    measured: NDArray[np.float64]
    """(joints,) the robot's pose."""
    measured_ns: int
    time_ns: int = 0
    """Of the observation itself, for the record; 0: unknown."""


class ControlLoop:
    """A C++ thread that takes chunks, passes every target through the gate and writes commands to a port.

    It ticks at ``rate_hz`` (10 to 1000) at absolute deadlines; an overrun skips whole periods and is counted.
    ``start_distance_max`` (joints,) is how far the first target may be from the measured pose; the way there is a
    slow minimum-jerk move at ``start_speed`` times the velocity limit, and executes no step. A robot silent for
    ``silence_hold_s`` is held, for ``silence_fault_s`` is a fault; ``watchdogs`` has the other conditions. After
    more than ``lost_writes_max`` lost commands in a row, and where the arm is farther from its command than
    ``jump_max``, it goes on as at a start, from where the arm is. Modes and ``resampling`` are
    :class:`ChunkBuffer`'s; ``frozen_tolerance`` is how far, in the joint's unit, a chunk's frozen rows may be from
    what was executed before it is counted as not continuing it.

    Everything is safe from any thread, except ticking a stepped run from several.
    """

    def __init__(
        self,
        port: compiled.Port,
        limits: JointLimits,
        *,
        rate_hz: float = 50.0,
        chunk_rate_hz: float | None = None,
        mode: str = "blend",
        blend_steps: int = 10,
        resampling: str = "linear",
        frozen_tolerance: float = 1.0,
        lost_writes_max: int = 3,
        chunk_capacity: int = 256,
        silence_hold_s: float = 0.1,
        silence_fault_s: float = 1.0,
        watchdogs: Watchdogs | None = None,
        start_speed: float = 0.25,
        start_distance_max: ArrayLike | None = None,
        telemetry_capacity: int = 4096,
        fifo_priority: int = 0,
        lock_memory: bool = False,
        cpus: Sequence[int] = (),
    ) -> None:
        """``chunk_rate_hz`` defaults to the loop's rate, ``start_distance_max`` to the limits' ``jump_max``."""
        distance = limits.jump_max if start_distance_max is None else start_distance_max
        self.limits = limits
        self.watchdogs = Watchdogs() if watchdogs is None else watchdogs
        self.rate_hz = float(rate_hz)
        self.chunk_rate_hz = self.rate_hz if chunk_rate_hz is None else float(chunk_rate_hz)
        try:
            self._loop = compiled.ControlLoop(
                port=port,
                limits=limits._core,
                rate_hz=self.rate_hz,
                chunk_rate_hz=self.chunk_rate_hz,
                mode=mode,
                blend_steps=blend_steps,
                resampling=resampling,
                frozen_tolerance=frozen_tolerance,
                lost_writes_max=lost_writes_max,
                chunk_capacity=chunk_capacity,
                watchdogs=compiled_options(self.watchdogs, len(limits), silence_hold_s, silence_fault_s),
                start_speed=start_speed,
                start_distance_max=np.asarray(distance, dtype=np.float64),
                telemetry_capacity=telemetry_capacity,
                fifo_priority=fifo_priority,
                lock_memory=lock_memory,
                cpus=list(cpus),
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def start(self) -> list[SchedulingWarning]:
        """Begin a run: step 0, no chunk, no motion carried over; the arm is held until a chunk arrives.

        Returns what the scheduler refused. Raises :class:`RobotError` while a run is under way.
        """
        try:
            return [SchedulingWarning(name, text) for name, text in self._loop.start()]
        except RuntimeError as error:
            raise RobotError(str(error)) from None

    def request_stop(self, *, by_signal: bool = False, reason: Reason | None = None) -> None:
        """Ask the run to decelerate and end, without waiting for it; ``reason`` is one of ``Reason.STOP_*``."""
        default = Reason.STOP_SIGNAL if by_signal else Reason.STOP_REQUESTED
        self._loop.request_stop((reason or default).value)

    def latch_stop(self, reason: Reason = Reason.STOP_REQUESTED) -> None:
        """Stop this run, and every later one as it begins, until :meth:`release_stop`. The first reason stays."""
        self._loop.latch_stop(reason.value)

    def release_stop(self) -> None:
        """Let runs begin again."""
        self._loop.release_stop()

    @property
    def latched_stop(self) -> Reason:
        """Why runs are stopped for good; ``none`` where they are not."""
        return Reason(self._loop.latched_stop)

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
        """Decelerate, end the run and wait for it; False where it had to be cut short after ``timeout_s``."""
        return self._loop.stop(timeout_s)

    def begin_stepped(self, now_ns: int) -> None:
        """Begin a run without a thread: time is what the caller says, ticks happen in :meth:`tick`."""
        try:
            self._loop.begin_stepped(now_ns)
        except RuntimeError as error:
            raise RobotError(str(error)) from None

    def tick(self, now_ns: int) -> None:
        """Do one tick of a stepped run at time ``now_ns``; call once per period."""
        try:
            self._loop.tick_stepped(now_ns)
        except RuntimeError as error:
            raise RobotError(str(error)) from None

    def push(self, chunk: ArrayLike, observation: Observation, *, frozen_rows: int = 0) -> int:
        """Hand over a chunk (steps, joints) made from ``observation``; returns its number.

        See :meth:`ChunkBuffer.push`. A chunk from before the loop was restarted is not executed.
        """
        try:
            return self._loop.push(
                np.asarray(chunk, dtype=np.float64),
                observation.step,
                observation.run,
                observation.time_ns,
                frozen_rows,
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def planned(self, observation: Observation, rows: int) -> NDArray[np.float64]:
        """Return (at most ``rows``, joints): what the present chunk has for the steps from ``observation`` on.

        Row k is the target k chunk periods after the observation's step, so it is comparable with row k of a chunk
        pushed with the same observation. Fewer rows where the chunk ends, none where there is no chunk of this run or
        it does not cover the step. Never waits for the loop, nor the loop for it.
        """
        return self._loop.planned(observation.run, observation.step, rows)

    def report_frame(self, camera: int, time_ns: int) -> None:
        """Tell when the newest frame of a camera was exposed; ``camera`` counts as in ``watchdogs.cameras``."""
        try:
            self._loop.report_frame(camera, time_ns)
        except ValueError as error:
            raise InputError(str(error)) from None

    def observation_at(self, time_ns: int) -> Observation | None:
        """The loop as it was at ``time_ns``, for a camera frame of that time.

        None when that is before this run's first pose, or so long ago that the telemetry was overwritten.
        """
        found = self._loop.observation_at(time_ns)
        return None if found is None else Observation(*found, time_ns)

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._loop.running

    @property
    def run(self) -> int:
        """The number of the present or latest run, counted from 1."""
        return self._loop.run

    @property
    def ticks(self) -> int:
        """Ticks over all runs."""
        return self._loop.ticks

    def statistics(self) -> LoopStatistics:
        """Return counters and distributions over all runs."""
        statistics: LoopStatistics = self._loop.statistics()  # type: ignore[assignment]
        return statistics

    def last_record(self) -> TickRecord | None:
        """Return the newest tick's record; None before the first tick."""
        record: TickRecord | None = self._loop.last_record()  # type: ignore[assignment]
        return record

    def records(self, after: int = 0) -> Telemetry:
        """Return the records that follow number ``after`` and are still in the ring."""
        return Telemetry(*self._loop.records(after))  # type: ignore[arg-type]

    def record_columns(self, after: int = 0) -> TelemetryColumns:
        """Return the same records as arrays, far faster."""
        return TelemetryColumns(*self._loop.record_columns(after))
