"""Runs episodes: sets the scene, starts the control thread and the policy's worker, judges, stops, keeps the books."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from molmoact2_drivers import Frame, StopPolicy
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, Reason, SchedulingWarning, StopMonitor
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.runtime.camera_watch import CameraWatch
from molmoact2_edge.runtime.hardware_fit import unmeasured_levels
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.latency import COMPUTED, Latencies
from molmoact2_edge.runtime.policy_calls import (
    CallCounts,
    PolicyCalls,
    PolicyLike,
    PredictionLike,
    WarmablePolicy,
)
from molmoact2_edge.runtime.realtime_chunking import CallDelay
from molmoact2_edge.runtime.scenario import Scenario
from molmoact2_edge.runtime.status import StatusDisplay, gate_counts
from molmoact2_edge.runtime.trace import EpisodeTrace, GateEvent
from molmoact2_edge.runtime.video import VideoRecorder
from molmoact2_edge.runtime.worker import PolicyWorker, SupervisedPolicy
from molmoact2_edge.telemetry.blackbox import ring_capacity
from molmoact2_edge.telemetry.journal import Journal
from molmoact2_edge.telemetry.session import RunTelemetry, TelemetrySettings

_POLL_S = 0.05
_FRAME_POLL_S = 0.005
_FIRST_FRAMES_S = 5.0


@dataclass(frozen=True)
class RunSettings:
    """What a run was asked to do."""

    episodes: int = 3
    seed: int = 0
    """Episode k has the seed ``seed + k``: its scene, its instruction, its flow noise."""
    task: str | None = None
    """None: each episode's own instruction."""
    duration_s: float = 30.0
    """An episode that is not over by then ends as a failure."""
    video: Path | None = None
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"episodes must be at least 1, got {self.episodes}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        if not 0.0 < self.duration_s < float("inf"):
            raise InputError(f"duration must be above 0 seconds, got {self.duration_s:g}")


@dataclass
class EpisodeResult:
    """One episode, as the report shows it."""

    index: int
    seed: int
    instruction: str
    success: bool = False
    reason: str = ""
    completed: bool = False
    """False where a signal, a fault or an error ended it."""
    duration_s: float = 0.0
    ticks: int = 0
    executed_steps: int = 0
    policy_calls: int = 0
    chunks: int = 0
    guided_chunks: int = 0
    held_back: dict[str, int] = field(default_factory=dict)
    held_back_messages: dict[str, str] = field(default_factory=dict)
    gate_events: list[GateEvent] = field(default_factory=list)
    gate_events_dropped: int = 0
    telemetry_lost: int = 0


