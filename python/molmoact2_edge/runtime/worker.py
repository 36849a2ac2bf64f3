"""The thread that looks, asks the policy, and hands its chunk to the control loop with what it was made from.

Whatever goes wrong here never reaches the control thread: no chunk is handed over, and when the last one runs out
the loop holds.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol, runtime_checkable

from molmoact2_drivers import Camera, Frame
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import MolmoAct2Error, RobotError
from molmoact2_edge.runtime.policy_calls import PolicyCalls, PolicyLike, Request
from molmoact2_edge.runtime.policy_client import PolicyFailure

_POLL_S = 0.002
_PAUSE_AFTER_ERROR_S = 0.05
_JOIN_TIMEOUT_S = 30.0  # the slowest call of a large policy on a small computer


@runtime_checkable
class SupervisedPolicy(Protocol):
    """A policy whose process can be lost; :class:`.PolicyProcess` is one."""

    @property
    def failure(self) -> PolicyFailure | None:
        """Set as soon as there is nobody to answer."""

    @property
    def spent(self) -> bool:
        """Whether that is final."""

    def revive(self) -> None:
        """Start it anew and wait until it is loaded; raises where that fails."""


class PolicyWorker:
    """Runs a policy for one episode of a control loop that was started."""

    def __init__(
        self, policy: PolicyLike, calls: PolicyCalls, cameras: dict[str, Camera], config: RobotConfig
    ) -> None:
        self.counts = calls.counts
        self.lost: str | None = None
        """Why there will be no more chunks; None as long as there may be some."""
        self._policy = policy
        self._supervised = policy if isinstance(policy, SupervisedPolicy) else None
        self._calls = calls
        self._cameras = cameras
        self._config = config
        self._stopping = threading.Event()
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
        """Return the newest frame of each camera; None where one has none that is young enough."""
        try:
            frames = [camera.latest() for camera in self._cameras.values()]
        except RobotError as error:
            self.counts.hold_back("camera_error", str(error))
            self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return None
        age_s = (time.monotonic_ns() - min(frame.time_ns for frame in frames)) * 1e-9
        if age_s > self._config.policy.frame_age_max_s:
            self.counts.hold_back(
                "camera_stale",
                f"the newest image was {age_s:.2f} s old; {self._config.policy.frame_age_max_s:g} s is the limit",
            )
            self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return None
        return frames

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # told as what ends the episode, where a thread would end without a word
            self.lost = f"{type(error).__name__}: {error}"

    def _work(self) -> None:
        while not self._stopping.is_set() and self.lost is None:
            failure = None if self._supervised is None else self._supervised.failure
            if self._supervised is not None and failure is not None:
                self._recover(self._supervised, failure)
                continue
            frames = self.look() if self._calls.due(time.monotonic_ns()) else None
            request = None if frames is None else self._calls.begin(frames, time.monotonic_ns())
            if request is None:
                self._stopping.wait(_POLL_S)
            else:
                self._predict(request)

    def _predict(self, request: Request) -> None:
        try:
            prediction = request.ask(self._policy, self._config)
        except Exception as error:  # the loop holds; the report says why
            self._calls.fail(request, error, time.monotonic_ns())
            if self._supervised is None or self._supervised.failure is None:
                self._stopping.wait(_PAUSE_AFTER_ERROR_S)
            return
        self._calls.finish(request, prediction, time.monotonic_ns())

    def _recover(self, policy: SupervisedPolicy, failure: PolicyFailure) -> None:
        """Bring a lost process back where that is allowed; once the present chunk is over the robot holds meanwhile."""
        if failure.kind not in self.counts.held_back:  # it was lost between two calls
            self.counts.hold_back(failure.kind, failure.message)
        if policy.spent:
            self.lost = failure.message
            return
        try:
            policy.revive()
        except MolmoAct2Error as error:
            if policy.failure is None:  # loading raised: it would again
                self.lost = str(error)
            return
        self._calls.policy_restarted()
