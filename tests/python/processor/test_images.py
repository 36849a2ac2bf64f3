"""Frames to patches: hand-computed values for what the public cases leave open."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.checkpoint import Checkpoint, ProcessorConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.processor.images import choose_tiling, prepare_images


@pytest.fixture(scope="module")
def single(reference: Path) -> ProcessorConfig:
    return Checkpoint.open(reference / "tiny-base").processor_config


@pytest.fixture(scope="module")
def several(reference: Path) -> ProcessorConfig:
    return Checkpoint.open(reference / "tiny-multicrop").processor_config


def frame(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_patches_are_cut_row_by_row_and_divided(single: ProcessorConfig) -> None:
    """A frame of the crop's own size is not resized, so every number can be told by hand."""
    image = frame(70, 70)
    patches = prepare_images([image], single).pixel_values[0]
    assert patches.shape == (25, 588)
    for row, column, y, x, channel in [(0, 0, 0, 0, 0), (4, 4, 13, 13, 2), (1, 3, 2, 5, 1), (3, 0, 9, 0, 2)]:
        value = np.float32(image[row * 14 + y, column * 14 + x, channel])
        expected = value / np.float32(255) * np.float32(2) - np.float32(1)
        assert patches[row * 5 + column, (y * 14 + x) * 3 + channel] == expected


@pytest.mark.parametrize(("pair", "expected"), [((0, 1), 0), ((1, 2), 2), ((2, 3), 2), ((254, 255), 254)])
def test_halves_round_to_even(pair: tuple[int, int], expected: int, single: ProcessorConfig) -> None:
    """Halving the width averages pairs of columns."""
    image = np.zeros((70, 140, 3), np.uint8)
    image[:, 0::2], image[:, 1::2] = pair
    levels = (prepare_images([image], single).pixel_values + 1) / 2 * 255
    np.testing.assert_allclose(levels, expected, atol=1e-4)


def test_no_antialiasing(single: ProcessorConfig) -> None:
    """At a quarter of the width only the two middle columns of each four count."""
    image = np.zeros((70, 280, 3), np.uint8)
    image[:, 0::4] = image[:, 3::4] = 255
    image[:, 1::4], image[:, 2::4] = 10, 20
    levels = (prepare_images([image], single).pixel_values + 1) / 2 * 255
    np.testing.assert_allclose(levels, 15, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (13, 7), (480, 640)])
@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_stays_one_colour(
    size: tuple[int, int], level: int, single: ProcessorConfig, several: ProcessorConfig
) -> None:
    image = np.full((*size, 3), level, np.uint8)
    expected = np.float32(level) / np.float32(255) * np.float32(2) - np.float32(1)
    for config in (single, several):
        assert (prepare_images([image], config).pixel_values == expected).all()


def test_strided_and_read_only_frames(single: ProcessorConfig) -> None:
    image = frame(140, 160)
    view = image[::2, ::-1]
    view.flags.writeable = False
    expected = prepare_images([np.ascontiguousarray(view)], single).pixel_values
    np.testing.assert_array_equal(prepare_images([view], single).pixel_values, expected)


def test_pooling_pads_the_end_more(single: ProcessorConfig) -> None:
    """Five patches in blocks of two: one is missing, at the end. In blocks of three: one; of four: one and two."""
    images = prepare_images([frame(20, 20)], single)
    assert images.grids.tolist() == [[3, 3, 0, 0]]
    assert images.pooling[0].tolist() == [0, 1, 5, 6]
    assert images.pooling[2].tolist() == [4, -1, 9, -1]
    assert images.pooling[8].tolist() == [24, -1, -1, -1]
    fours = prepare_images([frame(20, 20)], dataclasses.replace(single, pooling_size=(4, 1)))
    assert fours.grids.tolist() == [[2, 5, 0, 0]]
    assert fours.pooling[0].tolist() == [-1, 0, 5, 10]
    assert fours.pooling[9].tolist() == [19, 24, -1, -1]


