"""Splicing of action chunks on its own, as the loop uses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core import control as compiled
from molmoact2_edge.control.states import Reason
from molmoact2_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """Where a target comes from, or why there is none."""

    chunk: int
    """Number of the push it comes from, counted from 1; 0 before the first."""
    action: float
    """Position in the chunk: 3.0 is its fourth action, 3.5 half-way to the fifth."""
    remaining_steps: int
    """Loop steps that the chunk still covers, this one included."""
    observed_step: int
    switched: bool
    """True at the first step from a chunk."""
    frozen_error: float
    """At that step: the largest distance between the chunk's frozen rows and the targets given for their steps."""
    unfrozen_steps: int
    """At that step: steps given since the observation for which the chunk has no frozen row."""
    reason: Reason
    """``none`` with a target, otherwise why there is none."""
    rejected: Reason
    """Why a chunk that arrived before this step was not taken; ``none`` when none was rejected."""


class ChunkBuffer:
    """Chunks from one producer thread to one consumer thread; neither waits for the other.

    A chunk's row 0 is the action for the step that was due when its observation was made. When it arrives k steps
    later, row k is next: what is skipped is what was really executed, never an estimate of time. Between rows
    targets are interpolated: ``linear``, or ``cubic``, which has a continuous velocity and never leaves the interval
    between two rows. The last row is in force for as long as the others.

    Modes: ``sync`` plays each chunk to its end, unless an action of it is not executed; ``async`` switches at once;
    ``blend`` does too and moves the weight from the old chunk to the new one over ``blend_steps``, or fades the
    distance out where the old one has ended; ``rtc`` switches at once to a chunk that was made to continue the old one,
    and reports how well it does.
    """

    def __init__(
        self,
        action_dim: int,
        mode: str = "async",
        *,
        actions_per_step: float = 1.0,
        blend_steps: int = 10,
        resampling: str = "linear",
        capacity: int = 256,
    ) -> None:
        """``actions_per_step`` is chunk rate / loop rate, 0.6 for 30 Hz actions in a 50 Hz loop."""
        try:
            self._buffer = compiled.ChunkBuffer(
                action_dim, mode, actions_per_step, blend_steps, resampling, capacity
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def push(self, chunk: ArrayLike, observed_step: int, *, frozen_rows: int = 0) -> int:
        """Hand over (steps, action_dim) actions seen from ``observed_step``; returns the chunk's number.

        ``frozen_rows`` of them repeat the chunk that was executed; mode ``rtc`` checks it.
        Every row is executed: cut a padded tail before. Raises :class:`InputError` for another shape or more
        steps than the capacity. Between two calls of :meth:`next` the last chunk pushed counts.
        """
        try:
            return self._buffer.push(np.asarray(chunk, dtype=np.float64), observed_step, frozen_rows)
        except ValueError as error:
            raise InputError(str(error)) from None

    def next(self, step: int) -> tuple[NDArray[np.float64] | None, ChunkInfo]:
        """Return the target (action_dim,) for ``step``, or None with the reason.

        ``step`` counts executed steps: call again with the same number where the target was not executed.
        """
        target, chunk, action, remaining, observed, switched, error, unfrozen, reason, rejected = (
            self._buffer.next(step)
        )
        info = ChunkInfo(
            chunk, action, remaining, observed, switched, error, unfrozen, Reason(reason), Reason(rejected)
        )
        return target, info

    def clear(self) -> None:
        """Forget every chunk."""
        self._buffer.clear()
