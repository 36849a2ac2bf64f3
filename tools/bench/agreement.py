"""Whether two implementations gave the same answer, before anybody compares how long they took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class DisagreementError(Exception):
    """Two implementations differ by more than their number type explains. The message lists every difference."""

    def __init__(self, where: str, differences: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{where}: the two sides differ, nothing was timed", *differences]))
        self.differences = list(differences)


def exact(name: str, ours: Array | Sequence[int] | None, peer: Array | Sequence[int] | None) -> list[str]:
    """Differences of integers, masks or pixels, which must be equal to the last bit."""
    if ours is None or peer is None:
        return [] if ours is peer else [f"{name}: only one side has it"]
    a, b = np.asarray(ours), np.asarray(peer)
    if a.shape != b.shape:
        return [f"{name}: shape {a.shape} here, {b.shape} there"]
    different = np.argwhere(a != b)
    if not len(different):
        return []
    first = tuple(int(i) for i in different[0])
    return [
        f"{name}: {len(different)} of {a.size} differ, first at {first}: {a[first]} here, {b[first]} there"
    ]


def within(name: str, ours: Array, peer: Array, scale: Array | float, tolerance: float) -> list[str]:
    """Differences of real numbers beyond ``tolerance`` times ``scale``; what is not finite never agrees."""
    if ours.shape != peer.shape:
        return [f"{name}: shape {ours.shape} here, {peer.shape} there"]
    error = relative_error(ours, peer, scale)
    if error <= tolerance:
        return []
    return [f"{name}: largest difference {error:.3g} of the range, tolerance {tolerance:.3g}"]


def relative_error(ours: Array, peer: Array, scale: Array | float) -> float:
    """Largest difference divided by ``scale``; infinite where either side is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(peer).all()):
        return float("inf")
    return float((np.abs(ours.astype(np.float64) - peer) / scale).max(initial=0.0))
