"""Camera frames to the patches of one 378 x 378 crop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from kernel_cases.comparison import Comparison
from molmoact2_edge._core import kernels


def cpu() -> Iterator[Comparison]:
    for height, width in ((480, 640), (720, 1280), (180, 320)):
        yield _vision_input(height, width, side=378, patch=14)


def _vision_input(height: int, width: int, *, side: int, patch: int) -> Comparison:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows = side // patch
    patches = np.empty((rows * rows, patch * patch * 3), np.float32)

    def ours() -> Tensor:
        kernels.resize_to_patches(
            frame, size=(side, side), origin=(0, 0), grid=(rows, rows), patch=patch, patches=patches
        )
        return torch.from_numpy(patches)

    def plain() -> Tensor:
        pixels = torch.from_numpy(frame).to(torch.float32).permute(2, 0, 1)[None]
        resized = functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
        scaled = resized[0].permute(1, 2, 0).round_().div_(255).mul_(2).sub_(1)
        tiles = scaled.reshape(rows, patch, rows, patch, 3).transpose(1, 2)
        return tiles.reshape(rows * rows, patch * patch * 3)

    return Comparison(
        f"vision_input-{height}x{width}",
        {"height": height, "width": width, "side": side, "patch": patch},
        "plain torch",
        ours,
        plain,
        tolerance=2.01 / 255,  # with one thread, torch rounds some levels next to a half the other way
    )
