"""The policy's process: loads a checkpoint, then answers one call after the other until the control process is gone.

Started by :class:`molmoact2_edge.runtime.policy_client.PolicyProcess` as
``python -m molmoact2_edge.runtime.policy_process``; everything that it may break in is on this side.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime.policy_wire import ClosedError, FrameMemory, Message, receive, send
from molmoact2_edge.runtime.warm_up import warm_up

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = (
    "500"  # of -1000 to 1000: when memory runs out, the kernel takes this process before the control process
)

Loader = Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]
"""From the settings of the load message to a policy and what the ready message says about it."""


def main() -> None:
    """Serve the socket and memory that the parent passed."""
    parser = argparse.ArgumentParser(prog="molmoact2_edge.runtime.policy_process", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a stream socket")
    parser.add_argument(
        "--frames", type=int, required=True, help="descriptor of the memory that holds images"
    )
    parser.add_argument("--parent", type=int, required=True, help="process id of the control process")
    arguments = parser.parse_args()
    if not bind_to_parent(arguments.parent):
        return
    with socket.socket(fileno=arguments.socket) as sock:
        serve(sock, FrameMemory(arguments.frames, writable=False), load_policy)


def bind_to_parent(parent: int) -> bool:
    """End with the thread that started this process; False where it has ended already.

    The terminal's Ctrl-C is left to the control process: it stops the arm first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def serve(sock: socket.socket, frames: FrameMemory, load: Loader) -> None:
    """Load when asked to, answer calls, and return when the other side has closed."""
    with contextlib.suppress(ClosedError):
        settings = receive(sock).head
        _yield_to_control(int(settings.get("nice", 0)))
        try:
            begin = time.perf_counter()
            policy, about = load(settings)
        except Exception as error:
            send(sock, _failure(error, call=0))
            return
        load_s = round(time.perf_counter() - begin, 3)
        send(sock, Message({"kind": "ready", "about": {**about, "load_s": load_s}}))
        while True:
            request = receive(sock)
            try:
                answer = _answer(policy, frames, request)
            except Exception as error:
                answer = _failure(error, call=int(request.head.get("call", 0)))
            send(sock, answer)


def load_policy(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint through PyTorch."""
    import torch

    from molmoact2_edge.policy import Policy

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    policy = Policy.from_pretrained(
        settings["checkpoint"],
        device=settings["device"],
        dtype=settings["dtype"],
        offline=settings["offline"],
    )
    about = {
        "device": str(policy.device),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "backends": policy.backends,
        "threads": torch.get_num_threads(),
    }
    return policy, about


def _answer(policy: Any, frames: FrameMemory, request: Message) -> Message:
    head, arrays = request.head, request.arrays
    if head["kind"] == "warmup":
        seconds = warm_up(
            policy,
            frames.read(head["images"]),
            head["task"],
            arrays["state"],
            head["norm_tag"],
            head["convention"],
        )
        return Message({"kind": "warm", "call": head["call"], "seconds": seconds})
    guide = ActionGuide(arrays["guide"], arrays["guide_weights"]) if "guide" in arrays else None
    options = {} if guide is None else {"guide": guide}
    prediction = policy.predict(
        frames.read(head["images"]),
        head["task"],
        arrays["state"],
        head["norm_tag"],
        seed=head["seed"],
        convention=head["convention"],
        **options,
    )
    told = {
        "kind": "prediction",
        "call": head["call"],
        "valid": bool(prediction.valid),
        "reason": prediction.reason,
        "timing": prediction.timing,
        "guide_clipped": getattr(prediction, "guide_clipped", None),
    }
    return Message(told, {"actions": prediction.actions})


def _failure(error: Exception, call: int) -> Message:
    told = {"kind": "error", "call": call, "error": type(error).__name__, "message": str(error)}
    return Message(told)


def _yield_to_control(nice: int) -> None:
    if nice > 0:
        os.nice(nice)
    with contextlib.suppress(OSError):  # not every container lets a process say so
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")


if __name__ == "__main__":
    main()
