"""One measurement: the compiled loop and the one in Python, in the same seconds and under the same load."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, LoopbackPort, Port, SchedulingWarning, TickRecord
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.profile.calls import Call
from molmoact2_edge.profile.loads import loaded
from molmoact2_edge.profile.python_loop import PythonLoop
from molmoact2_edge.profile.system_watch import (
    ThreadFacts,
    Usage,
    counters,
    load_average,
    locked_bytes,
    thread_facts,
    thread_ids,
    usage,
)
from molmoact2_edge.profile.ticks import Poses, Ticks

if TYPE_CHECKING:
    # Needs torch, which a measurement without a policy does not.
    from molmoact2_edge.profile.predictions import PredictionLoad

_MOST_TICKS = 120_000  # a record of the ring is about a kilobyte
_SETTLE_S = 1.0  # until every load is under way
_LEAD_S = 0.3  # between the loops' start and the window that is measured
_FEED_S = 0.25
_CHUNK_S = 2.0
_FIRST_POSE_S = 5.0
_LAG_S = 0.03  # of the pose behind the command, as a small servo's
_SLOWEST_HZ, _FASTEST_HZ = 0.2, 0.5  # of the joints' swings


@dataclass(frozen=True)
class ProfileSettings:
    """What was asked for."""

    rate_hz: float = 200.0
    duration_s: float = 30.0
    loads: tuple[str, ...] = ()
    swing: float = 5.0
    """How far each joint moves from its pose and back, in its unit; 0 holds it still."""

    def __post_init__(self) -> None:
        if not 10.0 <= self.rate_hz <= 1000.0:
            raise InputError(f"rate must be 10 to 1000 Hz, got {self.rate_hz:g}")
        if not 1.0 <= self.duration_s < float("inf"):
            raise InputError(f"duration must be at least 1 s, got {self.duration_s:g}")
        if self.rate_hz * self.duration_s > _MOST_TICKS:
            raise InputError(
                f"{self.duration_s:g} s at {self.rate_hz:g} Hz are more than {_MOST_TICKS} ticks; "
                f"at this rate give at most --duration {_MOST_TICKS / self.rate_hz:g}"
            )
        if not 0.0 <= self.swing <= 30.0:
            raise InputError(f"swing must be 0 to 30, got {self.swing:g}")


@dataclass(frozen=True)
class Measurement:
    """Everything that a run gave. Both loops' ticks are of the same window of time."""

    begin_ns: int
    end_ns: int
    period_ns: int
    cpp: Ticks
    python: Ticks
    states: dict[str, int]
    """Ticks of the compiled loop by the gate's state."""
    reasons: dict[str, int]
    held_reasons: dict[str, int]
    """The same, of the ticks in which the gate did not run."""
    events: list[tuple[int, str, str]]
    """Changes of the gate: time, state, reason."""
    warnings: list[SchedulingWarning]
    cpp_thread: ThreadFacts | None
    python_thread: ThreadFacts | None
    locked_bytes: int
    load_before: float
    """Mean number of running threads in the minute before: what else went on here."""
    usage: Usage
    calls: list[Call]


def swing_actions(
    pose: Poses, config: RobotConfig, swing: float, begin_s: float, rate_hz: float, rows: int
) -> Poses:
    """Return (rows, joints): every joint swings away from ``pose`` towards the middle of its range and back.

    It starts at rest at time 0, each joint at a frequency of its own, and never leaves the position limits.
    """
    joints = config.joints.values()
    low = np.array([joint.position[0] for joint in joints])
    high = np.array([joint.position[1] for joint in joints])
    middle = 0.5 * (low + high)
    away = np.where(pose > middle, -1.0, 1.0) * np.minimum(swing, 0.25 * (high - low))
    frequency = np.linspace(_SLOWEST_HZ, _FASTEST_HZ, pose.size)
    times = begin_s + np.arange(rows)[:, None] / rate_hz
    actions: Poses = pose + away * 0.5 * (1.0 - np.cos(2.0 * np.pi * frequency * times))
    return actions


