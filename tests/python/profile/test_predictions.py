"""A policy beside the loop: its stages, its failure, its NVTX ranges."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError
from molmoact2_edge.policy import Policy
from molmoact2_edge.profile.predictions import PredictionLoad, noise_images, norm_tag_for, nvtx_ranges

CONFIG = load_robot("sim-so101")


@dataclass
class Quick:
    """Answers at once; fails at the given call."""

    fails_at: int = -1
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cpu"))
    calls: int = 0

    def predict(self, images: Any, task: str, state: Any, norm_tag: Any, **options: Any) -> Any:
        assert [image.shape for image in images] == [(112, 112, 3)] * 2
        assert np.shape(state) == (6,)
        self.calls += 1
        if self.calls == self.fails_at:
            raise ArithmeticError("the device fell off")
        time.sleep(0.001)
        return SimpleNamespace(timing={"vision": 0.0004, "depth": 0.0, "flow": 0.0005, "total": 0.001})


def load_of(policy: Any) -> PredictionLoad:
    images = noise_images(CONFIG)
    return PredictionLoad(policy, CONFIG, lambda: images, None)


def test_calls_are_kept_with_the_stages_that_ran() -> None:
    load = load_of(Quick())
    assert load.calls == []
    assert load.first_call_s == 0.001
    with load.running():
        while len(load.calls) < 3:
            time.sleep(0.001)
    assert load.failure is None
    assert all(list(call.stages) == ["vision", "flow"] for call in load.calls)
    begins = [call.begin_ns for call in load.calls]
    assert begins == sorted(begins)


def test_a_failure_ends_the_calls_and_is_told() -> None:
    load = load_of(Quick(fails_at=3))
    with load.running():
        while load.failure is None:
            time.sleep(0.001)
    assert load.failure == "ArithmeticError: the device fell off"
    assert len(load.calls) == 1
    with pytest.raises(ArithmeticError):
        load_of(Quick(fails_at=1))


class Ranges:
    def __init__(self) -> None:
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    def range_push(self, msg: str) -> None:
        self.open.append(msg)
        self.seen.append(tuple(self.open))

    def range_pop(self) -> None:
        self.open.pop()

    def mark(self, msg: str) -> None:
        self.seen.append((*self.open, msg))


def test_nvtx_shows_calls_and_stages_within_the_block_only(reference: Any) -> None:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    with np.load(reference / "tiny-base" / "cases" / "two_cameras.npz") as case:
        call: dict[str, Any] = {
            "images": [case[f"image_{i}"] for i in range(len(case["image_num_crops"]))],
            "task": str(case["task"].item()),
            "state": case["state"],
            "norm_tag": str(case["norm_tag"].item()),
        }
    ranges = Ranges()
    with nvtx_ranges(policy, ranges):
        policy.predict(**call)
        with pytest.raises(InputError):
            policy.predict(**{**call, "norm_tag": "no such"})
    stages = ["preprocess", "vision", "prefill", "flow", "postprocess"]
    assert ranges.seen == [("predict",), *(("predict", f"{stage} ends") for stage in stages), ("predict",)]
    assert ranges.open == []
    policy.predict(**call)
    assert len(ranges.seen) == 7


def test_a_checkpoint_without_the_robots_tag_is_asked_without_one(reference: Any) -> None:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    assert norm_tag_for(policy, load_robot("so101")) in (None, "so100_so101_molmoact2")
    assert norm_tag_for(policy, CONFIG) is None
