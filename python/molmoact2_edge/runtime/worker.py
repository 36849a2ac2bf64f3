"""The policy in a thread of its own: looks, predicts, hands the chunk to the control loop with what it was made from.

Whatever goes wrong here never reaches the control thread: no chunk is handed over, and when the last one runs out
the loop holds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from molmoact2_drivers import Camera, Frame
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, Observation
from molmoact2_edge.errors import RobotError
from molmoact2_edge.runtime.latency import Latencies
from molmoact2_edge.telemetry.journal import Journal, PolicyCall, PushedChunk
from molmoact2_edge.types import Image

_POLL_S = 0.002
_PAUSE_AFTER_ERROR_S = 0.05
_JOIN_TIMEOUT_S = 30.0  # the slowest call of a large policy on a small computer


class PredictionLike(Protocol):
    """What the worker reads of a prediction."""

    @property
    def actions(self) -> npt.NDArray[np.float32]: ...
    @property
    def valid(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def timing(self) -> dict[str, float]: ...


class PolicyLike(Protocol):
    """What the worker asks of a policy; :class:`molmoact2_edge.Policy` is one."""

    def predict(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
    ) -> PredictionLike: ...


class WorkerCounts:
    """What the worker did in one episode. Written by its thread, read by any."""

    def __init__(self) -> None:
        self.calls = 0
        self.chunks = 0
        self.held_back: Counter[str] = Counter()
        """Why calls gave no chunk, or none was made: ``camera_stale``, ``camera_error``, ``invalid``, or an
        exception's name."""
        self.messages: dict[str, str] = {}
        """The first message for each of these."""

    def hold_back(self, name: str, message: str) -> None:
        self.held_back[name] += 1
        self.messages.setdefault(name, message)


class PolicyWorker:
    """Runs a policy for one episode of a control loop that was started."""

    def __init__(
        self,
        policy: PolicyLike,
        loop: ControlLoop,
        cameras: dict[str, Camera],
        config: RobotConfig,
        *,
        task: str,
        seed: int,
        latencies: Latencies,
        journal: Journal,
    ) -> None:
        """``seed`` seeds the noise of all calls, each of which draws its own."""
        self.counts = WorkerCounts()
        self._policy = policy
        self._loop = loop
        self._cameras = cameras
        self._config = config
        self._task = task
        self._seeds = np.random.SeedSequence(seed)
        self._latencies = latencies
        self._journal = journal
        self._replan_steps = config.chunk.replan_after * config.loop.rate_hz / config.chunk.rate_hz
        self._stopping = threading.Event()
        self._last_frame_ns = 0
        self._pushed: Observation | None = None
        self._pushed_ns = 0
        self._thread = threading.Thread(target=self._run, name="policy-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the present call end and its chunk go; raises RobotError where the call does not come back."""
        self._stopping.set()
        self._thread.join(_JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            raise RobotError(f"the policy did not come back from a call within {_JOIN_TIMEOUT_S:g} s")

    def look(self) -> list[Frame] | None:
        """Return one frame per camera, each newer than the last time; None while there is none, or it is too old."""
        try:
            frames = [camera.latest() for camera in self._cameras.values()]
        except RobotError as error:
            self.counts.hold_back("camera_error", str(error))
            self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return None
        oldest_ns = min(frame.time_ns for frame in frames)
        age_s = (time.monotonic_ns() - oldest_ns) * 1e-9
        if age_s > self._config.policy.frame_age_max_s:
            self.counts.hold_back(
                "camera_stale",
                f"the newest image was {age_s:.2f} s old; {self._config.policy.frame_age_max_s:g} s is the limit",
            )
            self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return None
        return frames if oldest_ns > self._last_frame_ns else None

    def _run(self) -> None:
        while not self._stopping.is_set():
            frames = self.look() if self._due() else None
            observation = None
            if frames is not None:
                # The splice and the state belong to the moment of the oldest image.
                observed_ns = min(frame.time_ns for frame in frames)
                observation = self._loop.observation_at(observed_ns)
            if frames is None or observation is None:
                self._stopping.wait(_POLL_S)
                continue
            self._last_frame_ns = observed_ns
            self._predict([frame.image for frame in frames], observation, observed_ns)

    def _due(self) -> bool:
        if self._pushed is None or self._replan_steps == 0:
            return True
        record = self._loop.last_record()
        if record is None:
            return False
        if record["step"] - self._pushed.step >= self._replan_steps:
            return True
        # Held although a chunk was handed over: it was refused, or is over.
        waited_s = (time.monotonic_ns() - self._pushed_ns) * 1e-9
        return record["state"] == GateState.HOLDING and waited_s > 2.0 / self._config.loop.rate_hz

    def _predict(self, images: list[Image], observation: Observation, observed_ns: int) -> None:
        self._latencies.add("camera_age", (time.monotonic_ns() - observed_ns) * 1e-9)
        self.counts.calls += 1
        begun_ns = time.monotonic_ns()
        try:
            prediction = self._policy.predict(
                images,
                self._task,
                observation.measured,
                self._config.policy.norm_tag,
                seed=int(self._seeds.spawn(1)[0].generate_state(1)[0]),
                convention=self._config.policy.joint_convention,
            )
        except Exception as error:  # the loop holds; the report says why
            self._note_call(observed_ns, begun_ns, type(error).__name__, str(error))
            self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return
        self._latencies.add_all(prediction.timing)
        if not prediction.valid:
            self._note_call(observed_ns, begun_ns, "invalid", prediction.reason, prediction.timing)
            return
        chunk = chunk_from(prediction.actions, observation, self._config.chunk.first_action_due)
        try:
            number = self._loop.push(chunk, observation)
        except ValueError as error:
            self._note_call(observed_ns, begun_ns, type(error).__name__, str(error), prediction.timing)
            return
        self._pushed, self._pushed_ns = observation, time.monotonic_ns()
        self.counts.chunks += 1
        self._note_call(observed_ns, begun_ns, "chunk", "", prediction.timing)
        self._journal.note_chunk(
            PushedChunk(number, observation.run, observation.step, observed_ns, self._pushed_ns, chunk)
        )

    def _note_call(
        self,
        observed_ns: int,
        begun_ns: int,
        outcome: str,
        message: str,
        timing: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if outcome != "chunk":
            self.counts.hold_back(outcome, message)
        self._journal.note_call(
            PolicyCall(observed_ns, begun_ns, time.monotonic_ns(), outcome, message, dict(timing))
        )


def chunk_from(
    actions: npt.NDArray[np.float32], observation: Observation, first_action_due: int
) -> npt.NDArray[np.float64]:
    """Return the rows to hand to the loop, whose row 0 is due at the observation.

    Where the first action is due one period later, the measured pose stands before it: it is where the arm was.
    """
    rows = np.asarray(actions, dtype=np.float64)
    if first_action_due == 0 or rows.size == 0:
        return rows
    return np.vstack([observation.measured[None, :], rows])
