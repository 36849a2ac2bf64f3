"""Camera frames to patches, and the indices that pool patches to prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.types import FloatArray, Image, IntArray


class Crop(NamedTuple):
    """A window, of the crop's size, of the frame resized to another size."""

    frame_size: tuple[int, int]
    origin: tuple[int, int]
    """Top and left, in pixels of the resized frame."""


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """All frames of one observation, and how the vision tower reads them."""

    frames: tuple[Image, ...]
    """(H, W, 3) uint8 RGB each; a pixel's channels and a row's pixels are adjacent."""
    crops: tuple[tuple[Crop, ...], ...]
    """What is cut from each frame."""
    patch_grid: tuple[int, int]
    """Rows and columns of patches in every crop."""
    patch_size: int
    """Pixels along a patch's side."""
    pooling: IntArray
    """(tokens, pooled patches): patches of each prompt token, counted from 0 within its frame; -1 is none."""
    grids: IntArray
    """(frames, 4): rows and columns of tokens, low resolution then high resolution (0 where there is none)."""
    num_crops: IntArray
    """(frames,)"""
    tokens_per_image: IntArray
    """(frames,): rows of `pooling` that belong to each frame."""

    @property
    def patches_shape(self) -> tuple[int, int, int]:
        """The shape of `pixel_values`."""
        rows, columns = self.patch_grid
        return int(self.num_crops.sum()), rows * columns, self.patch_size**2 * 3

    @cached_property
    def pixel_values(self) -> FloatArray:
        """(crops, patches, patch_dim): crops of all frames in order, patches row by row, each (row, column, RGB).

        Computed from the frames when first asked for, until when they must not change.
        """
        pixel_values = np.empty(self.patches_shape, dtype=np.float32)
        patches = iter(pixel_values)
        for frame, crops in zip(self.frames, self.crops, strict=True):
            for crop in crops:
                kernels.resize_to_patches(
                    frame,
                    size=crop.frame_size,
                    origin=crop.origin,
                    grid=self.patch_grid,
                    patch=self.patch_size,
                    patches=next(patches),
                )
        return pixel_values

    def batched_pooling(self) -> IntArray:
        """`pooling` with the patches of the frames before added: indices into all patches of `pixel_values`."""
        patches = self.num_crops * self.patches_shape[1]
        first = np.repeat(np.cumsum(patches) - patches, self.tokens_per_image)
        return np.where(self.pooling >= 0, self.pooling + first[:, None], self.pooling)


def check_frames(images: object) -> None:
    """Refuses anything but frames of at least one pixel, (H, W, 3) uint8.

    Raises:
        InputError: Naming the frame, what was expected and what came.
    """
    if isinstance(images, np.ndarray) and images.ndim == 3:
        raise InputError("images: expected a list of frames, got one array; pass [frame]")
    if not isinstance(images, list | tuple | np.ndarray):
        raise InputError(f"images: expected a list of (H, W, 3) uint8 arrays, got {type(images).__name__}")
    if len(images) == 0:
        raise InputError("images: expected at least one camera frame, got none")
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"images[{index}]: expected an (H, W, 3) uint8 array, got {type(image).__name__}"
            )
        if image.dtype != np.uint8:
            raise InputError(f"images[{index}]: expected uint8 values 0..255 in RGB order, got {image.dtype}")
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"images[{index}]: expected shape (H, W, 3) in RGB order, got {image.shape}")
        if image.shape[0] == 0 or image.shape[1] == 0:
            raise InputError(f"images[{index}]: expected at least one pixel, got shape {image.shape}")
        if max(image.shape[:2]) > kernels.MAX_IMAGE_SIDE:
            raise InputError(
                f"images[{index}]: expected at most {kernels.MAX_IMAGE_SIDE} pixels a side, got shape {image.shape}"
            )


def prepare_images(images: Sequence[Image], config: ProcessorConfig) -> ImageInputs:
    """Finds out how camera frames are resized, scaled and cut; `pixel_values` of the result does it.

    Bilinear without antialiasing, rounded half to even, scaled by x / 255 * 2 - 1: the public model's pixels to the
    bit, whatever the number of threads (csrc/kernels/vision_input).

    Args:
        images: Images (H, W, 3) uint8, RGB, main camera first.
        config: Size, patches and crops.

    Raises:
        InputError: No frame, or one of wrong type, shape or size zero.
    """
    check_frames(images)
    cut = _single_crop if config.crop_mode == "resize" else _overlapping_crops
    cuts = [cut(image.shape[0], image.shape[1], config) for image in images]
    return ImageInputs(
        frames=tuple(
            image if image.strides[1:] == (3, 1) else np.ascontiguousarray(image) for image in images
        ),
        crops=tuple(tuple(one.crops) for one in cuts),
        patch_grid=config.patch_grid,
        patch_size=config.patch_size,
        pooling=np.concatenate([one.pooling for one in cuts]),
        grids=np.array([one.grids for one in cuts], dtype=np.int64),
        num_crops=np.array([len(one.crops) for one in cuts], dtype=np.int64),
        tokens_per_image=np.array([len(one.pooling) for one in cuts], dtype=np.int64),
    )


