"""Depth cells that are compared on the device: the way to the kernel, whose place the CPU's takes here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from molmoact2_edge import Policy, depth_update_mask
from molmoact2_edge._core import kernels
from molmoact2_edge.errors import InputError
from molmoact2_edge.model.changed_cells import DeviceCells, HostCells

STREAM = 99
RNG = np.random.default_rng(11)
STATE = np.linspace(-20, 30, 6, dtype=np.float32)
CPU = torch.device("cpu")


class Diff:
    """Stands for ``_core.cuda.DepthDiff``; refuses what its bindings refuse."""

    made: list[tuple[tuple[int, int], tuple[int, int], int]]

    def __init__(
        self, *, current: tuple[int, int], previous: tuple[int, int], side: int, device: int
    ) -> None:
        assert device == 0
        self.current, self.previous, self.side = current, previous, side
        self.made.append((current, previous, side))

    def update_mask(self, current: Tensor, previous: Tensor, changed: Tensor, *, stream: int) -> None:
        assert stream == STREAM
        for frame, size in ((current, self.current), (previous, self.previous)):
            assert (frame.dtype, tuple(frame.shape)) == (torch.uint8, (*size, 3))
            assert frame.is_contiguous()
        assert (changed.dtype, tuple(changed.shape)) == (torch.bool, (self.side**2,))
        changed.numpy()[:] = kernels.depth_update_mask(current.numpy(), previous.numpy(), self.side)


@pytest.fixture
def cells() -> DeviceCells:
    Diff.made = []
    return DeviceCells(Diff, CPU, stream=lambda: STREAM)


def frame(height: int, width: int) -> Any:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_mask_is_the_hosts(cells: DeviceCells) -> None:
    for now, before in (((60, 80), (60, 80)), ((31, 45), (31, 45)), ((1, 1), (1, 1)), ((60, 80), (33, 7))):
        current, previous = frame(*now), frame(*before)
        if now == before:
            current[now[0] // 2 :] = previous[now[0] // 2 :]
        found = cells.between(current, previous, 25)
        np.testing.assert_array_equal(found, HostCells().between(current, previous, 25))
        np.testing.assert_array_equal(found, depth_update_mask(current, previous, cells=25))
        assert found.dtype == np.bool_


def test_a_mask_outlives_the_next_comparison(cells: DeviceCells) -> None:
    before = frame(64, 64)
    first = cells.between(frame(64, 64), before, 4)
    assert first.any()
    kept = first.copy()
    assert not cells.between(before, before, 4).any()
    np.testing.assert_array_equal(first, kept)


def test_buffers_are_made_once_for_frames_of_a_size(cells: DeviceCells) -> None:
    # Rows that are not adjacent, as a camera's crop has them.
    wide = frame(40, 100)
    for _ in range(3):
        cells.between(wide[:, 10:60], wide[:, 50:], 9)
    cells.between(wide, wide, 9)
    cells.between(wide, wide, 16)
    assert Diff.made == [((40, 50), (40, 50), 3), ((40, 100), (40, 100), 3), ((40, 100), (40, 100), 4)]


def test_what_the_host_refuses_is_refused(cells: DeviceCells) -> None:
    good = frame(8, 8)
    with pytest.raises(InputError, match="current_rgb must be uint8"):
        cells.between(good.astype(np.float32), good, 4)
    with pytest.raises(InputError, match="previous_rgb must be 1 to"):
        cells.between(good, good[:0], 4)
    with pytest.raises(InputError, match="square number"):
        cells.between(good, good, 5)
    assert Diff.made == []


def test_a_think_call_takes_its_mask_from_there(reference: Path, cells: DeviceCells) -> None:
    loaded = Policy.from_pretrained(
        reference / "tiny-think", device="cpu", dtype="float32", execution="static"
    )
    policy = Policy(loaded.model, loaded.processor, execution="static")
    policy._changed_cells = cells
    assert policy.backends["changed cells"] == "cuda kernel"
    assert loaded.backends["changed cells"] == "cpu"
    options: dict[str, Any] = {
        "task": "reach",
        "state": STATE,
        "norm_tag": "so101_tiny",
        "seed": 0,
        "think": True,
    }
    frames = [frame(70, 90), frame(70, 90)]
    cache = loaded.predict(frames, **options).depth_cache
    moved = [frames[0].copy(), frames[1]]
    moved[0][:30] = frame(30, 90)
    found, expected = (one.predict(moved, **options, depth_cache=cache) for one in (policy, loaded))
    assert found.depth_update_mask is not None
    assert 0 < found.depth_update_mask.sum() < len(found.depth_update_mask)
    np.testing.assert_array_equal(found.depth_update_mask, expected.depth_update_mask)
    np.testing.assert_array_equal(found.actions, expected.actions)
    assert len(Diff.made) == 1


def test_warming_up_makes_the_buffers(reference: Path, cells: DeviceCells) -> None:
    loaded = Policy.from_pretrained(
        reference / "tiny-think", device="cpu", dtype="float32", execution="static"
    )
    loaded._changed_cells = cells
    frames = [frame(70, 90), frame(70, 90)]
    loaded.warmup(frames, "reach", STATE, "so101_tiny")
    assert Diff.made == []
    loaded.warmup(frames, "reach", STATE, "so101_tiny", think=True)
    assert Diff.made == [((70, 90), (70, 90), 10)]
