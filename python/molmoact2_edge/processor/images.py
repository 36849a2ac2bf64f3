"""Camera frames to patches, and the indices that pool patches to prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.types import FloatArray, Image, IntArray


@dataclass(frozen=True)
class ImageInputs:
    """All frames of one observation, ready for the vision tower."""

    pixel_values: FloatArray
    """(crops, patches, patch_dim): crops of all frames in order, patches row by row, each (row, column, RGB)."""
    pooling: IntArray
    """(tokens, pooled patches): patches of each prompt token, counted from 0 within its frame; -1 is none."""
    grids: IntArray
    """(frames, 4): rows and columns of tokens, low resolution then high resolution (0 where there is none)."""
    num_crops: IntArray
    """(frames,)"""
    tokens_per_image: IntArray
    """(frames,): rows of `pooling` that belong to each frame."""

    def batched_pooling(self) -> IntArray:
        """`pooling` with the patches of the frames before added: indices into all patches of `pixel_values`."""
        patches = self.num_crops * self.pixel_values.shape[1]
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


def prepare_images(images: Sequence[Image], config: ProcessorConfig) -> ImageInputs:
    """Resizes, scales and cuts camera frames.

    Args:
        images: Images (H, W, 3) uint8, RGB, main camera first.
        config: Size, patches and crops.

    Raises:
        InputError: No frame, or one of wrong type, shape or size zero.
    """
    check_frames(images)
    prepare = _single_crop if config.crop_mode == "resize" else _overlapping_crops
    crops, pooling, grids = zip(*(prepare(image, config) for image in images), strict=True)
    return ImageInputs(
        pixel_values=np.concatenate(crops),
        pooling=np.concatenate(pooling),
        grids=np.array(grids, dtype=np.int64),
        num_crops=np.array([len(one) for one in crops], dtype=np.int64),
        tokens_per_image=np.array([len(one) for one in pooling], dtype=np.int64),
    )


_Prepared = tuple[FloatArray, IntArray, tuple[int, int, int, int]]


def _single_crop(image: Image, config: ProcessorConfig) -> _Prepared:
    patches = _to_patches(_resize(image, config.size), config.patch_size)
    rows, columns = config.patch_grid
    pooling, grid = _whole_crop_pooling(rows, columns, config.pooling_size)
    return patches[None], pooling, (*grid, 0, 0)


def _overlapping_crops(image: Image, config: ProcessorConfig) -> _Prepared:
    """A low-resolution crop of the whole frame, then overlapping crops in full resolution, row by row."""
    low_crop, low_pooling, (low_rows, low_columns, _, _) = _single_crop(image, config)
    patch = config.patch_size
    rows, columns = config.patch_grid
    left, right = config.overlap_margins
    window_rows, window_columns = rows - left - right, columns - left - right
    margin = (left + right) * patch
    height, width = image.shape[:2]
    tile_rows, tile_columns = choose_tiling(
        height - margin, width - margin, window_rows * patch, window_columns * patch, config.max_crops
    )
    resized = _resize(
        image, (tile_rows * window_rows * patch + margin, tile_columns * window_columns * patch + margin)
    )
    crops = [low_crop[0]]
    index_grid = np.zeros(
        (tile_rows * window_rows + left + right, tile_columns * window_columns + left + right), dtype=np.int64
    )
    for a in range(tile_rows):
        for b in range(tile_columns):
            top, start = a * window_rows, b * window_columns
            crop = resized[top * patch : (top + rows) * patch, start * patch : (start + columns) * patch]
            first = len(crops) * rows * columns
            crops.append(_to_patches(crop, patch))
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
    high_pooling, (high_rows, high_columns) = _pool(index_grid, config.pooling_size)
    return (
        np.stack(crops),
        np.concatenate([low_pooling, high_pooling]),
        (low_rows, low_columns, high_rows, high_columns),
    )


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


def _resize(image: Image, size: tuple[int, int]) -> FloatArray:
    """Bilinear without antialiasing, (H, W, 3); rounded half to even to whole values in 0..255.

    PyTorch's own filter, because a value next to a half rounds as it does there only with the same arithmetic.
    """
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=False)
    frame: FloatArray = resized[0].permute(1, 2, 0).numpy()
    return np.rint(frame, out=frame)


def _to_patches(crop: FloatArray, patch: int) -> FloatArray:
    """Cuts values 0..255 of (H, W, 3) to (patches, patch_dim), row by row, scaled to [-1, 1]."""
    rows, columns = crop.shape[0] // patch, crop.shape[1] // patch
    tiles = crop.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
    # A division: multiplying by 1 / 255 gives other float32 numbers.
    patches: FloatArray = np.divide(tiles, np.float32(255), order="C")
    np.multiply(patches, np.float32(2), out=patches)
    np.subtract(patches, np.float32(1), out=patches)
    return patches.reshape(rows * columns, patch * patch * 3)


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
