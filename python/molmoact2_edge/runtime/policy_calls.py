"""What one episode asks of the policy and hands to the loop: when, from which observation, and what must go on.

Knows neither threads nor clocks, so that the same code serves real and simulated time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from molmoact2_drivers import Frame
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, Observation
from molmoact2_edge.errors import InputError, PolicyError
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime.latency import Latencies
from molmoact2_edge.runtime.realtime_chunking import CallDelay, ChunkContinuation
from molmoact2_edge.telemetry.journal import Journal, PolicyCall, PushedChunk
from molmoact2_edge.types import Image

_PLANNED_ROWS = 1024  # more than any chunk has
_HELD_PERIODS = 2.0  # of the loop; held for longer although a chunk was handed over, another is asked for


class PredictionLike(Protocol):
    """What is read of a prediction."""

    @property
    def actions(self) -> npt.NDArray[np.float32]: ...
    @property
    def valid(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def timing(self) -> dict[str, float]: ...


class PolicyLike(Protocol):
    """What is asked of a policy; :class:`molmoact2_edge.Policy` and :class:`.PolicyProcess` are some."""

    def predict(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
        guide: ActionGuide | None = None,
    ) -> PredictionLike: ...


@runtime_checkable
class WarmablePolicy(Protocol):
    """A policy that can get ready ahead of its first call."""

    def warmup(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        convention: str = "none",
    ) -> float: ...


class CallCounts:
    """What became of an episode's calls. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.calls = 0
        self.chunks = 0
        self.guided = 0
        """Chunks that the flow made go on from the one before."""
        self.held_back: Counter[str] = Counter()
        """Why calls gave no chunk, or none was made: ``camera_stale``, ``camera_error``, ``invalid``, ``policy_died``,
        ``policy_hung``, ``policy_garbled``, or an exception's name."""
        self.messages: dict[str, str] = {}
        """The first message for each of these."""

    def hold_back(self, name: str, message: str) -> None:
        self.held_back[name] += 1
        self.messages.setdefault(name, message)


@dataclass(frozen=True)
class Request:
    """One call of the policy, and where its chunk belongs."""

    images: list[Image]
    task: str
    seed: int
    observation: Observation
    """The loop at the moment of the oldest image: the splice and the state belong to it."""
    observed_ns: int
    begun_ns: int
    guide: ActionGuide | None
    due_first: npt.NDArray[np.float64]
    """(joints,) what is due at the observation itself, for policies whose first action is due one period later."""
    frozen_rows: int = 0
    """Rows of the chunk to hand over, from its first on, that repeat what is being executed."""

    def ask(self, policy: PolicyLike, config: RobotConfig) -> PredictionLike:
        """Call the policy; raises what it raises."""
        options: dict[str, Any] = {} if self.guide is None else {"guide": self.guide}
        return policy.predict(
            self.images,
            self.task,
            self.observation.measured,
            config.policy.norm_tag,
            seed=self.seed,
            convention=config.policy.joint_convention,
            **options,
        )


