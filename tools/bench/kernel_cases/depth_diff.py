"""Which of 10 x 10 depth cells changed between two camera frames, against numpy and Pillow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kernel_cases.comparison import Comparison
from molmoact2_edge._core import kernels

SIDE = 10
_PIXELS = 32


def cpu() -> Iterator[Comparison]:
    for height, width in ((480, 640), (720, 1280), (240, 320)):
        random = np.random.default_rng(0)
        before = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        now = before.copy()
        now[: height // 2] = random.integers(0, 256, now[: height // 2].shape, dtype=np.uint8)
        yield _depth_diff(now, before)


def _depth_diff(now: NDArray[np.uint8], before: NDArray[np.uint8]) -> Comparison:
    def ours() -> Tensor:
        return torch.from_numpy(kernels.depth_update_mask(now, before, SIDE))

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
    )


def _cells(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = SIDE * _PIXELS
    resized = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
    grid = resized.astype(np.float32).reshape(SIDE, _PIXELS, SIDE, _PIXELS, 3).transpose(0, 2, 1, 3, 4)
    cells: NDArray[np.float32] = grid.reshape(SIDE**2, -1)
    return cells
