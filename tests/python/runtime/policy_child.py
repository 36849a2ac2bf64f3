"""A policy's process without PyTorch that fails on demand; takes the arguments of the real one.

The checkpoint's name says what it does: ``KIND`` in every call, ``KIND@N`` in the N-th only. With ``once=FILE`` in
front it fails only if FILE is not there yet, and makes it; a process that finds it takes a second to load, as any model
would, so that what the arm does without a policy can be seen.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from molmoact2_edge.errors import CheckpointError, InputError
from molmoact2_edge.runtime.policy_process import bind_to_parent, serve
from molmoact2_edge.runtime.policy_wire import FrameMemory


class FailingPolicy:
    """Answers with ten rows of the state, the first joint 1 to 10 ahead; remembers nothing."""

    def __init__(self, plan: str, sock: socket.socket) -> None:
        self._marker: Path | None = None
        if plan.startswith("once="):
            marker, plan = plan.removeprefix("once=").split(",", 1)
            self._marker = Path(marker)
        kind, _, call = plan.partition("@")
        self._kind, self._failing_call = kind, int(call) if call else None
        self._calls = 0
        self.device = SimpleNamespace(type="cuda" if "on-a-gpu" in plan or "warm-up" in plan else "cpu")
        self._sock = sock

    @property
    def has_failed_before(self) -> bool:
        return self._marker is not None and self._marker.exists()

    def predict(
        self,
        images: list[np.ndarray[Any, Any]],
        task: str,
        state: np.ndarray[Any, Any],
        norm_tag: str | None,
        *,
        seed: int | None,
        convention: str,
        guide: Any = None,
    ) -> Any:
        self._calls += 1
        if self._failing_call in (None, self._calls) and not self.has_failed_before:
            if self._marker:
                self._marker.touch()
            self._fail()
        rows = np.tile(state.astype(np.float32), (10, 1))
        rows[:, 0] += np.linspace(1.0, 10.0, 10, dtype=np.float32)
        if guide is not None:
            rows[: len(guide.actions)] = guide.actions
        seen = [int(image.sum()) for image in images]
        reason = f"{task}|{norm_tag}|{seed}|{convention}|{seen}|{images[0].flags.writeable}" if images else ""
        return SimpleNamespace(
            actions=rows, valid=True, reason=reason, timing={"total": 0.0}, guide_clipped=None
        )

    def warmup(self, images: Any, task: str, state: Any, norm_tag: str | None, *, convention: str) -> float:
        assert [image.shape for image in images] == [(24, 32, 3), (10, 7, 3)]
        if self._kind == "cannot-warm-up":
            raise InputError("the graph could not be recorded")
        return 1.25

    def _fail(self) -> None:
        if self._kind == "kills-itself":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._kind == "exits":
            os._exit(3)
        elif self._kind == "hangs":
            time.sleep(60.0)
        elif self._kind == "hogs":  # as native code that keeps the interpreter's lock
            while True:
                sum(range(1 << 20))
        elif self._kind == "garbage":
            self._sock.sendall(b"Traceback (most recent call last):\n" * 4)
        elif self._kind == "half-a-message":
            self._sock.sendall(b"MA2p\x10\x00")
            time.sleep(60.0)
        elif self._kind == "not-a-prediction":
            self._sock.sendall(b"MA2p" + (2).to_bytes(4, "little") + bytes(8) + b"{}")
        elif self._kind == "raises":
            raise ArithmeticError("the device fell off")
        elif self._kind == "refuses":
            raise InputError("no norm tag 'x'")
        elif self._kind == "slow":
            time.sleep(0.3)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("socket", "frames", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    if not bind_to_parent(arguments.parent):
        return
    with socket.socket(fileno=arguments.socket) as sock:

        def load(settings: dict[str, Any]) -> tuple[FailingPolicy, dict[str, Any]]:
            plan = settings["checkpoint"]
            if plan == "broken":
                raise CheckpointError("config.json is missing")
            if plan == "dies-loading":
                os._exit(7)
            if plan == "hangs-loading":
                time.sleep(60.0)
            policy = FailingPolicy(plan, sock)
            if policy.has_failed_before:
                time.sleep(1.0)
            return policy, {"device": "none"}

        serve(sock, FrameMemory(arguments.frames, writable=False), load)


if __name__ == "__main__":
    main()
