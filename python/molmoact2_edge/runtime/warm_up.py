"""Getting a policy ready ahead of its first call, on whichever side of the process boundary it runs."""

from __future__ import annotations

from typing import Any


def warm_up(policy: Any, images: Any, task: str, state: Any, norm_tag: str | None, convention: str) -> float:
    """Let a policy on a GPU record its calls ahead; returns the seconds it took, 0 where there is no GPU."""
    if getattr(getattr(policy, "device", None), "type", "cpu") != "cuda":
        return 0.0
    return float(policy.warmup(images, task, state, norm_tag, convention=convention))
