"""A policy that predicts again and again while the loop is measured, with the time of every stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.profile.calls import Call
from molmoact2_edge.timing import Stopwatch
from molmoact2_edge.types import Image

if TYPE_CHECKING:
    from molmoact2_edge.policy import Policy

_TASK = "pick up the block"


class Ranges(Protocol):
    """What of ``torch.cuda.nvtx`` is used."""

    def range_push(self, msg: str) -> Any: ...
    def range_pop(self) -> Any: ...
    def mark(self, msg: str) -> Any: ...


class PredictionLoad:
    """Calls a policy in a thread of its own, one call after the other."""

    def __init__(
        self, policy: Policy, config: RobotConfig, look: Callable[[], Sequence[Image]], norm_tag: str | None
    ) -> None:
        """The first call is made here, so that it is neither in the figures nor an error later.

        Raises:
            InputError: the policy does not fit the robot's cameras or joints.
        """
        self.calls: list[Call] = []
        self.failure: str | None = None
        self._policy = policy
        self._config = config
        self._look = look
        self._norm_tag = norm_tag
        joints = config.joints.values()
        self._state = np.array([0.5 * sum(joint.position) for joint in joints])
        self.first_call_s = self._predict().total_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Predict within the block."""
        with ExitStack() as stack:
            if self._policy.device.type == "cuda":
                stack.enter_context(nvtx_ranges(self._policy, torch.cuda.nvtx))
            self._thread.start()
            try:
                yield
            finally:
                self._ending.set()
                self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self.calls.append(self._predict())
        except Exception as error:  # the loop's measurement goes on; the report says it
            self.failure = f"{type(error).__name__}: {error}"

    def _predict(self) -> Call:
        begin_ns = time.monotonic_ns()
        prediction = self._policy.predict(
            self._look(),
            _TASK,
            self._state,
            self._norm_tag,
            seed=len(self.calls),
            convention=self._config.policy.joint_convention,
        )
        timing = prediction.timing
        stages = {stage: seconds for stage, seconds in timing.items() if stage != "total" and seconds > 0.0}
        return Call(begin_ns, stages, timing["total"])


@contextmanager
def nvtx_ranges(policy: Any, ranges: Ranges) -> Iterator[None]:
    """Show Nsight Systems the calls of ``policy`` within the block: a range a call, a mark where a stage ends.

    What a CUDA graph does, Nsight shows by itself; the host only starts it.
    """
    predict, lap = policy.predict, Stopwatch.lap

    def ranged(*arguments: Any, **keywords: Any) -> Any:
        ranges.range_push("predict")
        try:
            return predict(*arguments, **keywords)
        finally:
            ranges.range_pop()

    def marked(watch: Stopwatch, stage: str) -> None:
        lap(watch, stage)
        ranges.mark(f"{stage} ends")

    policy.predict = ranged
    Stopwatch.lap = marked  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del policy.predict
        Stopwatch.lap = lap  # type: ignore[method-assign]


def noise_images(config: RobotConfig) -> list[Image]:
    """Return noise of the size of each camera's images: what they show does not change the time of a call."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in config.cameras.values()
    ]


def norm_tag_for(policy: Policy, config: RobotConfig) -> str | None:
    """Return the robot's norm tag where the checkpoint has it, else None, which means its only embodiment."""
    try:
        policy.processor.embodiment(config.policy.norm_tag)
    except InputError:
        return None
    return config.policy.norm_tag