class Runner:
    """Owns the control loop of a run; one thread calls it."""

    def __init__(
        self,
        scenario: Scenario,
        policy: PolicyLike,
        config: RobotConfig,
        settings: RunSettings,
        status: StatusDisplay,
    ) -> None:
        self.config = config
        self.settings = settings
        self.scenario = scenario
        self.results: list[EpisodeResult] = []
        self.latencies = Latencies()
        self.journal = Journal()
        self.first_call_s: float | None = None
        self.warnings: list[SchedulingWarning] = []
        self.video_failure: str | None = None
        self.stop_pose_failure: str | None = None
        self.stop_socket_failure: str | None = None
        self.unmeasured = unmeasured_levels(config, scenario.robot.capabilities)
        """Watchdogs that are configured and will never see a reading."""
        self.telemetry: RunTelemetry | None = None
        """There from the beginning of :meth:`run` on."""
        self._policy = policy
        self._delay = CallDelay(config.chunk.rtc.delay_quantile)
        self._status = status
        self.loop = build_loop(config, scenario)
        self._telemetry_position = 0
        self._posed = False

    def run(self, interruption: Interruption) -> None:
        """Run the episodes, until done or asked to end; results are in :attr:`results` even if this raises."""
        recorder = None
        if self.settings.video is not None:
            recorder = VideoRecorder(self.settings.video, self.scenario.cameras)
        for sentence in self.unmeasured:
            self._status.line(f"warning: {sentence}")
        try:
            self.telemetry = RunTelemetry(
                self.settings.telemetry, self.loop, self.scenario.cameras, self.config, self.journal
            )
            with self._stop_monitor() as stops, self._camera_watch():
                self._status.line(f"stops on {', '.join(stops.sources)}")
                try:
                    self._run_episodes(recorder, interruption)
                finally:
                    self.stop_socket_failure = stops.failure
        except Exception as error:
            self.request_black_box(f"error: {type(error).__name__}")
            raise
        finally:
            self.loop.stop()
            self._take_stop_pose()
            if self.telemetry is not None:
                self.telemetry.close()
            if recorder is not None:
                self.video_failure = recorder.close()

    def _run_episodes(self, recorder: VideoRecorder | None, interruption: Interruption) -> None:
        self._warm_up()
        for index in range(self.settings.episodes):
            if interruption.asked or self.stop_reason is not None or self._policy_spent:
                break
            self._episode(index, recorder, interruption)
            if self._faulted:
                break  # another run of the loop would clear it, and that is a person's to decide

    def request_black_box(self, reason: str) -> None:
        """Have the last seconds of the loop written to a file; returns at once. Safe in a signal handler."""
        if self.telemetry is not None:
            self.telemetry.request_black_box(reason)

    def _stop_monitor(self) -> StopMonitor:
        stop = self.config.stop
        return StopMonitor(
            self.loop,
            key=sys.stdin.fileno() if stop.key and _has_terminal() else None,
            file=stop.file,
            socket=stop.socket,
            signals=threading.current_thread() is threading.main_thread(),
        )

    def _camera_watch(self) -> AbstractContextManager[object]:
        return CameraWatch(self.loop, self.scenario.cameras)

    @property
    def stop_reason(self) -> Reason | None:
        """Which stop was asked for, for good; None as long as there was none."""
        reason = self.loop.latched_stop
        return None if reason == Reason.NONE else reason

    @property
    def successes(self) -> int:
        return sum(result.success for result in self.results)

    @property
    def completed(self) -> bool:
        """Whether every episode that was asked for ran to its own end."""
        return len(self.results) == self.settings.episodes and all(r.completed for r in self.results)

    def time_facts(self) -> dict[str, Any]:
        """What the report says about time."""
        return {"mode": "real"}

    def _take_stop_pose(self) -> None:
        """Have the driver do what the configuration wants of the motors once the arm is at rest; once in a run."""
        if self._posed:
            return
        self._posed = True
        try:
            self.scenario.robot.stop(StopPolicy(self.config.stop.pose))
        except RobotError as error:
            self.stop_pose_failure = f"{error}"
            self._status.line(
                f"warning: the motors did not take the stop pose {self.config.stop.pose}: {error}"
            )

    def _is_last(self, result: EpisodeResult, interruption: Interruption) -> bool:
        asked = interruption.asked or self.stop_reason is not None
        return asked or not result.completed or result.index + 1 == self.settings.episodes

    @property
    def _faulted(self) -> bool:
        last = self.loop.last_record()
        return self.scenario.robot.fault is not None or (
            last is not None and last["state"] == GateState.FAULT
        )

    @property
    def _policy_spent(self) -> bool:
        return isinstance(self._policy, SupervisedPolicy) and self._policy.spent

    def _warm_up(self) -> None:
        """Two calls before anything moves: the first is slow, and wrong input shows here, not as a hold.

        The second tells how long a call takes, which the first chunks of real-time chunking need to know.
        """
        instruction = self.scenario.begin(self.settings.seed, self.settings.task)
        norm_tag, convention = self.config.policy.norm_tag, self.config.policy.joint_convention
        for first in (True, False):
            frames = self._fresh_frames()
            images, state = [frame.image for frame in frames], self.scenario.robot.read_state().positions
            begin = time.perf_counter()
            prediction = self._policy.predict(
                images, instruction, state, norm_tag, seed=self.settings.seed, convention=convention
            )
            if first:
                self.first_call_s = time.perf_counter() - begin
                if isinstance(self._policy, WarmablePolicy):
                    self._policy.warmup(images, instruction, state, norm_tag, convention=convention)
            self._delay.add((time.monotonic_ns() - min(frame.time_ns for frame in frames)) * 1e-9)
            self._require_its_joints(prediction)

    def _fresh_frames(self) -> list[Frame]:
        """One frame per camera, exposed after this call."""
        begun_ns = time.monotonic_ns()
        give_up = time.monotonic() + _FIRST_FRAMES_S
        frames = [camera.latest() for camera in self.scenario.cameras.values()]
        while min(frame.time_ns for frame in frames) < begun_ns:
            if time.monotonic() > give_up:
                raise RobotError(f"the cameras gave no new image within {_FIRST_FRAMES_S:g} s")
            time.sleep(_FRAME_POLL_S)
            frames = [camera.latest() for camera in self.scenario.cameras.values()]
        return frames

    def _require_its_joints(self, prediction: PredictionLike) -> None:
        expected = len(self.config.joints)
        if prediction.valid and prediction.actions.shape[1:] != (expected,):
            raise InputError(
                f"the policy gives actions of shape {prediction.actions.shape}, robot {self.config.name!r} has "
                f"{expected} joints; check checkpoint and norm_tag"
            )

    def _episode(self, index: int, recorder: VideoRecorder | None, interruption: Interruption) -> None:
        seed = self.settings.seed + index
        instruction = self.scenario.begin(seed, self.settings.task)
        result = EpisodeResult(index, seed, instruction)
        calls = PolicyCalls(
            self.loop,
            self.config,
            task=instruction,
            seed=seed,
            delay=self._delay,
            latencies=self.latencies,
            journal=self.journal,
        )
        worker = PolicyWorker(self._policy, calls, self.scenario.cameras, self.config)
        trace = EpisodeTrace(self.loop, self._telemetry_position, self.latencies)
        if recorder is not None:
            recorder.begin(instruction)
        assert self.telemetry is not None
        self.telemetry.begin_episode(instruction)
        self.warnings = self.loop.start()
        begun = time.monotonic()
        worker.start()
        self.results.append(result)
        try:
            self._watch(result, worker, trace, begun, interruption)
        finally:
            self.loop.request_stop(by_signal=interruption.asked)
            self.loop.stop()
            if self._is_last(result, interruption):
                # Before anything that may take its time: a recording that is written, a call that does not come back.
                self._take_stop_pose()
            result.duration_s = round(time.monotonic() - begun, 3)
            trace.drain()
            self._telemetry_position = trace.newest
            keep_books(result, worker.counts, trace)
            broken = result.reason.startswith(("robot: ", "policy: "))
            self.telemetry.end_episode(result.reason if broken else None)
            if recorder is not None:
                recorder.end(f"{instruction}: {'success' if result.success else 'failure'}")
            worker.stop()
        self._tell(result)

    def _tell(self, result: EpisodeResult) -> None:
        verdict = ("success, " if result.success else "failure, ") if self.scenario.judged else ""
        self._status.line(
            f"episode {result.index + 1}/{self.settings.episodes}  seed {result.seed}  {result.instruction!r}: "
            f"{verdict}{result.reason}"
        )

    def _watch(
        self,
        result: EpisodeResult,
        worker: PolicyWorker,
        trace: EpisodeTrace,
        begun: float,
        interruption: Interruption,
    ) -> None:
        while True:
            outcome = self.scenario.outcome()
            trace.drain()
            last = trace.last
            if outcome.done:
                result.completed, result.success, result.reason = True, outcome.success, outcome.reason
                return
            if last is not None and last["state"] == GateState.FAULT:
                result.reason = f"fault: {last['reason']}"
                return
            if self.scenario.robot.fault is not None:
                result.reason = f"robot: {self.scenario.robot.fault}"
                return
            if worker.lost is not None:
                result.reason = f"policy: {worker.lost}"
                return
            if time.monotonic() - begun >= self.settings.duration_s:
                over = "not over" if self.scenario.judged else "ended"
                result.completed, result.reason = True, f"{over} after {self.settings.duration_s:g} s"
                return
            if interruption.wait(_POLL_S):
                assert interruption.signal is not None
                result.reason = f"ended by {interruption.signal.name}"
                return
            if self.stop_reason is not None:
                result.reason = f"stopped: {self.stop_reason.text}"
                return
            if self._status.live:
                self._status.update(self._block(result, worker, trace, time.monotonic() - begun))

    def _block(
        self, result: EpisodeResult, worker: PolicyWorker, trace: EpisodeTrace, elapsed_s: float
    ) -> list[str]:
        statistics = self.loop.statistics()
        period = statistics["period"]
        last = trace.last
        total = self.latencies.median_s("total")
        lag = self.latencies.median_s("observation_to_action")
        counts = worker.counts
        gate = "" if last is None else f"{last['state']} ({last['reason']})  step {last['step']}"
        so_far = gate_counts(statistics["reason_ticks"])
        stages = {stage: self.latencies.median_s(stage) for stage in COMPUTED}
        computed = "  ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in stages.items() if seconds)
        return [
            f"episode {result.index + 1}/{self.settings.episodes}  {result.instruction!r}  {elapsed_s:.1f} s   "
            f"successes {self.successes}",
            f"loop    period p50 {period['p50_s'] * 1e3:.2f} ms  p99 {period['p99_s'] * 1e3:.2f} ms  "
            f"max {period['max_s'] * 1e3:.2f} ms   overruns {statistics['overruns']}",
            f"policy  {counts.calls} calls  {counts.chunks} chunks   call {_ms(total)}  "
            f"observation to action {_ms(lag)}"
            + (f"   held back: {dict(counts.held_back)}" if counts.held_back else ""),
            f"images  age {_ms(self.latencies.median_s('camera_age'))}",
            f"stages  {computed} ms" if computed else "stages  -",
            f"gate    {gate}" + (f"   ticks: {so_far}" if so_far else ""),
        ]


