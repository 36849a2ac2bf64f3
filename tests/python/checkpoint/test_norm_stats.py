"""`norm_stats.json`: tags, modes, sizes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.checkpoint import NormStats
from molmoact2_edge.checkpoint.norm_stats import NORM_MODES
from molmoact2_edge.errors import CheckpointError, InputError


@pytest.fixture
def values(reference: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((reference / "tiny-base/norm_stats.json").read_text())
    return loaded


def test_reads_the_reference(values: dict[str, Any]) -> None:
    stats = NormStats.from_json(values, default_horizon=12)
    arm = stats.embodiment("so101_tiny")
    assert (arm.action_dim, arm.state_dim, arm.action_horizon, arm.n_action_steps) == (6, 6, 12, 12)
    assert arm.action_stats.names[-1] == "gripper"
    assert arm.action_stats.mask.tolist() == [True] * 5 + [False]
    assert arm.action_stats.values["q01"].dtype == np.float32
    droid = stats.embodiment("droid_tiny")
    assert (droid.action_horizon, droid.n_action_steps) == (8, 5)


@pytest.mark.parametrize("tag", [None, "", "so101", 3])
def test_unknown_or_missing_tag_lists_the_tags(tag: Any, values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"'droid_tiny'.*'so101_tiny'"):
        NormStats.from_json(values, default_horizon=12).embodiment(tag)


def test_only_tag_may_be_left_out(values: dict[str, Any]) -> None:
    del values["metadata_by_tag"]["droid_tiny"]
    stats = NormStats.from_json(values, default_horizon=12)
    assert stats.embodiment(None).tag == "so101_tiny"
    with pytest.raises(InputError, match="so101_tiny"):
        stats.embodiment("droid_tiny")


def test_defaults_of_horizon_steps_mask_and_names(values: dict[str, Any]) -> None:
    arm = values["metadata_by_tag"]["so101_tiny"]
    del arm["action_horizon"], arm["n_action_steps"], arm["action_stats"]["mask"]
    arm["action_stats"]["names"] = ["one"]
    read = NormStats.from_json(values, default_horizon=9).embodiment("so101_tiny")
    assert (read.action_horizon, read.n_action_steps) == (9, 9)
    assert read.action_stats.mask.all()
    assert read.action_stats.names == ()


@pytest.mark.parametrize("mode", NORM_MODES)
def test_each_mode_asks_for_its_own_statistics(mode: str, values: dict[str, Any]) -> None:
    values["norm_mode"] = mode
    for tag in values["metadata_by_tag"].values():
        for kind in ("action_stats", "state_stats"):
            kept = set(NORM_MODES[mode]) or {"mean"}
            tag[kind] = {key: value for key, value in tag[kind].items() if key in kept}
    assert NormStats.from_json(values, default_horizon=12).embodiment("so101_tiny").state_dim == 6
    for needed in NORM_MODES[mode]:
        broken = copy.deepcopy(values)
        del broken["metadata_by_tag"]["so101_tiny"]["state_stats"][needed]
        with pytest.raises(CheckpointError, match=f"so101_tiny: state_stats.*{needed}"):
            NormStats.from_json(broken, default_horizon=12)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("q01", [0.0] * 5, "common size"),
        ("q99", [float("nan")] * 6, "finite"),
        ("q99", [1e300] * 6, "finite"),
        ("q99", [[0.0]] * 6, "flat list"),
        ("q99", "high", "flat list"),
        ("mask", [1] * 6, "true and false"),
        ("mask", [True] * 7, "common size"),
    ],
)
def test_damaged_statistics(key: str, value: object, message: str, values: dict[str, Any]) -> None:
    values["metadata_by_tag"]["so101_tiny"]["action_stats"][key] = value
    with pytest.raises(CheckpointError, match=message):
        NormStats.from_json(values, default_horizon=12)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "other.v2"), ("norm_mode", "sigmoid"), ("metadata_by_tag", {}), ("metadata_by_tag", None)],
)
def test_damaged_file(key: str, value: object, values: dict[str, Any]) -> None:
    values[key] = value
    with pytest.raises(CheckpointError, match=key):
        NormStats.from_json(values, default_horizon=12)