def test_crop_need_not_be_square(single: ProcessorConfig) -> None:
    images = prepare_images([frame(30, 40)], dataclasses.replace(single, size=(42, 84)))
    assert images.pixel_values.shape == (1, 18, 588)
    assert images.grids.tolist() == [[2, 3, 0, 0]]
    assert images.pooling[0].tolist() == [0, 1, 6, 7]
    assert images.pooling[5].tolist() == [16, 17, -1, -1]


def test_batched_pooling_adds_the_patches_before(single: ProcessorConfig, several: ProcessorConfig) -> None:
    for config in (single, several):
        frames = [frame(150, 190), frame(30, 30), frame(100, 230)]
        images = prepare_images(frames, config)
        batched = images.batched_pooling()
        first_token = first_patch = 0
        for one in frames:
            alone = prepare_images([one], config)
            rows = slice(first_token, first_token + len(alone.pooling))
            expected = np.where(alone.pooling >= 0, alone.pooling + first_patch, -1)
            np.testing.assert_array_equal(batched[rows], expected)
            np.testing.assert_array_equal(images.pooling[rows], alone.pooling)
            first_token, first_patch = rows.stop, first_patch + alone.pixel_values.shape[0] * 25
        assert first_token == len(batched) == images.tokens_per_image.sum()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (42, 42, (1, 1)),  # exactly one window
        (22, 32, (1, 1)),  # smaller: enlarged least by one window
        (43, 42, (2, 1)),  # one row too high: (1, 1) would shrink it
        (122, 162, (2, 3)),  # all shrink it; (2, 3) and (2, 4) tie at 84/122, the first in order wins
        (40, 400, (1, 8)),
        (400, 40, (8, 1)),
        (5000, 5000, (2, 2)),
        (-8, -8, (1, 1)),  # a frame smaller than its margins
    ],
)
def test_tiling(height: int, width: int, expected: tuple[int, int]) -> None:
    assert choose_tiling(height, width, 42, 42, max_crops=8) == expected


def test_each_patch_of_the_high_resolution_is_pooled_once(several: ProcessorConfig) -> None:
    """Overlapping margins are dropped on the inner sides: the kept patches tile the frame without gap."""
    images = prepare_images([frame(150, 190)], several)
    low_rows, low_columns, high_rows, high_columns = images.grids[0]
    assert images.num_crops.tolist() == [7]
    high = images.pooling[low_rows * low_columns :]
    assert len(high) == high_rows * high_columns
    kept = high[high >= 0]
    assert len(kept) == len(set(kept.tolist())) == (2 * 3 + 2) * (3 * 3 + 2)
    assert kept.min() >= 25, "the low-resolution crop comes first"


NOT_FRAMES: dict[str, tuple[Any, str]] = {
    "none": (None, "list"),
    "text": ("a.png", "list"),
    "empty": ([], "at least one"),
    "one bare array": (np.zeros((4, 4, 3), np.uint8), r"\[frame\]"),
    "path": (["a.png"], r"images\[0\].*str"),
    "float": ([np.zeros((4, 4, 3))], "uint8.*float64"),
    "grey": ([np.zeros((4, 4), np.uint8)], r"\(H, W, 3\).*\(4, 4\)"),
    "alpha": ([np.zeros((4, 4, 4), np.uint8)], r"\(4, 4, 4\)"),
    "channels first": ([np.zeros((3, 4, 4), np.uint8)], r"\(3, 4, 4\)"),
    "no rows": ([np.zeros((0, 4, 3), np.uint8)], "one pixel"),
    "no columns": ([np.zeros((4, 0, 3), np.uint8)], "one pixel"),
    "second is bad": ([np.zeros((4, 4, 3), np.uint8), None], r"images\[1\]"),
}


@pytest.mark.parametrize("name", NOT_FRAMES)
def test_bad_frames_are_named(name: str, single: ProcessorConfig) -> None:
    images, message = NOT_FRAMES[name]
    with pytest.raises(InputError, match=message):
        prepare_images(images, single)
