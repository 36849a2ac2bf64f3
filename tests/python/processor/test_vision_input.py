"""The compiled resize to patches against a plain numpy version and, at one thread, the public pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint import Checkpoint
from molmoact2_edge.errors import InputError
from molmoact2_edge.processor import check_frames
from molmoact2_edge.processor.images import prepare_images

CASES = sorted((Path(__file__).parents[2] / "reference").glob("*/cases/*.npz"))
Floats = NDArray[np.float32]
f32 = np.float32


def frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c, rounded once.

    The product of two float32 is exact in float64; the sum is rounded to odd there, so that rounding it again to
    float32 gives what one rounding would.
    """
    product, addend = np.broadcast_arrays(np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64))
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    odd: Floats = np.where((error != 0) & (bits % 2 == 0), bits + step, bits).view(np.float64).astype(f32)
    return odd


def taps(input_size: int, output_size: int) -> tuple[Any, Any, Floats, Floats]:
    scale = f32(input_size) / f32(output_size)
    position = fma(np.arange(output_size, dtype=f32) + f32(0.5), scale, np.asarray(f32(-0.5)))
    position = np.maximum(position, f32(0))
    first = np.minimum(position.astype(np.int64), input_size - 1)
    second_weight = np.minimum(position - first.astype(f32), f32(1))
    return first, np.minimum(first + 1, input_size - 1), f32(1) - second_weight, second_weight


def plain_levels(image: NDArray[np.uint8], height: int, width: int) -> Floats:
    top, bottom, top_weight, bottom_weight = taps(image.shape[0], height)
    left, right, left_weight, right_weight = taps(image.shape[1], width)
    pixels = image.astype(f32)
    rows = fma(left_weight[:, None], pixels[:, left], right_weight[:, None] * pixels[:, right])
    levels = fma(top_weight[:, None, None], rows[top], bottom_weight[:, None, None] * rows[bottom])
    return np.rint(levels)


def plain_patches(image: NDArray[np.uint8], size: tuple[int, int], patch: int) -> Floats:
    scaled = plain_levels(image, *size) / f32(255) * f32(2) - f32(1)
    tiles = scaled.reshape(size[0] // patch, patch, size[1] // patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, patch * patch * 3)


def patches_of(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    patch: int,
    origin: tuple[int, int] = (0, 0),
    grid: tuple[int, int] | None = None,
) -> Floats:
    rows, columns = grid or (size[0] // patch, size[1] // patch)
    patches = np.full((rows * columns, patch * patch * 3), np.nan, f32)
    kernels.resize_to_patches(
        image, size=size, origin=origin, grid=(rows, columns), patch=patch, patches=patches
    )
    return patches


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's own resize gives other levels for two of the public cases here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_public_pixels_whatever_the_threads(path: Path) -> None:
    config = Checkpoint.open(path.parents[1]).processor_config
    with np.load(path) as case:
        frames = [case[f"image_{index}"] for index in range(len(case["image_num_crops"]))]
        np.testing.assert_array_equal(prepare_images(frames, config).pixel_values, case["pixel_values"])


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    patch=st.integers(1, 15),
    seed=st.integers(0, 9),
)
@example(height=480, width=640, rows=27, columns=27, patch=14, seed=0)
@example(height=720, width=1280, rows=27, columns=27, patch=14, seed=0)
def test_equals_numpy(height: int, width: int, rows: int, columns: int, patch: int, seed: int) -> None:
    image = frame(height, width, seed)
    size = (rows * patch, columns * patch)
    np.testing.assert_array_equal(patches_of(image, size, patch), plain_patches(image, size, patch))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_window_equals_that_part_of_the_frame(data: st.DataObject) -> None:
    image = frame(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70)))
    patch = data.draw(st.integers(1, 9))
    grid = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    height, width = grid[0] * patch, grid[1] * patch
    size = top + height + data.draw(st.integers(0, 20)), left + width + data.draw(st.integers(0, 20))
    part = plain_patches(image, size, 1).reshape(*size, 3)[top : top + height, left : left + width]
    tiles = part.reshape(grid[0], patch, grid[1], patch, 3).transpose(0, 2, 1, 3, 4)
    np.testing.assert_array_equal(
        patches_of(image, size, patch, (top, left), grid), tiles.reshape(grid[0] * grid[1], -1)
    )


VIEWS = {
    "every other row": lambda image: image[::2],
    "upside down": lambda image: image[::-1],
    "inner columns": lambda image: image[:, 5:17],
    "one column": lambda image: image[:, 4:5],
    "one of every other column": lambda image: image[:, ::2][:, :1],
    "one row for all": lambda image: np.broadcast_to(image[3], (9, 30, 3)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_rows_are_read_in_place(name: str) -> None:
    view = VIEWS[name](frame(20, 30))
    expected = plain_patches(np.ascontiguousarray(view), (28, 42), 14)
    np.testing.assert_array_equal(patches_of(view, (28, 42), 14), expected)


def call(**changes: Any) -> None:
    patches = np.zeros((6, 588), f32)
    arguments: dict[str, Any] = {"image": frame(8, 9), "size": (28, 42), "origin": (0, 0), "grid": (2, 3)}
    arguments |= {"patch": 14, "patches": patches} | changes
    kernels.resize_to_patches(arguments.pop("image"), **arguments)


def read_only() -> Floats:
    patches = np.zeros((6, 588), f32)
    patches.flags.writeable = False
    return patches


REFUSED: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "float frame": ({"image": np.zeros((8, 9, 3))}, TypeError),
    "grey frame": ({"image": np.zeros((8, 9), np.uint8)}, ValueError),
    "four channels": ({"image": np.zeros((8, 9, 4), np.uint8)}, ValueError),
    "no rows": ({"image": np.zeros((0, 9, 3), np.uint8)}, ValueError),
    "reversed columns": ({"image": frame(8, 9)[:, ::-1]}, ValueError),
    "planes": ({"image": frame(3, 8).reshape(3, 8, 3).transpose(1, 2, 0)}, ValueError),
    "frame too high": (
        {"image": np.broadcast_to(frame(1, 1), (kernels.MAX_IMAGE_SIDE + 1, 1, 3))},
        ValueError,
    ),
    "no size": ({"size": (0, 42)}, ValueError),
    "window too low": ({"origin": (1, 0)}, ValueError),
    "window too far right": ({"origin": (0, 1)}, ValueError),
    "window above": ({"origin": (-1, 0), "size": (90, 90)}, ValueError),
    "negative grid": ({"grid": (-2, -3)}, ValueError),
    "negative patch": ({"patch": -14}, ValueError),
    "too few patches": ({"patches": np.zeros((5, 588), f32)}, ValueError),
    "double patches": ({"patches": np.zeros((6, 588))}, TypeError),
    "patches apart": ({"patches": np.zeros((6, 1176), f32)[:, ::2]}, TypeError),
    "read-only patches": ({"patches": read_only()}, ValueError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    changes, error = REFUSED[name]
    with pytest.raises(error):
        call(**changes)


def test_a_frame_too_long_to_count_is_named() -> None:
    with pytest.raises(InputError, match=r"images\[1\].*at most"):
        check_frames([frame(2, 2), np.broadcast_to(frame(1, 1), (1, kernels.MAX_IMAGE_SIDE + 1, 3))])
