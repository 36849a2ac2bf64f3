"""The text of a prompt: images as markers, then the question with the robot's state, then the trigger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.checkpoint.norm_stats import Embodiment
from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.types import FloatArray

IMAGE_MARK = "<|image|>"
_PATCH, _COLUMN = "<im_patch>", "<im_col>"
_IMAGE_START, _LOW_RES_START, _IMAGE_END = "<im_start>", "<low_res_im_start>", "<im_end>"

_QUESTION = "what action should the robot take to complete the task?"
_DEPTH_QUESTION = (
    "first predict the depth map of the main image and then predict the action the robot should take "
    "to complete the task?"
)


def state_tokens(normalized: FloatArray, num_state_tokens: int) -> str:
    """A normalized state (D,) as text: each number clipped to [-1, 1], then the nearest of the state tokens."""
    clipped = np.clip(np.nan_to_num(normalized, nan=0.0), -1, 1).astype(np.float32)
    bins = np.rint((clipped + np.float32(1)) / np.float32(2) * np.float32(num_state_tokens - 1)).astype(
        np.int64
    )
    return "<state_start>" + "".join(f"<state_{one}>" for one in bins) + "<state_end>"


def prompt_text(
    *, num_images: int, task: str, normalized_state: FloatArray, embodiment: Embodiment,
    config: ModelConfig, depth: bool,
) -> str:  # fmt: skip
    """The prompt with one `<|image|>` per frame, not yet expanded and without the beginning token."""
    if num_images == 1:
        images = IMAGE_MARK
    else:
        images = "".join(f"Image {number}{IMAGE_MARK}" for number in range(1, num_images + 1))
    setup = _wrapped(embodiment.setup_type, "setup", config.add_setup_tokens)
    control = _wrapped(embodiment.control_mode, "control", config.add_control_tokens)
    state = state_tokens(normalized_state, config.num_state_tokens)
    question = _DEPTH_QUESTION if depth else _QUESTION
    trigger = "<depth_output><action_output>" if depth else "<action_output>"
    return (
        f"{images}<|im_start|>user\nThe task is to {task}. The setup is {setup}. "
        f"The current state of the robot is {state}. The expected control mode is {control}. "
        f"Given these, {question}<|im_end|>\n<|im_start|>assistant\n{trigger}"
    )


def _wrapped(text: str, kind: str, wrap: bool) -> str:
    start, end = f"<{kind}_start>", f"<{kind}_end>"
    already = text.startswith(start) and text.endswith(end)
    return f"{start}{text}{end}" if wrap and text and not already else text


def expand_images(text: str, grids: Iterable[Sequence[int]], config: ProcessorConfig) -> str:
    """Replaces each `<|image|>` by the tokens of its frame; `grids` as in `ImageInputs.grids`."""
    pieces = text.split(IMAGE_MARK)
    expanded = pieces[0]
    for grid, piece in zip(grids, pieces[1:], strict=True):
        expanded += image_tokens(grid, config) + piece
    return expanded


def image_tokens(grid: Sequence[int], config: ProcessorConfig) -> str:
    """The tokens of one frame as text, from its rows and columns (low resolution, high resolution)."""
    low_rows, low_columns, high_rows, high_columns = (int(one) for one in grid)
    low_row = _PATCH * low_columns + (_COLUMN if config.use_single_crop_col_tokens else "")
    if high_rows == 0:
        return _IMAGE_START + low_row * low_rows + _IMAGE_END
    low_start = _LOW_RES_START if config.use_single_crop_start_token else _IMAGE_START
    high_row = _PATCH * high_columns + (_COLUMN if config.image_use_col_tokens else "")
    return low_start + low_row * low_rows + _IMAGE_END + _IMAGE_START + high_row * high_rows + _IMAGE_END
