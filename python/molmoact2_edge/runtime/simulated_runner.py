"""Runs episodes in simulated time: the same loop, gate, splice, physics and cameras, in one thread and on one clock.

Nothing waits, so that an episode takes as long as its computations; and nothing depends on how long those take, so that
a seed gives the same run to the bit. How long the policy's calls last is given by an :class:`InferenceTime`.
"""

from __future__ import annotations

import hashlib
import struct
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import GateState, TickRecord
from molmoact2_edge.errors import InputError, MolmoAct2Error, RobotError
from molmoact2_edge.runtime.agenda import Agenda
from molmoact2_edge.runtime.inference_time import DrawnTimes, InferenceTime
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.latency import Latencies
from molmoact2_edge.runtime.policy_calls import PolicyCalls, PolicyLike, PredictionLike, Request
from molmoact2_edge.runtime.runner import EpisodeResult, Runner, RunSettings, keep_books
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.runtime.stepped_table import SteppedTable
from molmoact2_edge.runtime.trace import EpisodeTrace
from molmoact2_edge.runtime.video import VideoRecorder
from molmoact2_edge.runtime.worker import SupervisedPolicy

_STOP_TIMEOUT_NS = 5_000_000_000
_PAUSE_AFTER_ERROR_NS = 50_000_000
_DRAIN_TICKS = 50  # the telemetry ring holds some seconds
# Of what is due at the same time: the state that physics publish is the one that the tick reads, and so on.
_PHYSICS, _CAMERA, _ARRIVAL, _TICK = range(4)


@dataclass(frozen=True)
class TimedPrediction:
    """A prediction that took the time it was given."""

    actions: npt.NDArray[np.float32]
    valid: bool
    reason: str
    timing: dict[str, float]