def _has_terminal() -> bool:
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):  # there is no standard input, or it is closed
        return False


def build_loop(config: RobotConfig, scenario: Scenario) -> ControlLoop:
    """Return the control loop for a robot as its configuration wants it."""
    loop = config.loop
    return ControlLoop(
        scenario.robot.port(),
        config.limits(),
        rate_hz=loop.rate_hz,
        chunk_rate_hz=config.chunk.rate_hz,
        mode=config.chunk.mode,
        blend_steps=round(config.chunk.blend_s * loop.rate_hz),
        resampling=config.chunk.resampling,
        frozen_tolerance=config.chunk.rtc.tolerance,
        lost_writes_max=loop.lost_writes_max,
        watchdogs=config.watchdog_settings(),
        silence_hold_s=loop.silence_hold_s,
        silence_fault_s=loop.silence_fault_s,
        start_speed=loop.start_speed,
        start_distance_max=config.start_distances(),
        fifo_priority=loop.fifo_priority,
        telemetry_capacity=ring_capacity(loop.rate_hz),
        lock_memory=loop.lock_memory,
        cpus=loop.cpus,
    )


def keep_books(result: EpisodeResult, counts: CallCounts, trace: EpisodeTrace) -> None:
    """Write down what an episode's calls and ticks came to."""
    result.ticks = trace.ticks
    result.executed_steps = trace.executed_steps
    result.policy_calls = counts.calls
    result.chunks = counts.chunks
    result.guided_chunks = counts.guided
    result.held_back = dict(counts.held_back)
    result.held_back_messages = dict(counts.messages)
    result.gate_events = trace.events
    result.gate_events_dropped = trace.dropped_events
    result.telemetry_lost = trace.lost


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"


def settings_dict(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as JSON-ready values."""
    telemetry = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(settings.telemetry).items()
    }
    video = None if settings.video is None else str(settings.video)
    return {**vars(settings), "video": video, "telemetry": telemetry}
