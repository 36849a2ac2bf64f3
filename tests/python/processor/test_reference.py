"""Every public case: prompt, ids, pixels and indices to the bit, and the way back of its actions."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from molmoact2_edge.checkpoint import Checkpoint
from molmoact2_edge.processor import Processor

REFERENCE = Path(__file__).parents[2] / "reference"
CASES = sorted(REFERENCE.glob("*/cases/*.npz"))


@cache
def processor_of(directory: Path) -> Processor:
    return Processor.from_checkpoint(Checkpoint.open(directory))


def test_all_cases_are_here() -> None:
    assert len(CASES) >= 11
    assert {path.parents[1].name for path in CASES} == {
        path.parent.name for path in REFERENCE.glob("*/model.safetensors")
    }


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_case(path: Path) -> None:
    processor = processor_of(path.parents[1])
    with np.load(path) as case:
        frames = [case[f"image_{index}"] for index in range(len(case["image_num_crops"]))]
        images = processor.images(frames)
        np.testing.assert_array_equal(images.pixel_values, case["pixel_values"])
        np.testing.assert_array_equal(images.pooling, case["image_token_pooling"])
        np.testing.assert_array_equal(images.grids, case["image_grids"])
        np.testing.assert_array_equal(images.num_crops, case["image_num_crops"])
        assert (images.pixel_values.dtype, images.pooling.dtype) == (np.float32, np.int64)

        tag = str(case["norm_tag"])
        prompt = processor.prompt(
            images, task=str(case["task"]), state=case["state"], norm_tag=tag, depth="depth_bins" in case
        )
        assert prompt.text == str(case["prompt"])
        np.testing.assert_array_equal(prompt.input_ids, case["input_ids"])
        np.testing.assert_array_equal(prompt.token_type_ids, case["token_type_ids"])
        assert (prompt.input_ids.dtype, prompt.token_type_ids.dtype) == (np.int64, np.bool_)

        for key in {"actions", "discrete_actions"} & set(case.files):
            actions = case[key]
            back = processor.unnormalize_actions(processor.normalize_actions(actions, tag), tag)
            # Normalizing clips to [-1, 1], where the public actions already lie, so the way back is exact but for
            # float32 rounding: 1e-6 of the values, which reach 150.
            np.testing.assert_allclose(back, actions, atol=1e-4)
            assert back.dtype == np.float32