class PolicyCalls:
    """The calls of one episode; one thread uses it."""

    def __init__(
        self,
        loop: ControlLoop,
        config: RobotConfig,
        *,
        task: str,
        seed: int,
        delay: CallDelay,
        latencies: Latencies,
        journal: Journal,
    ) -> None:
        """``seed`` seeds the noise of all calls, each of which draws its own; ``delay`` may know earlier episodes."""
        self.counts = CallCounts()
        self._loop = loop
        self._config = config
        self._task = task
        self._seeds = np.random.SeedSequence(seed)
        self._delay = delay
        self._latencies = latencies
        self._journal = journal
        self._replan_steps = config.chunk.replan_after * config.loop.rate_hz / config.chunk.rate_hz
        self._continuation: ChunkContinuation | None = None
        if config.chunk.mode == "rtc":
            self._continuation = ChunkContinuation(
                config.chunk.rtc,
                loop_rate_hz=config.loop.rate_hz,
                chunk_rate_hz=config.chunk.rate_hz,
                first_action_due=config.chunk.first_action_due,
                delay=delay,
            )
        self._last_frame_ns = 0
        self._pushed: Observation | None = None
        self._pushed_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether it is time for another chunk."""
        if self._pushed is None or self._replan_steps == 0:
            return True
        record = self._loop.last_record()
        if record is None:
            return False
        if record["step"] - self._pushed.step >= self._replan_steps:
            return True
        # Held although a chunk was handed over: it was refused, or is over.
        waited_s = (now_ns - self._pushed_ns) * 1e-9
        return record["state"] == GateState.HOLDING and waited_s > _HELD_PERIODS / self._config.loop.rate_hz

    def begin(self, frames: Sequence[Frame], now_ns: int) -> Request | None:
        """Return the call to make with ``frames``; None where they are no news, or older than the loop's run."""
        observed_ns = min(frame.time_ns for frame in frames)
        if observed_ns <= self._last_frame_ns:
            return None
        observation = self._loop.observation_at(observed_ns)
        if observation is None:
            return None
        self._last_frame_ns = observed_ns
        self._latencies.add("camera_age", (now_ns - observed_ns) * 1e-9)
        self.counts.calls += 1
        guide, due_first, frozen_rows = None, observation.measured, 0
        if self._continuation is not None:
            planned = self._loop.planned(observation, _PLANNED_ROWS)
            if len(planned) and np.isfinite(planned).all():
                guide, due_first = self._continuation.guide(planned), planned[0]
                frozen_rows = self._config.chunk.first_action_due + int(np.sum(guide.weights == 1.0))
                self.counts.guided += 1
        return Request(
            [frame.image for frame in frames],
            self._task,
            int(self._seeds.spawn(1)[0].generate_state(1)[0]),
            observation,
            observed_ns,
            now_ns,
            guide,
            due_first,
            frozen_rows,
        )

    def finish(self, request: Request, prediction: PredictionLike, now_ns: int) -> bool:
        """Hand the chunk to the loop; False where there is none, and the loop holds once the present one is over."""
        self._latencies.add_all(prediction.timing)
        if not prediction.valid:
            self._note(request, now_ns, "invalid", prediction.reason, prediction.timing)
            return False
        observation = request.observation
        try:
            chunk = chunk_from(prediction.actions, request.due_first, self._config.chunk.first_action_due)
            number = self._loop.push(chunk, observation, frozen_rows=request.frozen_rows)
        except ValueError as error:
            self._note(request, now_ns, type(error).__name__, str(error), prediction.timing)
            return False
        self._delay.add((now_ns - request.observed_ns) * 1e-9)
        self._pushed, self._pushed_ns = observation, now_ns
        self.counts.chunks += 1
        self._note(request, now_ns, "chunk", "", prediction.timing)
        self._journal.note_chunk(
            PushedChunk(number, observation.run, observation.step, request.observed_ns, now_ns, chunk)
        )
        return True

    def fail(self, request: Request, error: Exception, now_ns: int) -> None:
        """Note that the call raised; the loop holds once the present chunk is over, and the report says why."""
        name = error.kind if isinstance(error, PolicyError) else type(error).__name__
        self._note(request, now_ns, name, str(error))

    def policy_restarted(self) -> None:
        """The next call is the first of a new process, and as slow."""
        self._delay.restart()

    def _note(
        self,
        request: Request,
        now_ns: int,
        outcome: str,
        message: str,
        timing: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if outcome != "chunk":
            self.counts.hold_back(outcome, message)
        self._journal.note_call(
            PolicyCall(request.observed_ns, request.begun_ns, now_ns, outcome, message, dict(timing))
        )


def chunk_from(
    actions: npt.NDArray[np.float32], due_first: npt.NDArray[np.float64], first_action_due: int
) -> npt.NDArray[np.float64]:
    """Return the rows to hand to the loop, whose row 0 is due at the observation.

    Where the first action is due one period later, ``due_first`` stands before it: where the arm was, or what the chunk
    before had it do then.

    Raises:
        InputError: the actions are not (steps, joints).
    """
    rows = np.asarray(actions, dtype=np.float64)
    if rows.shape[1:] != due_first.shape:
        raise InputError(
            f"the policy gives actions of shape {rows.shape}, the robot takes (steps, {len(due_first)}); "
            "check checkpoint and norm_tag"
        )
    if first_action_due == 0 or rows.size == 0:
        return rows
    return np.vstack([due_first[None, :], rows])
