"""The loop's rules in plain Python: from what goes in, which state and reason must come out.

Positions, velocities and accelerations are not modelled: what the gate commands is judged by its limits. Written from
the description of the rules, not from the compiled code; where that adds numbers in some order, this does too, because
a comparison with a limit may hang on the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from molmoact2_edge._core import control as compiled

HOLDABLE = ("running", "holding")
LIMITS = ("position_limit", "velocity_limit", "acceleration_limit", "jerk_limit")


@dataclass
class Setting:
    """What a loop was made with. Times in nanoseconds."""

    position: float
    velocity: float
    jump: float
    start_distance: float
    start_speed: float
    period_s: float
    actions_per_step: float
    mode: str
    resampling: str
    blend_steps: int
    silence_hold: int
    silence_fault: int
    lost_writes: int
    chunk_age: int
    camera_age: int
    warm: float
    hot: float
    hysteresis: float


@dataclass
class Chunk:
    rows: np.ndarray
    observed_step: int
    observed_ns: int
    run: int
    number: int = 0


@dataclass
class Tick:
    """What one tick meets."""

    now: int
    published: np.ndarray | None = None
    published_ns: int = 0
    temperatures: np.ndarray | None = None
    arrival: Chunk | None = None
    frame_ns: int = 0
    stop: str | None = None


@dataclass
class Expected:
    state: tuple[str, ...]
    reason: tuple[str, ...]
    followed: bool
    step: int
    chunk: int
    target: list[float] | None
    writes: bool = True
    """Whether a command is given to the robot, which may lose it."""
    placed: list[float] | None = None
    """Where the command must be, whatever it was before: none of the last ones has reached the arm."""


@dataclass
class Rules:
    """One run of one loop."""

    setting: Setting
    run: int
    begun: int
    state: str = "idle"
    reason: str = "not_reset"
    step: int = 0
    phase: str = "no pose"
    command: list[float] = field(default_factory=list)
    measured: list[float] | None = None
    measured_ns: int = 0
    temperatures: list[float] | None = None
    last_write: int = 0
    lost: int = 0
    lost_since: int = 0
    rebase_pose: list[float] = field(default_factory=list)
    warm: list[bool] = field(default_factory=lambda: [False, False])
    chunk: Chunk | None = None
    waiting: Chunk | None = None
    rejection: str = "none"
    asked_step: int | None = None
    stop: str | None = None
    start: list[float] = field(default_factory=list)
    pose: list[float] = field(default_factory=list)
    next: list[float] = field(default_factory=list)
    on_curve: bool = False
    period: int = 0
    periods: int = 0

    def __post_init__(self) -> None:
        s = self.setting
        # Only for the numbers of targets; which chunk is played is decided here.
        self.buffer = compiled.ChunkBuffer(
            2, "async" if s.mode == "sync" else s.mode, s.actions_per_step, s.blend_steps, s.resampling, 64
        )

    def expect(self, tick: Tick) -> Expected:
        """Return what the tick must do; afterwards tell the command it gave with :meth:`commanded`."""
        if tick.published is not None and tick.published_ns >= self.begun:
            self.measured, self.measured_ns = tick.published.tolist(), tick.published_ns
            self.temperatures = None if tick.temperatures is None else tick.temperatures.tolist()
        if self.phase == "no pose" and self.state != "fault":
            self._first_pose(tick.now)
        self.stop = self.stop or tick.stop
        if self.stop and self.state in HOLDABLE:
            self.state, self.reason = "stopping", self.stop
        placed = self._find_arm(tick.now) if self.phase != "no pose" else None
        target, absence = self._next(tick.arrival)
        if self.phase == "no pose":
            reason = self.reason if self.state == "fault" else self._without_pose()
            return Expected((self.state,), (reason,), False, self.step, self._number(), target, writes=False)
        writes = self.lost <= self.setting.lost_writes or placed is not None
        expected = self._gate(tick, target, absence)
        expected.writes, expected.placed = writes, placed
        return expected

    def _gate(self, tick: Tick, target: list[float] | None, absence: str) -> Expected:
        finite = target is not None and all(map(math.isfinite, target))
        if finite and self.phase in ("no target", "approaching"):
            assert target is not None
            target = self._approach(target)
        fault, hold = self._watch(tick, executes=target is not None and self.phase == "following")
        if fault:
            self._fault(fault)
        if self.phase == "rebasing" and not hold:
            hold = "bus_write_failed" if self.lost > self.setting.lost_writes else "arm_not_following"
        if hold:
            target, absence = None, hold
        refusal = self._refuse(target, absence, None if hold == "state_stale" else self.measured)
        if refusal is None:
            return self._followed(target)
        if self.state in HOLDABLE:
            self.state, self.reason = "holding", refusal
        states = ("stopping", "idle") if self.state == "stopping" else (self.state,)
        return Expected(states, (self.reason,), False, self.step, self._number(), target)

    def commanded(self, command: list[float], state: str) -> None:
        """Take note of what came out."""
        self.command = command
        if self.state == "stopping" and state == "idle":
            self.state = "idle"

    def wrote(self, now: int) -> None:
        self.last_write, self.lost = now, 0

    def lost_write(self, now: int) -> None:
        self.lost += 1
        if self.lost == 1:
            self.lost_since = now

    # Poses ---------------------------------------------------------------------------------------------------------

    def _first_pose(self, now: int) -> None:
        s = self.setting
        if self.measured is None:
            if now - self.begun > s.silence_fault:
                self._fault("state_missing")
            return
        if not all(map(math.isfinite, self.measured)):
            if now - self.begun > s.silence_fault:
                self._fault("measured_not_finite")
            return
        if not self._place():
            return
        self.state, self.reason, self.phase = "holding", "none", "no target"
        self.last_write = now

    def _place(self) -> bool:
        """Put the command where the arm is; outside the limits that is a fault, and nothing is written any more."""
        s = self.setting
        assert self.measured is not None
        self.command = [min(max(value, -s.position), s.position) for value in self.measured]
        outside = any(
            abs(m - c) > s.velocity * s.period_s for m, c in zip(self.measured, self.command, strict=True)
        )
        if outside:
            self._fault("start_outside_limits")
        return not outside

    def _find_arm(self, now: int) -> list[float] | None:
        """Judge whether the arm can be where the command is; returns where the command is put, if it is."""
        s, measured = self.setting, self.measured
        assert measured is not None
        known = all(map(math.isfinite, measured)) and abs(now - self.measured_ns) <= s.silence_hold
        if self.lost > s.lost_writes:
            self.phase, self.rebase_pose = "rebasing", self.command
            if not known or self.measured_ns < self.lost_since:
                return None
            self.phase = "rebasing" if self._place() else "no pose"
            self.rebase_pose = self.command
            return self.command
        if self.phase == "rebasing" and any(
            abs(c - p) > 0.01 * s.jump for c, p in zip(self.command, self.rebase_pose, strict=True)
        ):
            return None
        if known and any(abs(c - m) > s.jump for c, m in zip(self.command, measured, strict=True)):
            self.phase = "rebasing"
            self.rebase_pose = [min(max(value, -s.position), s.position) for value in measured]
        elif self.phase == "rebasing":
            self.phase = "no target"
        return None

    def _without_pose(self) -> str:
        return "state_missing" if self.measured is None else "measured_not_finite"

    def _fault(self, reason: str) -> None:
        if self.state != "fault":
            self.state, self.reason = "fault", reason

    # Chunks --------------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        return 0 if self.chunk is None else self.chunk.number

    def _covers(self, chunk: Chunk) -> bool:
        position = (self.step - chunk.observed_step) * self.setting.actions_per_step
        return self.step >= chunk.observed_step and position < len(chunk.rows) - 1e-9

    def _next(self, arrival: Chunk | None) -> tuple[list[float] | None, str]:
        if arrival is not None:
            self.waiting = arrival
        if self.waiting is not None:
            playing = self.chunk is not None and self._covers(self.chunk) and self.step != self.asked_step
            if not (self.setting.mode == "sync" and playing):
                self._judge(self.waiting)
                self.waiting = None
        if self.chunk is None or not self._covers(self.chunk):
            nothing = "waiting_for_chunk" if self.chunk is None else "chunk_exhausted"
            return None, nothing if self.rejection == "none" else self.rejection
        self.asked_step = self.step
        target = self.buffer.next(self.step)[0]
        assert target is not None
        return target.tolist(), "none"

    def _judge(self, chunk: Chunk) -> None:
        if chunk.run != self.run:
            self.rejection = "chunk_of_other_run"
        elif len(chunk.rows) == 0:
            self.rejection = "chunk_empty"
        elif chunk.observed_step > self.step:
            self.rejection = "chunk_from_future"
        elif self.chunk is not None and chunk.observed_step < self.chunk.observed_step:
            self.rejection = "chunk_out_of_order"
        elif not self._covers(chunk):
            self.rejection = "chunk_late"
        else:
            self.chunk, self.rejection = chunk, "none"
            self.buffer.push(chunk.rows, chunk.observed_step, 0)

    # The start -----------------------------------------------------------------------------------------------------

    def _approach(self, target: list[float]) -> list[float]:
        s = self.setting
        if self.phase == "no target":
            self.start, self.pose, self.period = self.command, self.command, 0
            longest = max(
                15.0 / 8.0 * min(abs(t - c), s.start_distance) / (s.velocity * s.start_speed)
                for t, c in zip(target, self.start, strict=True)
            )
            self.periods = math.ceil(longest / s.period_s)
            self.phase = "approaching" if self.periods > 1 else "following"
        if any(abs(t - c) > s.start_distance for t, c in zip(target, self.start, strict=True)):
            self._fault("start_too_far")
        if self.phase != "approaching":
            return target
        share = min((self.period + 1) / self.periods, 1.0)
        along = share * share * share * (10.0 + share * (6.0 * share - 15.0))
        most = s.velocity * s.start_speed * s.period_s
        curve = [c + (t - c) * along for t, c in zip(target, self.start, strict=True)]
        self.next = [min(max(c, p - most), p + most) for c, p in zip(curve, self.pose, strict=True)]
        self.on_curve = self.next == curve
        return self.next

    # Watchdogs -----------------------------------------------------------------------------------------------------

    def _watch(self, tick: Tick, executes: bool) -> tuple[str, str]:
        s, now = self.setting, tick.now
        warm = hot = False
        if self.temperatures is not None:
            for joint, value in enumerate(self.temperatures):
                if not value <= s.warm:
                    self.warm[joint] = True
                elif value < s.warm - s.hysteresis:
                    self.warm[joint] = False
                hot = hot or value > s.hot
            warm = any(self.warm)
        observed = 0 if self.chunk is None else self.chunk.observed_ns
        faults = (
            (now - self.measured_ns > s.silence_fault, "state_lost"),
            (now - self.last_write > s.silence_fault, "bus_write_failed"),
            (hot, "temperature_limit"),
        )
        holds = (
            (now - self.measured_ns > s.silence_hold, "state_stale"),
            (now - self.last_write > s.silence_hold, "bus_write_failed"),
            (now - max(tick.frame_ns, self.begun) > s.camera_age, "camera_stale"),
            (executes and now - observed > s.chunk_age, "chunk_stale"),
            (warm, "temperature_high"),
        )
        return next((name for true, name in faults if true), ""), next((n for true, n in holds if true), "")

    # The gate ------------------------------------------------------------------------------------------------------

    def _refuse(self, target: list[float] | None, absence: str, measured: list[float] | None) -> str | None:
        s = self.setting
        if target is not None and not all(map(math.isfinite, target)):
            return "target_not_finite"
        if measured is not None and not all(map(math.isfinite, measured)):
            return "measured_not_finite"
        if target is None:
            return absence
        if self.state not in HOLDABLE:
            return self.reason
        reference = self.command if measured is None else measured
        for value, pose in zip(target, reference, strict=True):
            if abs(min(max(value, -s.position), s.position) - pose) > s.jump:
                return "jump"
        return None

    def _followed(self, target: list[float] | None) -> Expected:
        self.state, self.reason = "running", "none"
        if self.phase == "approaching":
            self.period, self.pose = self.period + 1, self.next
            if self.period >= self.periods and self.on_curve:
                self.phase = "following"
            return Expected(("running",), ("starting", *LIMITS), False, self.step, self._number(), target)
        self.step += 1
        return Expected(("running",), ("none", *LIMITS), True, self.step, self._number(), target)
