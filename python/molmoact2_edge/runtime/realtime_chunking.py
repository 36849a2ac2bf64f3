"""Real-time chunking: what a new chunk must agree with the present one about, and how firmly.

While the policy computes, the present chunk is executed. Those rows are frozen: the flow gives them back as they are,
so that there is no seam wherever in them the new chunk takes over. After them a soft mask lets go of the old chunk.
Everything is counted in steps that the loop executes; time is only used to guess how many those will be, and a wrong
guess costs smoothness, never a skipped or repeated action.

Source: K. Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025; here without the backward pass.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from molmoact2_edge.config import RealTimeChunkingConfig
from molmoact2_edge.guide import ActionGuide

_WINDOW = 20  # calls that the estimate looks back
# 50 * (30 / 50) is not exactly 30: positions this close to a whole row count as whole.
_ROUNDING = 1e-9


class CallDelay:
    """How long it takes from an observation until its chunk is in the loop: a high quantile of the recent calls.

    The first call of a policy is far slower than the rest; it counts only until there is another. One thread adds.
    """

    def __init__(self, quantile: float) -> None:
        """``quantile`` is 0..1, rounded down to a call: 0.9 leaves out the slowest of two, the two slowest of 20."""
        self._quantile = quantile
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._first: float | None = None
        self._next_is_first = True

    def restart(self) -> None:
        """The next call is a first one again, as after a new start of the policy."""
        self._next_is_first = True

    def add(self, seconds: float) -> None:
        if self._next_is_first:
            self._first, self._next_is_first = seconds, False
        else:
            self._recent.append(seconds)

    @property
    def seconds(self) -> float | None:
        """The estimate; None before the first call."""
        if not self._recent:
            return self._first
        return sorted(self._recent)[math.floor(self._quantile * (len(self._recent) - 1))]


def soft_mask(frozen: int, soft: int, rows: int, shape: str) -> npt.NDArray[np.float64]:
    """Return (rows,) weights: 1 for ``frozen`` rows, falling over ``soft`` more, 0 after.

    ``shape``: ``linear``, or ``exponential``, which lets go faster: c (e^c - 1) / (e - 1) for c falling linearly.
    """
    since = np.arange(rows) - frozen + 1
    left = np.clip(
        1.0 - since / (soft + 1), 0.0, 1.0
    )  # 1 on the last frozen row, 0 one row after the soft ones
    return left * np.expm1(left) / np.expm1(1.0) if shape == "exponential" else left


class ChunkContinuation:
    """Builds the guides of one robot's calls."""

    def __init__(
        self,
        config: RealTimeChunkingConfig,
        *,
        loop_rate_hz: float,
        chunk_rate_hz: float,
        first_action_due: int,
        delay: CallDelay,
    ) -> None:
        self._config = config
        self._loop_rate_hz = loop_rate_hz
        self._chunk_rate_hz = chunk_rate_hz
        self._first_action_due = first_action_due
        self._delay = delay

    def frozen_rows(self) -> int:
        """How many rows of a new chunk, from the one due at its observation, will be in force before it takes over.

        Both rows between which the loop interpolates at the switch belong to them. 0 before the first call.
        """
        seconds = self._delay.seconds
        if seconds is None:
            return 0
        steps = math.ceil(seconds * self._loop_rate_hz - _ROUNDING) + 1  # a chunk is taken at the next tick
        return math.ceil(steps * self._chunk_rate_hz / self._loop_rate_hz - _ROUNDING) + 1

    def guide(self, planned: npt.NDArray[np.float64]) -> ActionGuide:
        """Return the guide for a chunk whose observation finds the loop about to execute ``planned``.

        ``planned``: (rows, joints) what the loop executes from the observation on if nothing new comes, one row per
        period of the chunk's rate, row 0 due at the observation. It may be short, or empty.
        """
        frozen = self.frozen_rows() - self._first_action_due
        soft = round(self._config.mask_s * self._chunk_rate_hz)
        rows = planned[self._first_action_due :]
        weights = soft_mask(max(frozen, 0), soft, len(rows), self._config.mask)
        kept = int(np.count_nonzero(weights))  # they fall: what has no weight is at the end
        return ActionGuide(rows[:kept], weights[:kept])
