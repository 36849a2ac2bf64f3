"""Prompts: state tokens, image markers, wording, beginning token, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.checkpoint import Checkpoint, ProcessorConfig
from molmoact2_edge.errors import CheckpointError, InputError
from molmoact2_edge.processor import Processor, PromptTokenizer
from molmoact2_edge.processor.prompt import image_tokens, state_tokens

FRAME = np.zeros((8, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(reference: Path) -> Checkpoint:
    return Checkpoint.open(reference / "tiny-base")


def prompt(checkpoint: Checkpoint, *, frames: int = 1, **changes: Any) -> Any:
    processor = Processor.from_checkpoint(checkpoint)
    arguments: dict[str, Any] = {
        "task": "Pick it up.", "state": np.zeros(6), "norm_tag": "so101_tiny", "depth": False,
    }  # fmt: skip
    return processor.prompt(processor.images([FRAME] * frames), **{**arguments, **changes})


@pytest.mark.parametrize(
    ("state", "n", "expected"),
    [
        ([-1, 1], 256, [0, 255]),
        ([-7, 7], 256, [0, 255]),
        ([float("nan"), 0], 256, [128, 128]),  # 127.5 rounds to the even neighbour
        ([1 / 255, -1 / 255], 256, [128, 127]),
        ([0.5, -0.5, 0], 3, [2, 0, 1]),  # 1.5 and 0.5, half to even
        ([0], 2, [0]),  # 0.5
        ([float("inf"), float("-inf")], 16, [15, 0]),
    ],
)
def test_state_tokens(state: Sequence[float], n: int, expected: Sequence[int]) -> None:
    text = "".join(f"<state_{one}>" for one in expected)
    assert state_tokens(np.array(state, np.float32), n) == f"<state_start>{text}<state_end>"


P, C, S, L, E = "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>"


@pytest.mark.parametrize(
    ("grid", "flags", "expected"),
    [
        ((2, 3, 0, 0), {}, S + P * 6 + E),
        ((2, 3, 0, 0), {"use_single_crop_col_tokens": True}, S + (P * 3 + C) * 2 + E),
        ((2, 3, 0, 0), {"image_use_col_tokens": False}, S + P * 6 + E),
        ((1, 2, 2, 3), {}, L + P * 2 + E + S + (P * 3 + C) * 2 + E),
        ((1, 2, 2, 3), {"use_single_crop_start_token": False}, S + P * 2 + E + S + (P * 3 + C) * 2 + E),
        ((1, 2, 2, 3), {"image_use_col_tokens": False}, L + P * 2 + E + S + P * 6 + E),
        ((1, 2, 2, 3), {"use_single_crop_col_tokens": True}, L + P * 2 + C + E + S + (P * 3 + C) * 2 + E),
    ],
)
def test_image_tokens(
    grid: tuple[int, ...], flags: dict[str, bool], expected: str, checkpoint: Checkpoint
) -> None:
    assert image_tokens(grid, dataclasses.replace(checkpoint.processor_config, **flags)) == expected


@pytest.mark.parametrize(
    ("single", "every", "expected"), [(None, True, True), (None, False, False), (False, True, False)]
)
def test_null_column_flag_follows_the_other(
    single: bool | None, every: bool, expected: bool, reference: Path
) -> None:
    values = json.loads((reference / "tiny-base/processor_config.json").read_text())
    values.update(use_single_crop_col_tokens=single, image_use_col_tokens=every)
    assert ProcessorConfig.from_json(values).use_single_crop_col_tokens is expected


def test_column_tokens_are_image_tokens(checkpoint: Checkpoint) -> None:
    config = dataclasses.replace(checkpoint.processor_config, use_single_crop_col_tokens=True)
    with_columns = prompt(dataclasses.replace(checkpoint, processor_config=config))
    assert (with_columns.input_ids == checkpoint.config.image_col_id).sum() == 3
    # start, three rows of three patches and a column mark, end
    assert with_columns.token_type_ids.sum() == 1 + 3 * 4 + 1


def test_frames_are_counted_from_one(checkpoint: Checkpoint) -> None:
    assert prompt(checkpoint).text.startswith(
        "<|image|><|im_start|>user\nThe task is to pick it up. The setup"
    )
    assert prompt(checkpoint, frames=3).text.startswith(
        "Image 1<|image|>Image 2<|image|>Image 3<|image|><|im_start|>user"
    )


def test_instruction_as_it_is(checkpoint: Checkpoint) -> None:
    assert (
        "The task is to  Pick: it up!! . The"
        in prompt(checkpoint, task=" Pick: it up!! ", normalize_language=False).text
    )


@pytest.mark.parametrize("wrapped", [True, False])
def test_setup_and_control_wrapping(wrapped: bool, checkpoint: Checkpoint) -> None:
    config = dataclasses.replace(checkpoint.config, add_setup_tokens=wrapped, add_control_tokens=wrapped)
    text = prompt(dataclasses.replace(checkpoint, config=config)).text
    start, end = ("<setup_start>", "<setup_end>") if wrapped else ("", "")
    assert f"The setup is {start}single so101 robotic arm{end}. The" in text
    start, end = ("<control_start>", "<control_end>") if wrapped else ("", "")
    assert f"The expected control mode is {start}absolute joint pose{end}. Given" in text


def test_step_window(checkpoint: Checkpoint) -> None:
    """With three observation steps the first two of the chunk lie in the past."""
    chunk = np.linspace(-1, 1, 8 * 8, dtype=np.float32).reshape(8, 8)
    whole = Processor.from_checkpoint(checkpoint).unnormalize_actions(chunk, "droid_tiny")
    assert whole.shape == (5, 8)
    for steps, rows in ((3, slice(2, 7)), (6, slice(5, 8))):
        config = dataclasses.replace(checkpoint.config, n_obs_steps=steps)
        processor = Processor.from_checkpoint(dataclasses.replace(checkpoint, config=config))
        expected = Processor.from_checkpoint(checkpoint)
        actions = processor.unnormalize_actions(chunk, "droid_tiny")
        assert len(actions) == rows.stop - rows.start
        for action, row in zip(actions, chunk[rows], strict=True):
            np.testing.assert_array_equal(action, expected.unnormalize_actions(row[None], "droid_tiny")[0])


def test_padding_columns_are_dropped(checkpoint: Checkpoint) -> None:
    processor = Processor.from_checkpoint(checkpoint)
    chunk = np.full((12, 8), 0.25, np.float32)
    chunk[:, 6:] = np.nan
    actions = processor.unnormalize_actions(chunk, "so101_tiny")
    assert actions.shape == (12, 6)
    assert np.isfinite(actions).all()
    for shape in ((12, 5), (0, 8), (12,), (1, 12, 8)):
        with pytest.raises(InputError, match="chunk"):
            processor.unnormalize_actions(np.zeros(shape, np.float32), "so101_tiny")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown tag": ({"norm_tag": "other"}, "'droid_tiny', 'so101_tiny'.*'other'"),
    "missing tag": ({"norm_tag": None}, "'droid_tiny', 'so101_tiny'"),
    "short state": ({"state": np.zeros(5)}, r"6 numbers.*\(5,\)"),
    "long state": ({"state": np.zeros(8)}, r"6 numbers.*\(8,\)"),
    "state with a batch": ({"state": np.zeros((1, 6))}, r"\(1, 6\)"),
    "NaN": ({"state": [0, 0, 0, 0, 0, float("nan")]}, "finite"),
    "infinity": ({"state": [0, 0, 0, 0, 0, float("inf")]}, "finite"),
    "text as state": ({"state": "abcdef"}, "numbers"),
    "no state": ({"state": None}, "finite|numbers|shape"),
    "task is bytes": ({"task": b"pick"}, "text"),
    "control token": ({"task": "pick<|im_end|>"}, r"<\|im_end\|>"),
    "image mark": ({"task": "pick <|image|>"}, r"<\|image\|>"),
    "too long": ({"task": "go " * 3000}, r"1024.*max_position_embeddings"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input(name: str, checkpoint: Checkpoint) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        prompt(checkpoint, **changes)


def test_longest_prompt_counts_the_depth_codes(reference: Path) -> None:
    think = Checkpoint.open(reference / "tiny-think")
    length = len(prompt(think, depth=True).input_ids)

    def limited(positions: int) -> Checkpoint:
        text = dataclasses.replace(think.config.text_config, max_position_embeddings=positions)
        return dataclasses.replace(think, config=dataclasses.replace(think.config, text_config=text))

    assert len(prompt(limited(length + 102), depth=True).input_ids) == length
    with pytest.raises(InputError, match=str(length + 101)):
        prompt(limited(length + 101), depth=True)


# The tokenizer ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(reference: Path, tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference / "tiny-base" / name, tmp_path)
    return tmp_path / "tokenizer.json"


def test_beginning_token(files: Path) -> None:
    def first(bos: int | None, eos: int | None) -> list[int]:
        tokenizer = PromptTokenizer.from_file(files, bos_token_id=bos, eos_token_id=eos)
        return tokenizer.encode("<|im_start|>user")[:2].tolist()

    assert first(None, 401) == [401, 400], "without one of its own, the end token begins"
    assert first(5, 401) == [5, 400]
    assert first(400, 401) == [400, tokens_of(files, "user")[0]], "already there"
    settings = files.parent / "tokenizer_config.json"
    for own in ("<|endoftext|>", {"content": "<|endoftext|>"}):
        settings.write_text(json.dumps({"bos_token": own}))
        assert first(5, 401) == [0, 400], "the tokenizer's own comes first, even with id 0"
    settings.write_text(json.dumps({"bos_token": "<nowhere>"}))
    with pytest.raises(CheckpointError, match="<nowhere>"):
        first(5, 401)
    settings.unlink()
    with pytest.raises(CheckpointError, match="beginning"):
        first(None, None)


def tokens_of(files: Path, text: str) -> list[int]:
    return PromptTokenizer.from_file(files, bos_token_id=0, eos_token_id=0).encode(text)[1:].tolist()


def test_saved_truncation_is_ignored(files: Path) -> None:
    whole = tokens_of(files, "a b c d e f")
    values = json.loads(files.read_text())
    values["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    values["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    files.write_text(json.dumps(values))
    assert tokens_of(files, "a b c d e f") == whole


def test_damaged_tokenizer(files: Path) -> None:
    files.write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        PromptTokenizer.from_file(files, bos_token_id=0, eos_token_id=0)
    files.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        PromptTokenizer.from_file(files, bos_token_id=0, eos_token_id=0)


def test_tokenizer_of_another_checkpoint(checkpoint: Checkpoint) -> None:
    config = dataclasses.replace(checkpoint.config, image_patch_id=767)
    with pytest.raises(CheckpointError, match=r"<im_patch>.*767.*768"):
        Processor.from_checkpoint(dataclasses.replace(checkpoint, config=config))
