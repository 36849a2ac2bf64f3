"""The compiled depth-cell diff against Pillow, numpy and the public masks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from molmoact2_edge import depth_update_mask
from molmoact2_edge._core import kernels
from molmoact2_edge.depth import CellRun, cell_runs
from molmoact2_edge.errors import InputError

_CASES = Path(__file__).parents[2] / "reference" / "tiny-think" / "cases"


def random_frame(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow_resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pillow's filter, columns before rows: in one call, Pillow from 13 on takes rows first for tall frames."""
    image = Image.fromarray(frame).resize((width, frame.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def plain_mask(current: NDArray[np.uint8], previous: NDArray[np.uint8], cells: int) -> NDArray[np.bool_]:
    side = int(np.sqrt(cells))

    def vectors(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = pillow_resize(frame, side * 32, side * 32).astype(np.float32)
        grid = pixels.reshape(side, 32, side, 32, 3).transpose(0, 2, 1, 3, 4)
        rows: NDArray[np.float32] = grid.reshape(cells, -1)
        return rows

    now, before = vectors(current), vectors(previous)
    norms = np.linalg.norm(now, axis=1) * np.linalg.norm(before, axis=1)
    cosine = (now * before).sum(axis=1) / np.maximum(norms, np.float32(1e-8))
    mask: NDArray[np.bool_] = (cosine < 0.996) & (norms >= 1e-8)
    return mask


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1), (7, 3), (3, 7), (84, 112), (320, 320), (320, 100), (111, 320), (480, 640), (1080, 1920),
        (1, 5000), (5000, 1), (319, 321), (640, 640), (960, 1280),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", [1, 10])
def test_resize_equals_pillow(height: int, width: int, side: int) -> None:
    frame = random_frame(height, width, height * 7 + width)
    resized = kernels.resize_bilinear(frame, side * 32, side * 32)
    assert np.array_equal(resized, pillow_resize(frame, side * 32, side * 32))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (84, 112), (120, 160), (480, 640), (1080, 1920)])
def test_resize_of_camera_frames_equals_pillow_in_one_call(height: int, width: int) -> None:
    frame = random_frame(height, width, height)
    expected = np.asarray(Image.fromarray(frame).resize((320, 320), Image.Resampling.BILINEAR))
    assert np.array_equal(kernels.resize_bilinear(frame, 320, 320), expected)


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    target=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    seed=st.integers(0, 1000),
    extreme=st.booleans(),
)
def test_resize_equals_pillow_at_any_size(
    size: tuple[int, int], target: tuple[int, int], seed: int, extreme: bool
) -> None:
    frame = random_frame(*size, seed)
    if extreme:  # black and white only: the sums reach the ends of their range
        frame = np.where(frame > 127, 255, 0).astype(np.uint8)
    assert np.array_equal(kernels.resize_bilinear(frame, *target), pillow_resize(frame, *target))


def test_every_public_mask_is_reproduced() -> None:
    paths = sorted(_CASES.glob("frame_*.npz"))
    assert len(paths) == 5
    previous: NDArray[np.uint8] | None = None
    changed = []
    for path in paths:
        with np.load(path) as case:
            current = case["image_0"]
            assert ("update_mask" in case) == (previous is not None)
            if previous is not None:
                mask = depth_update_mask(current, previous, len(case["update_mask"]))
                assert mask.dtype == np.bool_
                assert np.array_equal(mask, case["update_mask"].astype(bool))
                changed.append(int(mask.sum()))
        previous = current
    assert changed == [0, 12, 18, 74]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    noise=st.integers(0, 60),
    side=st.integers(1, 6),
    size=st.tuples(st.integers(20, 200), st.integers(20, 200)),
)
def test_mask_equals_the_plain_one(seed: int, noise: int, side: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    before = random_frame(*size, seed)
    now = before.astype(int)
    corner = rng.integers(0, np.array(size))
    now[corner[0] :, corner[1] :] += rng.integers(-noise - 1, noise + 1, now[corner[0] :, corner[1] :].shape)
    current = np.clip(now, 0, 255).astype(np.uint8)
    assert np.array_equal(
        depth_update_mask(current, before, side * side), plain_mask(current, before, side * side)
    )


def test_frames_may_differ_in_size() -> None:
    current, previous = random_frame(100, 60, 1), random_frame(40, 90, 2)
    assert np.array_equal(depth_update_mask(current, previous), plain_mask(current, previous, 100))


def test_only_the_cell_that_turned_is_marked() -> None:
    before = np.full((320, 320, 3), 90, np.uint8)
    for cell in (0, 9, 37, 90, 99):
        row, column = divmod(cell, 10)
        now = before.copy()
        now[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32, 0] = 0
        assert np.flatnonzero(depth_update_mask(now, before)).tolist() == [cell]


def test_black_cells_count_as_unchanged() -> None:
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert not depth_update_mask(black, white).any()
    assert not depth_update_mask(white, black).any()
    assert not depth_update_mask(black, black).any()


def test_frames_need_not_be_contiguous() -> None:
    wide = random_frame(64, 128, 4)
    other = random_frame(64, 64, 5)
    expected = depth_update_mask(wide[:, ::2].copy(), other)
    assert np.array_equal(depth_update_mask(wide[:, ::2], other), expected)
    assert np.array_equal(
        depth_update_mask(wide[::-1, ::-1, ::-1], other),
        plain_mask(wide[::-1, ::-1, ::-1].copy(), other, 100),
    )


_FRAME = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((1, 20_000, 3), np.uint8),
        None,
        "frame.png",
    ],
)
def test_wrong_frames_are_refused(frame: Any) -> None:
    with pytest.raises(InputError, match="current_rgb must be"):
        depth_update_mask(frame, _FRAME)
    with pytest.raises(InputError, match="previous_rgb must be"):
        depth_update_mask(_FRAME, frame)


@pytest.mark.parametrize("cells", [0, -4, 2, 99, 101, 65**2, 10**30])
def test_cells_must_be_a_square(cells: int) -> None:
    with pytest.raises(InputError, match="square number"):
        depth_update_mask(_FRAME, _FRAME, cells)


@given(mask=st.lists(st.booleans(), max_size=40))
def test_runs_cover_the_mask_and_alternate(mask: list[bool]) -> None:
    runs = cell_runs(np.array(mask, np.bool_))
    assert [changed for run in runs for changed in [run.changed] * (run.stop - run.start)] == mask
    assert all(run.start < run.stop for run in runs)
    assert all(left.changed != right.changed for left, right in itertools.pairwise(runs))


def test_runs_of_a_short_mask() -> None:
    assert cell_runs(np.array([True, False, False])) == [CellRun(0, 1, True), CellRun(1, 3, False)]


@pytest.mark.parametrize("mask", [np.zeros(3), np.zeros((2, 2), np.bool_), np.array([0, 1])])
def test_runs_need_a_mask(mask: Any) -> None:
    with pytest.raises(InputError, match="update_mask must be"):
        cell_runs(mask)
