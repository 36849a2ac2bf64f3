"""Durations by stage, and what is said about them in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

STAGES = (
    "camera_age",
    "preprocess",
    "vision",
    "prefill",
    "depth",
    "flow",
    "generate",
    "postprocess",
    "total",
    "transport",
    "observation_to_action",
)
"""Order in reports. ``camera_age`` is an image's age when the policy gets it; ``transport`` is what a call to another
process takes beyond the policy's own ``total``; ``observation_to_action`` is the time from an image's exposure to the
write of the first action of its chunk."""
COMPUTED = STAGES[STAGES.index("preprocess") : STAGES.index("total")]
"""Those of a call itself."""


class Latencies:
    """Collects seconds per stage. One thread adds to a stage, any thread may summarize."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, stage: str, seconds: float) -> None:
        self._seconds.setdefault(stage, []).append(seconds)

    def add_all(self, stages: Mapping[str, float]) -> None:
        for stage, seconds in stages.items():
            self.add(stage, seconds)

    def median_s(self, stage: str) -> float | None:
        """The middle of the recent durations; None before the first."""
        recent = self._seconds.get(stage, [])[-50:]
        return float(np.median(recent)) if recent else None

    def report(self) -> dict[str, dict[str, float | int]]:
        """Return stage -> count, p50_ms, p95_ms, p99_ms, max_ms, for stages that took any time."""
        order = {stage: place for place, stage in enumerate(STAGES)}
        stages = sorted(self._seconds, key=lambda stage: order.get(stage, len(order)))
        return {stage: _spread(self._seconds[stage]) for stage in stages if any(self._seconds[stage])}


def _spread(seconds: Sequence[float]) -> dict[str, float | int]:
    milliseconds = np.asarray(seconds) * 1e3
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {
        "count": len(seconds),
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
        "max_ms": round(float(milliseconds.max()), 3),
    }