class TrajectoryHash:
    """SHA-256 over every tick: time, state, reason, step, chunk, and the bits of all poses."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def take(self, record: TickRecord, begin_ns: int) -> None:
        """Add a tick; ``begin_ns`` is when its episode began."""
        numbers = struct.pack("<3q?d", record["deadline_ns"] - begin_ns, record["step"], record["remaining_steps"],
                              record["followed"], record["action"])  # fmt: skip
        self._hash.update(numbers)
        self._hash.update(f"{record['state']} {record['reason']} {record['rejected_chunk']};".encode())
        for pose in (record["measured"], record["target"], record["command"]):
            self._hash.update(pose.tobytes())

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


class SimulatedRunner(Runner):
    """A :class:`.Runner` whose time is simulated."""

    def __init__(
        self,
        scenario: SteppedTable,
        policy: PolicyLike,
        config: RobotConfig,
        settings: RunSettings,
        status: StatusDisplay,
        inference_time: InferenceTime,
    ) -> None:
        """
        Raises:
            InputError: the settings ask for a video, a recording or a viewer, which follow real time.
        """
        unusable = {
            "--video": settings.video,
            "--record": settings.telemetry.record,
            "--viz": settings.telemetry.viz,
        }
        for option, value in unusable.items():
            if value is not None:
                raise InputError(f"{option} follows real time and cannot be used with --time simulated")
        super().__init__(scenario, policy, config, settings, status)
        self.inference_time = inference_time
        self.hashes: list[str] = []
        """One per episode."""
        self._table = scenario
        self._call_seconds: list[float] = []
        self._simulated_ns = 0
        self._begun = time.perf_counter()

    def time_facts(self) -> dict[str, Any]:
        """What the report says about time; all but ``wall_clock`` is the same in every run with the same seed."""
        whole = hashlib.sha256("".join(self.hashes).encode()).hexdigest()
        simulated_s = self._simulated_ns * 1e-9
        elapsed_s = time.perf_counter() - self._begun
        calls = Latencies()
        for seconds in self._call_seconds:
            calls.add("total", seconds)
        return {
            "mode": "simulated",
            "simulated_s": round(simulated_s, 3),
            "inference_time": str(self.inference_time),
            "trajectory_sha256": whole,
            "episode_sha256": self.hashes,
            "wall_clock": {
                "seconds": round(elapsed_s, 3),
                "times_real_time": round(simulated_s / elapsed_s, 2),
                "policy_calls": calls.report(),
            },
        }

    def _camera_watch(self) -> AbstractContextManager[object]:
        return nullcontext()  # each exposure is reported as it happens

    def _warm_up(self) -> None:
        """Two calls before anything moves: wrong input shows here, not as a hold, and the splice learns the delay."""
        self._begun = time.perf_counter()
        instruction = self.scenario.begin(self.settings.seed, self.settings.task)
        times = self.inference_time.drawn(self.settings.seed)
        for camera in self._table.stepped_cameras:
            camera.expose()
        for _ in range(2):
            prediction = self._policy.predict(
                [camera.latest().image for camera in self.scenario.cameras.values()],
                instruction,
                self.scenario.robot.read_state().positions,
                self.config.policy.norm_tag,
                seed=self.settings.seed,
                convention=self.config.policy.joint_convention,
            )
            self._require_its_joints(prediction)
            self._delay.add(times.next_ns() * 1e-9)

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
        trace = EpisodeTrace(self.loop, self._telemetry_position, self.latencies)
        episode = SimulatedEpisode(self, calls, self.inference_time.drawn(seed), trace)
        assert self.telemetry is not None
        self.telemetry.begin_episode(instruction)
        self.results.append(result)
        try:
            episode.run(result, interruption)
        finally:
            if self._is_last(result, interruption):
                self._take_stop_pose()
            result.duration_s = round(episode.elapsed_s, 3)
            self._simulated_ns += episode.elapsed_ns
            self._call_seconds += episode.call_seconds
            self._telemetry_position = trace.newest
            self.hashes.append(episode.hash.hex)
            keep_books(result, calls.counts, trace)
            broken = result.reason.startswith(("robot: ", "policy: "))
            self.telemetry.end_episode(result.reason if broken else None)
        self._tell(result)

    @property
    def table(self) -> SteppedTable:
        """The scenario, as it is stepped."""
        return self._table

    @property
    def policy(self) -> PolicyLike:
        """Who is asked."""
        return self._policy


class SimulatedEpisode:
    """One episode: everything that happens is an entry of one agenda."""

    def __init__(
        self, runner: SimulatedRunner, calls: PolicyCalls, times: DrawnTimes, trace: EpisodeTrace
    ) -> None:
        self.hash = TrajectoryHash()
        self.call_seconds: list[float] = []
        """How long each call of the policy really took."""
        self._runner = runner
        self._loop = runner.loop
        self._table = runner.table
        self._clock = runner.table.clock
        self._config = runner.config
        self._calls = calls
        self._times = times
        self._trace = trace
        self._agenda = Agenda()
        self._begin_ns = self._clock.now_ns
        self._position = trace.newest
        self._ticks = 0
        self._asked: Request | None = None
        self._look_from_ns = 0
        self._seen_ns = 0
        self._lost: str | None = None
        self._ending = False

    @property
    def elapsed_ns(self) -> int:
        """Simulated time since the episode began."""
        return self._clock.now_ns - self._begin_ns

    @property
    def elapsed_s(self) -> float:
        return self.elapsed_ns * 1e-9

    def run(self, result: EpisodeResult, interruption: Interruption) -> None:
        """Let it happen until the judge, a fault, the limit or a signal ends it, and the arm is at rest."""
        begin, agenda, table = self._begin_ns, self._agenda, self._table
        self._loop.begin_stepped(begin)
        for number, camera in enumerate(table.stepped_cameras):
            # The first frame of the new scene; the cameras are free-running, not triggered by the episode.
            self._expose(number)
            agenda.every(begin, camera.capabilities.rate_hz, _CAMERA, partial(self._expose, number))
        agenda.every(begin, 1.0 / table.robot.period_s, _PHYSICS, table.robot.step)
        agenda.every(begin, self._config.loop.rate_hz, _TICK, self._tick)
        try:
            while not self._over(result, interruption):
                self._advance()
        finally:
            self._ending = True
            self._loop.request_stop(by_signal=interruption.asked)
            give_up = self._clock.now_ns + _STOP_TIMEOUT_NS
            while not self._at_rest() and self._clock.now_ns < give_up:
                self._advance()
            self._drain()

    def _advance(self) -> None:
        """Go on to the next time at which something happens, and let all of it happen."""
        agenda = self._agenda
        now = self._clock.now_ns = agenda.next_ns
        while agenda.next_ns == now:
            agenda.do_next()
        self._look()

    def _over(self, result: EpisodeResult, interruption: Interruption) -> bool:
        outcome = self._table.outcome()
        last = self._loop.last_record() if self._ticks else None
        if outcome.done:
            result.completed, result.success, result.reason = True, outcome.success, outcome.reason
        elif last is not None and last["state"] == GateState.FAULT:
            result.reason = f"fault: {last['reason']}"
        elif self._table.robot.fault is not None:
            result.reason = f"robot: {self._table.robot.fault}"
        elif self._lost is not None:
            result.reason = f"policy: {self._lost}"
        elif self.elapsed_s >= self._runner.settings.duration_s:
            result.completed = True
            result.reason = f"not over after {self._runner.settings.duration_s:g} s"
        elif interruption.asked:
            assert interruption.signal is not None
            result.reason = f"ended by {interruption.signal.name}"
        elif self._runner.stop_reason is not None:
            result.reason = f"stopped: {self._runner.stop_reason.text}"
        else:
            return False
        return True

    def _at_rest(self) -> bool:
        last = self._loop.last_record()
        return last is not None and last["state"] in (GateState.IDLE, GateState.FAULT)

    # What happens ------------------------------------------------------------------------------------------------

    def _expose(self, number: int) -> None:
        camera = self._table.stepped_cameras[number]
        camera.expose()
        self._loop.report_frame(number, camera.exposed_ns)

    def _tick(self) -> None:
        self._loop.tick(self._clock.now_ns)
        self._ticks += 1
        if self._ticks % _DRAIN_TICKS == 0:
            self._drain()

    def _drain(self) -> None:
        self._trace.drain()
        telemetry = self._loop.records(self._position)
        self._position = telemetry.newest
        for record in telemetry.records:
            self.hash.take(record, self._begin_ns)

    def _look(self) -> None:
        """Ask the policy, if it is free and due; its chunk arrives when its time is over."""
        now = self._clock.now_ns
        if self._ending or self._asked is not None or now < self._look_from_ns or self._lost is not None:
            return
        if not self._policy_there() or not self._calls.due(now):
            return
        oldest_ns = min(camera.exposed_ns for camera in self._table.stepped_cameras)
        if now - oldest_ns > self._config.policy.frame_age_max_s * 1e9:
            self._calls.counts.hold_back(
                "camera_stale",
                f"the newest image was {(now - oldest_ns) * 1e-9:.2f} s old; "
                f"{self._config.policy.frame_age_max_s:g} s is the limit",
            )
            self._pause()
            return
        if oldest_ns <= self._seen_ns:
            return  # no news: not even drawn
        try:
            frames = [camera.latest() for camera in self._table.cameras.values()]
        except RobotError as error:
            self._calls.counts.hold_back("camera_error", str(error))
            self._pause()
            return
        request = self._calls.begin(frames, now)
        if request is None:
            return
        self._asked, self._seen_ns = request, request.observed_ns
        lasts_ns = self._times.next_ns()
        begin = time.perf_counter()
        try:
            prediction = request.ask(self._runner.policy, self._config)
        except Exception as error:  # as in real time: the loop holds, the report says why
            failure = error
            self._agenda.at(now + lasts_ns, _ARRIVAL, lambda: self._failed(request, failure))
            return
        self.call_seconds.append(time.perf_counter() - begin)
        timed = TimedPrediction(
            prediction.actions, prediction.valid, prediction.reason, {"total": lasts_ns * 1e-9}
        )
        self._agenda.at(now + lasts_ns, _ARRIVAL, lambda: self._arrived(request, timed))

    def _arrived(self, request: Request, prediction: PredictionLike) -> None:
        self._asked = None
        if not self._ending:
            self._calls.finish(request, prediction, self._clock.now_ns)

    def _failed(self, request: Request, error: Exception) -> None:
        self._asked = None
        self._calls.fail(request, error, self._clock.now_ns)
        self._pause()

    def _pause(self) -> None:
        self._look_from_ns = self._clock.now_ns + _PAUSE_AFTER_ERROR_NS

    def _policy_there(self) -> bool:
        """Bring a lost process back, where that is allowed; simulated time stands still meanwhile."""
        policy = self._runner.policy
        if not isinstance(policy, SupervisedPolicy) or policy.failure is None:
            return True
        self._lost = str(policy.failure)
        if not policy.spent:
            try:
                policy.revive()
            except MolmoAct2Error as error:
                self._lost = str(error)
            else:
                self._lost = None
                self._calls.policy_restarted()
        return self._lost is None
