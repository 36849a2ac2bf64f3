"""Which of 10 x 10 depth cells changed between two camera frames, against numpy and Pillow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kernel_cases.comparison import Comparison, stream_handle
from molmoact2_edge import _core

SIDE = 10
_PIXELS = 32


def cpu() -> Iterator[Comparison]:
    for now, before in _frames():

        def ours(now: NDArray[np.uint8] = now, before: NDArray[np.uint8] = before) -> Tensor:
            return torch.from_numpy(_core.kernels.depth_update_mask(now, before, SIDE))

        yield _comparison(now, before, ours)


def cuda(device: torch.device) -> Iterator[Comparison]:
    """Frames that are on the device already; what they are compared with would have to fetch them first."""
    for now, before in _frames():
        size = (now.shape[0], now.shape[1])
        diff = _core.cuda.DepthDiff(current=size, previous=size, side=SIDE, device=device.index or 0)
        changed = torch.empty(SIDE**2, dtype=torch.bool, device=device)
        arrays = torch.from_numpy(now).to(device), torch.from_numpy(before).to(device), changed

        def ours(diff: _core.cuda.DepthDiff = diff, arrays: tuple[Tensor, Tensor, Tensor] = arrays) -> Tensor:
            diff.update_mask(*arrays, stream=stream_handle())
            return arrays[-1]

        yield _comparison(now, before, ours, on_host=True)


def _frames() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Now and before; the upper half differs."""
    for height, width in ((480, 640), (720, 1280), (240, 320)):
        random = np.random.default_rng(0)
        before = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        now = before.copy()
        now[: height // 2] = random.integers(0, 256, now[: height // 2].shape, dtype=np.uint8)
        yield now, before


def _comparison(
    now: NDArray[np.uint8], before: NDArray[np.uint8], ours: Callable[[], Tensor], *, on_host: bool = False
) -> Comparison:
    def plain() -> Tensor:
        current, previous = _cells(now), _cells(before)
        norms = np.linalg.norm(current, axis=1) * np.linalg.norm(previous, axis=1)
        cosine = (current * previous).sum(axis=1) / np.maximum(norms, np.float32(1e-8))
        return torch.from_numpy((cosine < 0.996) & (norms >= 1e-8))

    height, width, _ = now.shape
    return Comparison(
        f"depth_diff-{height}x{width}",
        {"height": height, "width": width, "cells": SIDE**2},
        "numpy and Pillow, as the public code does it",
        ours,
        plain,
        tolerance=0,
        baseline_on_host=on_host,
    )


def _cells(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = SIDE * _PIXELS
    resized = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
    grid = resized.astype(np.float32).reshape(SIDE, _PIXELS, SIDE, _PIXELS, 3).transpose(0, 2, 1, 3, 4)
    cells: NDArray[np.float32] = grid.reshape(SIDE**2, -1)
    return cells
