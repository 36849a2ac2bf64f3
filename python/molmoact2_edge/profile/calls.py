"""A policy's calls during a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One prediction."""

    begin_ns: int
    """On the monotonic clock."""
    stages: dict[str, float]
    """Seconds, in the order in which the stages ran; those that took no time are left out."""
    total_s: float
