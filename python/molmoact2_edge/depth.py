"""Which cells of the depth grid changed between two frames, so that only those are decoded again."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from molmoact2_edge._core import kernels
from molmoact2_edge.errors import InputError


class CellRun(NamedTuple):
    """Neighbouring cells `start` to `stop - 1` that either all changed or all stayed."""

    start: int
    stop: int
    changed: bool


def depth_update_mask(
    current_rgb: NDArray[np.uint8], previous_rgb: NDArray[np.uint8], cells: int = 100
) -> NDArray[np.bool_]:
    """Tells for each cell of a square grid, row-major, whether it changed since the previous frame.

    Both frames are resized to 32 pixels per cell with Pillow's bilinear filter, to the bit. A cell changed
    when the cosine between its 32 x 32 x 3 values now and before is below 0.996; a cell that is black in
    either frame counts as unchanged. Sums are exact integers; the cosine is rounded in its last step only.

    Args:
        current_rgb: (H, W, 3) uint8.
        previous_rgb: (H', W', 3) uint8; its size may differ.
        cells: number of cells, a square number; 100 is a grid of 10 x 10.

    Returns:
        (cells,) bool.

    Raises:
        InputError: a frame of another type or shape, or a number of cells that is not a square.
    """
    side = grid_side(cells)
    return kernels.depth_update_mask(
        checked_frame(current_rgb, "current_rgb"), checked_frame(previous_rgb, "previous_rgb"), side
    )


def grid_side(cells: int) -> int:
    """Return how many cells a side of the grid has.

    Raises:
        InputError: ``cells`` is no square number, or too large a one.
    """
    side = math.isqrt(max(int(cells), 0))
    if side * side != cells or not 1 <= side <= kernels.MAX_GRID_SIDE:
        raise InputError(
            f"cells must be a square number from 1 to {kernels.MAX_GRID_SIDE**2}, such as 100, got {cells}"
        )
    return side


def cell_runs(update_mask: NDArray[np.bool_]) -> list[CellRun]:
    """Cuts a mask (cells,) into its runs, in order; a run of unchanged cells is replayed in one forward."""
    mask = np.asarray(update_mask)
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise InputError(f"update_mask must be (cells,) bool, got {mask.dtype} of shape {mask.shape}")
    if mask.size == 0:
        return []
    starts = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist()]
    stops = [*starts[1:], mask.size]
    return [CellRun(start, stop, bool(mask[start])) for start, stop in zip(starts, stops, strict=True)]


def checked_frame(frame: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return a frame (H, W, 3) as contiguous memory.

    Raises:
        InputError: Another type or shape; it is called ``name`` there.
    """
    pixels = np.asarray(frame)
    if pixels.dtype != np.uint8:
        raise InputError(f"{name} must be uint8 RGB, got {pixels.dtype}")
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"{name} must be (height, width, 3), got shape {pixels.shape}")
    if not all(1 <= size <= kernels.MAX_FRAME_SIDE for size in pixels.shape[:2]):
        raise InputError(
            f"{name} must be 1 to {kernels.MAX_FRAME_SIDE} pixels high and wide, got shape {pixels.shape}"
        )
    return np.ascontiguousarray(pixels)
