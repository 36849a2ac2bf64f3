"""What a chunk should go on from: rows of the chunk before, and how firmly each is to be kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge.errors import InputError


@dataclass(frozen=True, eq=False)
class ActionGuide:
    """Actions that the flow in-paints around (real-time chunking), in the robot's units.

    ``actions``: (rows, action_dim) float64, finite; row 0 stands for row 0 of the chunk to be predicted.
    ``weights``: (rows,) float64 from 0 to 1; 1 keeps a row (it will be executed while the policy computes), less pulls
    it there by that share, 0 leaves it to the flow, as rows beyond the last are.

    Raises:
        InputError: another shape, a value that is not finite, or a weight outside 0..1.
    """

    actions: NDArray[np.float64]
    weights: NDArray[np.float64]

    def __init__(self, actions: ArrayLike, weights: ArrayLike) -> None:
        try:
            rows, shares = np.asarray(actions, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"guide: expected numbers, got {actions!r} and {weights!r}") from error
        if rows.ndim != 2 or shares.shape != rows.shape[:1]:
            raise InputError(
                f"guide: expected actions (rows, action_dim) and weights (rows,), got {rows.shape} and {shares.shape}"
            )
        if not np.isfinite(rows).all():
            raise InputError("guide: actions must be finite, got NaN or infinity")
        # Written so that NaN fails too.
        if not ((shares >= 0.0) & (shares <= 1.0)).all():
            raise InputError(f"guide: weights must lie in 0..1, got {shares.tolist()}")
        object.__setattr__(self, "actions", rows)
        object.__setattr__(self, "weights", shares)
