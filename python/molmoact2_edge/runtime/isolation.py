"""Where the policy runs: in a process of its own, or in a thread of the control process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime.policy_calls import PolicyLike
from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings
from molmoact2_edge.runtime.warm_up import warm_up
from molmoact2_edge.types import Image

if TYPE_CHECKING:
    from molmoact2_edge.policy import Prediction


class OpenPolicy(PolicyLike, Protocol):
    """A policy that is loading or loaded, and can be closed."""

    def wait_ready(self) -> dict[str, Any]:
        """Wait until it is loaded; returns what a report should say about it."""

    def facts(self) -> dict[str, Any]:
        """What a report should say about how it fared, as JSON-ready values."""

    def close(self) -> None:
        """End it; does not raise."""


class ThreadPolicy:
    """A policy in this process: its Python code and the control process's take turns, its failures are shared."""

    def __init__(self, checkpoint: str, *, device: str, dtype: str, offline: bool, threads: int) -> None:
        import torch

        from molmoact2_edge.policy import Policy

        begin = time.perf_counter()
        if threads:
            torch.set_num_threads(threads)
        self._policy = Policy.from_pretrained(checkpoint, device=device, dtype=dtype, offline=offline)
        self._about = {
            "device": str(self._policy.device),
            "dtype": str(self._policy.dtype).removeprefix("torch."),
            "backends": self._policy.backends,
            "threads": torch.get_num_threads(),
            "load_s": round(time.perf_counter() - begin, 3),
        }

    def wait_ready(self) -> dict[str, Any]:
        return self._about

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
    ) -> Prediction:
        """See :meth:`molmoact2_edge.Policy.predict`."""
        return self._policy.predict(
            images, task, state, norm_tag, seed=seed, convention=convention, guide=guide
        )

    def warmup(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        convention: str = "none",
    ) -> float:
        """See :meth:`molmoact2_edge.Policy.warmup`; does nothing where the policy runs on no GPU."""
        return warm_up(self._policy, images, task, state, norm_tag, convention)

    def facts(self) -> dict[str, Any]:
        return {"isolation": "thread"}

    def close(self) -> None:
        """Nothing to end."""


class ProcessPolicy(PolicyProcess):
    """A policy process, with what a report should say about it."""

    def facts(self) -> dict[str, Any]:
        failures = [{"kind": failure.kind, "message": failure.message} for failure in self.failures]
        settings = asdict(self.settings)
        del settings["checkpoint"]
        return {"isolation": "process", "restarts": self.restarts, "failures": failures, "process": settings}


def open_policy(
    config: RobotConfig, checkpoint: str, *, device: str, dtype: str, offline: bool
) -> OpenPolicy:
    """Start loading a checkpoint where ``config.policy.isolation`` says; a process loads while this one goes on.

    Raises:
        MolmoAct2Error: It cannot be started; loading itself is judged by ``wait_ready``.
    """
    wanted = config.policy
    if wanted.isolation == "thread":
        return ThreadPolicy(checkpoint, device=device, dtype=dtype, offline=offline, threads=wanted.threads)
    return ProcessPolicy(
        PolicyProcessSettings(
            checkpoint,
            device=device,
            dtype=dtype,
            offline=offline,
            threads=wanted.threads,
            nice=wanted.nice,
            call_limit_s=wanted.call_limit_s,
            restarts=wanted.restarts,
        ),
        frame_bytes=sum(camera.height * camera.width * 3 for camera in config.cameras.values()),
    )
