"""A prediction that goes on from the chunk before: units, conventions, alignment, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge import ActionGuide, Policy
from molmoact2_edge.errors import InputError

STATE = np.linspace(-20, 30, 6, dtype=np.float32)
FRAME = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
# Degrees: normalizing, integrating and scaling back in float32 over ranges of some hundred degrees. Measured: 2e-6.
DEGREES = 1e-4


@pytest.fixture(scope="module")
def policy(reference: Path) -> Policy:
    return Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")


def predict(policy: Policy, **options: Any) -> Any:
    given: dict[str, Any] = {"norm_tag": "so101_tiny", "seed": 3, **options}
    return policy.predict([FRAME, FRAME], "reach", STATE, **given)


def test_frozen_rows_are_kept_and_the_rest_goes_on_from_them(policy: Policy) -> None:
    before, free = predict(policy, seed=1), predict(policy, seed=2)
    assert before.guide_clipped is None
    guided = predict(policy, seed=2, guide=ActionGuide(before.actions[4:], [1, 1, 1, 1, 0.6, 0.3, 0, 0]))
    np.testing.assert_allclose(guided.actions[:4], before.actions[4:8], rtol=0, atol=DEGREES)
    assert np.abs(guided.actions[:4] - free.actions[:4]).max() > 1.0
    # The rest differs from a free prediction because it sees the frozen rows.
    assert np.abs(guided.actions[10:] - free.actions[10:]).max() > 100 * DEGREES
    assert guided.guide_clipped == 0


def test_a_soft_row_lies_between_the_guide_and_the_flow(policy: Policy) -> None:
    before = predict(policy, seed=1).actions
    distances = [
        np.abs(
            predict(policy, seed=2, guide=ActionGuide(before, np.full(12, weight))).actions - before
        ).mean()
        for weight in (0.0, 0.3, 0.7, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < DEGREES < distances[0]


def test_the_guide_is_in_the_robots_convention(policy: Policy) -> None:
    before = predict(policy, seed=1, convention="so100_so101").actions
    guided = predict(policy, seed=2, convention="so100_so101", guide=ActionGuide(before, np.ones(12)))
    np.testing.assert_allclose(guided.actions, before, rtol=0, atol=DEGREES)


def test_what_the_model_cannot_express_is_clipped_and_counted(policy: Policy) -> None:
    rows = predict(policy, seed=1).actions.astype(np.float64)
    rows[2, 1] = 1e4
    rows[9, 3] = -1e4
    weights = np.where(np.arange(12) < 6, 1.0, 0.0)
    guided = predict(policy, guide=ActionGuide(rows, weights))
    assert guided.guide_clipped == 1  # row 9 has no weight
    assert guided.valid
    assert guided.actions[2, 1] < 1e3


def test_a_masked_dimension_passes_through(reference: Path, tmp_path: Path) -> None:
    for path in (reference / "tiny-base").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    stats = json.loads((tmp_path / "norm_stats.json").read_text())
    mask = stats["metadata_by_tag"]["so101_tiny"]["action_stats"]["mask"]
    mask[5] = False
    (tmp_path / "norm_stats.json").write_text(json.dumps(stats))
    policy = Policy.from_pretrained(tmp_path, device="cpu", dtype="float32")
    rows = predict(policy, seed=1).actions.astype(np.float64)
    rows[:, 5] = 0.25
    rows[3, 5] = 1.5  # a gripper in raw units beyond what un-normalization lets out again
    guided = predict(policy, guide=ActionGuide(rows, np.ones(12)))
    assert guided.guide_clipped == 1
    np.testing.assert_allclose(np.delete(guided.actions[:, 5], 3), 0.25, rtol=0, atol=1e-5)
    assert guided.actions[3, 5] == 1.0


def test_rows_that_are_not_returned_have_no_guide(reference: Path, tmp_path: Path) -> None:
    for path in (reference / "tiny-base").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["n_obs_steps"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    policy = Policy.from_pretrained(tmp_path, device="cpu", dtype="float32")
    before = predict(policy, seed=1).actions
    assert before.shape == (10, 6)
    guided = predict(policy, seed=2, guide=ActionGuide(before[4:], np.ones(6)))
    np.testing.assert_allclose(guided.actions[:6], before[4:], rtol=0, atol=DEGREES)
    with pytest.raises(
        InputError, match=r"at most 10 rows of 6 actions for 'so101_tiny', got shape \(11, 6\)"
    ):
        predict(policy, guide=ActionGuide(np.zeros((11, 6)), np.ones(11)))


def test_an_empty_guide_changes_nothing(policy: Policy) -> None:
    guided = predict(policy, guide=ActionGuide(np.empty((0, 6)), []))
    np.testing.assert_array_equal(guided.actions, predict(policy).actions)
    assert guided.guide_clipped == 0


def test_discrete_actions_cannot_be_guided(policy: Policy, reference: Path) -> None:
    from molmoact2_edge import OpenFast

    policy.action_tokenizer = OpenFast.from_pretrained(reference / "openfast-tiny")
    guide = ActionGuide(np.zeros((2, 6)), np.ones(2))
    with pytest.raises(InputError, match="only the flow can in-paint"):
        predict(policy, action_mode="discrete", guide=guide)


def test_a_guide_for_other_joints_is_refused(policy: Policy) -> None:
    with pytest.raises(
        InputError, match=r"at most 12 rows of 6 actions for 'so101_tiny', got shape \(2, 7\)"
    ):
        predict(policy, guide=ActionGuide(np.zeros((2, 7)), np.ones(2)))
    with pytest.raises(InputError, match=r"got shape \(2, 7\)"):
        predict(policy, convention="so100_so101", guide=ActionGuide(np.zeros((2, 7)), np.ones(2)))


@pytest.mark.parametrize(
    ("actions", "weights", "error"),
    [
        (np.zeros(6), np.ones(6), r"expected actions \(rows, action_dim\)"),
        (np.zeros((3, 6)), np.ones(2), r"got \(3, 6\) and \(2,\)"),
        (np.full((1, 6), np.nan), [1.0], "must be finite"),
        (np.zeros((1, 6)), [1.1], r"weights must lie in 0..1, got \[1.1\]"),
        (np.zeros((1, 6)), [np.nan], "weights must lie in 0..1"),
        ("left", [1.0], "expected numbers"),
    ],
)
def test_a_guide_that_makes_no_sense_is_refused(actions: Any, weights: Any, error: str) -> None:
    with pytest.raises(InputError, match=error):
        ActionGuide(actions, weights)
