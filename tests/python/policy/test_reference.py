"""Every public case, through the public face.

Ids, masks, pixels and codes exactly, floats within the tolerances of tests/reference/README.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import OpenFast, Policy, Prediction
from molmoact2_edge.policy import Trace

ROOT = Path(__file__).parents[2] / "reference"
CASES = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/cases/*.npz"))
CHECKPOINTS = sorted({case.parts[0] for case in CASES})

# From tests/reference/README.md. Features are relative to their largest magnitude, actions to their range.
FEATURES = 1e-5
CACHE = 1e-4
VELOCITIES = 1e-4
LOGITS = 1e-4
ACTIONS = 1e-3
ACTIONS_CPU = 1e-5
"""Tighter, since 4e-7 were reached there."""
ACTIONS_BF16 = 3e-2

Arrays = dict[str, np.ndarray[Any, Any]]


def load(case: Path) -> Arrays:
    with np.load(ROOT / case) as arrays:
        return dict(arrays)


def text(value: np.ndarray[Any, Any]) -> str:
    return str(value.item())


def images(case: Arrays) -> list[np.ndarray[Any, Any]]:
    return [case[f"image_{i}"] for i in range(len(case["image_num_crops"]))]


def allowed(policy: Policy) -> float:
    """How far actions may be from the vectors', in their range."""
    if policy.dtype == torch.bfloat16:
        return ACTIONS_BF16
    return ACTIONS_CPU if policy.device.type == "cpu" else ACTIONS


def action_range(policy: Policy, case: Arrays) -> np.ndarray[Any, Any]:
    stats = policy.processor.embodiment(text(case["norm_tag"])).action_stats
    return stats.values["q99"] - stats.values["q01"]


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(
    scope="module",
    params=[
        ("cpu", "float32", "eager"),
        ("cpu", "bfloat16", "eager"),
        ("cpu", "float32", "static"),
        *(
            pytest.param(("cuda", dtype, execution), marks=[pytest.mark.gpu, NO_CUDA])
            for dtype in ("float32", "bfloat16")
            for execution in ("eager", "static", "graph")
        ),
    ],
    ids="-".join,
)
def policies(request: pytest.FixtureRequest) -> dict[str, Policy]:
    device, dtype, execution = request.param
    loaded = {}
    for name in CHECKPOINTS:
        loaded[name] = Policy.from_pretrained(ROOT / name, device=device, dtype=dtype, execution=execution)
        loaded[name].action_tokenizer = OpenFast.from_pretrained(ROOT / "openfast-tiny")
    return loaded


def previous_frame(case: Path) -> Path | None:
    """The frame whose depth cache this case continues from, by the numbering of the file names."""
    stem, _, number = case.stem.rpartition("_")
    if stem != "frame" or number == "0":
        return None
    return case.with_name(f"{stem}_{int(number) - 1}{case.suffix}")


def predict(policy: Policy, case_path: Path, **options: Any) -> Prediction:
    """Run a case, with the depth cache that the vectors themselves give for the frame before."""
    from molmoact2_edge.policy import DepthCache

    case = load(case_path)
    if "depth_bins" in case:
        options["think"] = True
        before = previous_frame(case_path)
        if before is not None:
            past = load(before)
            options["depth_cache"] = DepthCache(past["image_0"], past["depth_bins"])
    return policy.predict(
        images=images(case),
        task=text(case["task"]),
        state=case["state"],
        norm_tag=text(case["norm_tag"]),
        num_steps=int(case["num_steps"]),
        noise=case["noise"],
        **options,
    )


def test_there_are_cases_of_every_checkpoint() -> None:
    assert {"tiny-base", "tiny-think", "tiny-multicrop"} <= set(CHECKPOINTS)
    assert len(CASES) >= 11
    assert {case.parts[0] for case in CASES if "discrete_actions" in load(case)} >= {"tiny-base"}