def measure(
    config: RobotConfig,
    settings: ProfileSettings,
    port: Port | None = None,
    predictions: PredictionLoad | None = None,
) -> Measurement:
    """Run both loops for the settings' duration under its loads.

    The compiled loop drives ``port``, or a loopback where that is None; the one in Python always drives a loopback.

    Raises:
        RobotError: the port gives no pose.
    """
    middle = np.array([0.5 * sum(joint.position) for joint in config.joints.values()])
    rate = settings.rate_hz
    chunk_rate = min(config.chunk.rate_hz, rate)
    loop = ControlLoop(
        LoopbackPort(middle, _LAG_S) if port is None else port,
        config.limits(),
        rate_hz=rate,
        chunk_rate_hz=chunk_rate,
        mode="async",
        silence_hold_s=config.loop.silence_hold_s,
        silence_fault_s=config.loop.silence_fault_s,
        start_speed=config.loop.start_speed,
        start_distance_max=config.start_distances(),
        telemetry_capacity=int(rate * (settings.duration_s + 2 * _LEAD_S + _FIRST_POSE_S)) + 1000,
        fifo_priority=config.loop.fifo_priority,
        lock_memory=config.loop.lock_memory,
        cpus=config.loop.cpus,
    )
    load_before = load_average()
    with ExitStack() as stack:
        stack.enter_context(loaded(settings.loads))
        if predictions is not None:
            stack.enter_context(predictions.running())
        time.sleep(_SETTLE_S if settings.loads or predictions is not None else 0.0)
        known = thread_ids()
        warnings = loop.start()
        stack.callback(loop.stop)
        new = thread_ids() - known
        feeder = _Feeder(loop, config, settings, chunk_rate)
        pose = feeder.begin()
        whole_s = settings.duration_s + 2 * _LEAD_S
        python = PythonLoop(
            LoopbackPort(pose, _LAG_S),
            config.limits(),
            swing_actions(pose, config, settings.swing, 0.0, chunk_rate, int(whole_s * chunk_rate) + 2),
            rate_hz=rate,
            actions_per_step=chunk_rate / rate,
            duration_s=whole_s,
            # One below: the two never wait for each other because one of them came first.
            fifo_priority=max(0, config.loop.fifo_priority - 1),
            cpus=config.loop.cpus,
        )
        stack.callback(python.stop)
        python.start()
        begin_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
        end_ns = begin_ns + int(settings.duration_s * 1e9)
        feeder.feed_until(begin_ns)
        before = counters()
        feeder.feed_until(end_ns)
        used = usage(before, counters())
        cpp_thread = next((facts for facts in map(thread_facts, sorted(new)) if facts is not None), None)
        python_thread = thread_facts(python.thread_id)
        locked = locked_bytes()
        python_ticks = python.stop()
    records = [r for r in loop.records().records if begin_ns <= r["deadline_ns"] < end_ns]
    return Measurement(
        begin_ns=begin_ns,
        end_ns=end_ns,
        period_ns=round(1e9 / rate),
        cpp=Ticks.from_records(records),
        python=python_ticks.between(begin_ns, end_ns),
        states=dict(Counter(record["state"] for record in records)),
        reasons=dict(Counter(record["reason"] for record in records)),
        held_reasons=dict(Counter(r["reason"] for r in records if r["state"] != GateState.RUNNING)),
        events=gate_events(records),
        warnings=warnings,
        cpp_thread=cpp_thread,
        python_thread=python_thread,
        locked_bytes=locked,
        load_before=load_before,
        usage=used,
        calls=[]
        if predictions is None
        else [c for c in predictions.calls if begin_ns <= c.begin_ns < end_ns],
    )


def gate_events(records: Sequence[TickRecord]) -> list[tuple[int, str, str]]:
    """Return the changes of state or reason: time, state, reason."""
    events: list[tuple[int, str, str]] = []
    for record in records:
        now = (record["state"], record["reason"])
        if not events or events[-1][1:] != now:
            events.append((record["wakeup_ns"], *now))
    return events


def with_rate(config: RobotConfig, rate_hz: float) -> RobotConfig:
    """Return the robot with another loop rate, and chunks no faster than it."""
    return replace(
        config,
        loop=replace(config.loop, rate_hz=rate_hz),
        chunk=replace(config.chunk, rate_hz=min(config.chunk.rate_hz, rate_hz)),
    )


class _Feeder:
    """Hands chunks to the compiled loop from this thread, as a policy would: early enough to be late without harm."""

    def __init__(
        self, loop: ControlLoop, config: RobotConfig, settings: ProfileSettings, chunk_rate_hz: float
    ) -> None:
        self._loop = loop
        self._config = config
        self._settings = settings
        self._chunk_rate_hz = chunk_rate_hz
        self._pose: Poses | None = None

    def begin(self) -> Poses:
        """Wait for the first pose (joints,), around which the joints will swing."""
        give_up = time.monotonic() + _FIRST_POSE_S
        while self._pose is None:
            observation = self._loop.observation_at(time.monotonic_ns())
            if observation is not None:
                self._pose = observation.measured
            elif time.monotonic() > give_up:
                raise RobotError(
                    f"the robot gave no pose within {_FIRST_POSE_S:g} s; look at its cable and power"
                )
            else:
                time.sleep(0.005)
        self._push()
        return self._pose

    def feed_until(self, end_ns: int) -> None:
        """Push a chunk now and then until ``end_ns``."""
        while (left_s := (end_ns - time.monotonic_ns()) * 1e-9) > 0.0:
            self._push()
            time.sleep(min(_FEED_S, left_s))

    def _push(self) -> None:
        observation = self._loop.observation_at(time.monotonic_ns())
        if observation is None or self._pose is None:
            return
        rate = self._chunk_rate_hz
        actions = swing_actions(
            self._pose,
            self._config,
            self._settings.swing,
            observation.step / self._settings.rate_hz,
            rate,
            int(_CHUNK_S * rate) + 2,
        )
        self._loop.push(actions, observation)