class _Cut(NamedTuple):
    """How a frame becomes crops and prompt tokens; depends on its size only."""

    crops: list[Crop]
    pooling: IntArray
    grids: tuple[int, int, int, int]


def _single_crop(height: int, width: int, config: ProcessorConfig) -> _Cut:
    pooling, grid = _whole_crop_pooling(*config.patch_grid, config.pooling_size)
    return _Cut([Crop(config.size, (0, 0))], pooling, (*grid, 0, 0))


def _overlapping_crops(height: int, width: int, config: ProcessorConfig) -> _Cut:
    """A low-resolution crop of the whole frame, then overlapping crops in full resolution, row by row."""
    crops, low_pooling, (low_rows, low_columns, _, _) = _single_crop(height, width, config)
    patch = config.patch_size
    rows, columns = config.patch_grid
    left, right = config.overlap_margins
    window_rows, window_columns = rows - left - right, columns - left - right
    margin = (left + right) * patch
    tile_rows, tile_columns = choose_tiling(
        height - margin, width - margin, window_rows * patch, window_columns * patch, config.max_crops
    )
    frame_size = (tile_rows * window_rows * patch + margin, tile_columns * window_columns * patch + margin)
    index_grid = np.zeros(
        (tile_rows * window_rows + left + right, tile_columns * window_columns + left + right), dtype=np.int64
    )
    for a in range(tile_rows):
        for b in range(tile_columns):
            top, start = a * window_rows, b * window_columns
            first = len(crops) * rows * columns
            crops.append(Crop(frame_size, (top * patch, start * patch)))
            # A crop keeps its margins at the frame's own edges only; inside, its neighbours hold those patches.
            keep_top, keep_bottom = (0 if a == 0 else left), (rows if a == tile_rows - 1 else rows - right)
            keep_left, keep_right = (
                (0 if b == 0 else left),
                (columns if b == tile_columns - 1 else columns - right),
            )
            indices = np.arange(first, first + rows * columns).reshape(rows, columns)
            index_grid[top + keep_top : top + keep_bottom, start + keep_left : start + keep_right] = indices[
                keep_top:keep_bottom, keep_left:keep_right
            ]
    high_pooling, high_grid = _pool(index_grid, config.pooling_size)
    return _Cut(crops, np.concatenate([low_pooling, high_pooling]), (low_rows, low_columns, *high_grid))


def choose_tiling(
    height: int, width: int, window_height: int, window_width: int, max_crops: int
) -> tuple[int, int]:
    """Rows and columns of crops for a frame of this size in pixels, its margins already taken off.

    Prefers the tiling that enlarges the frame least; where every tiling shrinks it, the one that shrinks it least.
    """
    tilings = [(i, j) for i in range(1, max_crops + 1) for j in range(1, max_crops + 1) if i * j <= max_crops]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    # A frame no larger than its margins needs no tiling for resolution: as if infinitely enlarged.
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.array(tilings, dtype=np.float32) * np.array(
            [window_height, window_width], dtype=np.float32
        )
        scales = np.min(sizes / np.array([height, width], dtype=np.float32), axis=1)
    if np.all(scales < 1):
        return tilings[int(np.argmax(scales))]
    return tilings[int(np.argmin(np.where(scales < 1, np.inf, scales)))]


@lru_cache(maxsize=8)
def _whole_crop_pooling(
    rows: int, columns: int, pooling_size: tuple[int, int]
) -> tuple[IntArray, tuple[int, int]]:
    return _pool(np.arange(rows * columns, dtype=np.int64).reshape(rows, columns), pooling_size)


def _pool(index_grid: IntArray, pooling_size: tuple[int, int]) -> tuple[IntArray, tuple[int, int]]:
    """Groups a grid of patch indices into blocks; a grid that does not divide is padded with -1, more at the end."""
    padding = [(-size % block) for size, block in zip(index_grid.shape, pooling_size, strict=True)]
    padded = np.pad(index_grid, [(pad // 2, pad - pad // 2) for pad in padding], constant_values=-1)
    block_rows, block_columns = pooling_size
    rows, columns = padded.shape[0] // block_rows, padded.shape[1] // block_columns
    blocks = padded.reshape(rows, block_rows, columns, block_columns).transpose(0, 2, 1, 3)
    return blocks.reshape(rows * columns, block_rows * block_columns), (rows, columns)