@pytest.mark.parametrize("case_path", CASES, ids=str)
def test_continuous_case(policies: dict[str, Policy], case_path: Path) -> None:
    policy = policies[case_path.parts[0]]
    case = load(case_path)
    trace = Trace()
    p = predict(policy, case_path, trace=trace)
    assert p.valid, p.reason
    span = action_range(policy, case)
    exact = policy.dtype == torch.float32
    assert p.actions.dtype == np.float32
    assert p.actions.shape == case["actions"].shape
    np.testing.assert_array_less(np.abs(p.actions - case["actions"]) / span, allowed(policy))
    assert trace.prompt is not None
    assert trace.images is not None
    assert trace.prompt.text == text(case["prompt"])
    np.testing.assert_array_equal(trace.prompt.input_ids, case["input_ids"])
    np.testing.assert_array_equal(trace.prompt.token_type_ids, case["token_type_ids"])
    np.testing.assert_array_equal(trace.images.pixel_values, case["pixel_values"])
    np.testing.assert_array_equal(trace.images.pooling, case["image_token_pooling"])
    np.testing.assert_array_equal(trace.images.grids, case["image_grids"])
    np.testing.assert_array_equal(trace.images.num_crops, case["image_num_crops"])
    if not exact:
        return
    found = trace.arrays
    valid = case["cross_mask_valid"]
    np.testing.assert_array_equal(found["cross_mask"], valid)
    largest = np.abs(case["image_features"]).max()
    np.testing.assert_allclose(
        found["image_features"] / largest, case["image_features"] / largest, 0, FEATURES
    )
    np.testing.assert_allclose(found["velocities"], case["velocities"], 0, VELOCITIES)
    if "kv_k" in case:
        np.testing.assert_allclose(found["keys"], case["kv_k"], 0, CACHE)
        np.testing.assert_allclose(found["values"], case["kv_v"], 0, CACHE)
        for name, expected in (("context_keys", "context_k0"), ("context_values", "context_v0")):
            np.testing.assert_allclose(found[name][0].transpose(1, 0, 2), case[expected][valid], 0, CACHE)
    if "depth_bins" in case:
        assert p.depth_codes is not None
        np.testing.assert_array_equal(p.depth_codes, case["depth_bins"])
        assert p.token_ids == case["depth_token_ids"].tolist()
        if "update_mask" in case:
            np.testing.assert_array_equal(p.depth_update_mask, case["update_mask"])
        else:
            assert p.depth_update_mask is None


@pytest.mark.parametrize("case_path", [c for c in CASES if "discrete_actions" in load(c)], ids=str)
def test_discrete_case(policies: dict[str, Policy], case_path: Path) -> None:
    policy = policies[case_path.parts[0]]
    case = load(case_path)
    trace = Trace()
    p = predict(policy, case_path, action_mode="discrete", trace=trace)
    assert p.valid, p.reason
    if policy.dtype == torch.float32:
        np.testing.assert_allclose(trace.arrays["first_logits"], case["first_logits"], 0, LOGITS)
        assert p.token_ids == case["discrete_token_ids"].tolist()
        np.testing.assert_array_less(
            np.abs(p.actions - case["discrete_actions"]) / action_range(policy, case), allowed(policy)
        )


def test_frames_chain_through_the_predictions_own_cache() -> None:
    """The cache that a prediction returns serves the next frame as the vectors' own codes do."""
    policy = Policy.from_pretrained(ROOT / "tiny-think", device="cpu", dtype="float32")
    cache = None
    for case_path in [c for c in CASES if c.parts[0] == "tiny-think"]:
        case = load(case_path)
        p = policy.predict(
            images=images(case),
            task=text(case["task"]),
            state=case["state"],
            norm_tag=text(case["norm_tag"]),
            noise=case["noise"],
            think=True,
            depth_cache=cache,
        )
        np.testing.assert_array_equal(p.depth_codes, case["depth_bins"])
        cache = p.depth_cache
