"""The depth-cell diff on a CUDA device against the CPU's: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import build_config, depth_update_mask

if not build_config()["cuda"]:
    pytest.skip("built without CUDA", allow_module_level=True)

from molmoact2_edge._core import cuda
from molmoact2_edge.model.changed_cells import DeviceCells

RNG = np.random.default_rng(3)


def frames(current: tuple[int, int], previous: tuple[int, int], part: float) -> tuple[Any, Any]:
    """Two frames; ``part`` of the first one's rows differ where they have one size."""
    before = RNG.integers(0, 256, (*previous, 3), dtype=np.uint8)
    now = RNG.integers(0, 256, (*current, 3), dtype=np.uint8)
    if current == previous:
        changed = round(part * current[0])
        now[changed:] = before[changed:]
    return now, before


def found_on_device(now: Any, before: Any, side: int) -> Any:
    diff = cuda.DepthDiff(current=now.shape[:2], previous=before.shape[:2], side=side)
    changed = torch.ones(side * side, dtype=torch.bool, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    diff.update_mask(torch.from_numpy(now).cuda(), torch.from_numpy(before).cuda(), changed, stream=stream)
    return changed.cpu().numpy()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnDevice:
    @pytest.mark.parametrize("side", [1, 3, 10, 64])
    @pytest.mark.parametrize(
        ("current", "previous"),
        [
            ((1, 1), (1, 1)),
            ((7, 3), (7, 3)),
            ((1, 5000), (1, 5000)),
            ((321, 319), (321, 319)),
            ((320, 320), (320, 320)),
            ((480, 640), (480, 640)),
            ((480, 640), (240, 320)),
            ((1080, 1920), (33, 77)),
        ],
    )
    @pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
    def test_the_mask_equals_the_cpus(
        self, side: int, current: tuple[int, int], previous: tuple[int, int], part: float
    ) -> None:
        now, before = frames(current, previous, part)
        np.testing.assert_array_equal(
            found_on_device(now, before, side), depth_update_mask(now, before, cells=side * side)
        )

    def test_black_cells_count_as_unchanged(self) -> None:
        black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
        for now, before in ((black, white), (white, black), (black, black)):
            assert not found_on_device(now, before, 1).any()

    def test_a_policys_way_there(self) -> None:
        cells = DeviceCells(cuda.DepthDiff, torch.device("cuda", 0))
        with torch.inference_mode():
            for part in (0.0, 0.5, 1.0, 0.2):
                now, before = frames((480, 640), (480, 640), part)
                np.testing.assert_array_equal(
                    cells.between(now, before, 100), depth_update_mask(now, before, cells=100)
                )

    def test_what_does_not_fit_is_refused(self) -> None:
        diff = cuda.DepthDiff(current=(8, 8), previous=(8, 8), side=2)
        good = torch.zeros(8, 8, 3, dtype=torch.uint8, device="cuda")
        changed = torch.zeros(4, dtype=torch.bool, device="cuda")
        for current, previous, mask, message in (
            (good[:7], good, changed, r"current must be uint8 of shape \(8, 8, 3\)"),
            (good[:0], good, changed, "current must be"),
            (good, good.float(), changed, "previous must be uint8"),
            (good, good, changed[:3], r"changed must be bool of shape \(4,\)"),
            (good.transpose(0, 1), good, changed, "current must be contiguous"),
        ):
            with pytest.raises(ValueError, match=message):
                diff.update_mask(current, previous, mask, stream=0)
        with pytest.raises(TypeError, match="previous must be on a CUDA device"):
            diff.update_mask(good, good.cpu(), changed, stream=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current": (0, 8)}, r"frame sides must be 1 to 16384, got \(0, 8\)"),
        ({"previous": (8, 0)}, r"frame sides must be 1 to 16384, got \(8, 0\)"),
        ({"previous": (8, 16385)}, "frame sides"),
        ({"side": 0}, "cells per side must be 1 to 64, got 0"),
        ({"side": 65}, "cells per side"),
    ],
)
def test_sizes_are_checked_before_a_device_is_looked_for(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"current": (8, 8), "previous": (8, 8), "side": 2}
    with pytest.raises(ValueError, match=message):
        cuda.DepthDiff(**(arguments | changes))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no CUDA device 63"):
        cuda.DepthDiff(current=(8, 8), previous=(8, 8), side=2, device=63)
