"""Every unusable argument of `Policy.predict`: one clear error, and the next call works as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import DepthCache, OpenFast, Policy
from molmoact2_edge.devices import resolve_device, resolve_dtype
from molmoact2_edge.errors import CheckpointError, InputError
from molmoact2_edge.model.generate import Generated
from molmoact2_edge.policy import action_codes, joints_of
from molmoact2_edge.processor import SO100_SO101

IMAGE = np.zeros((20, 30, 3), dtype=np.uint8)
STATE = np.zeros(6, dtype=np.float32)


@pytest.fixture(scope="module")
def policy(reference: Path) -> Policy:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    policy.action_tokenizer = OpenFast.from_pretrained(reference / "openfast-tiny")
    return policy


@pytest.fixture(scope="module")
def thinker(reference: Path) -> Policy:
    return Policy.from_pretrained(reference / "tiny-think", device="cpu", dtype="float32")


def call(policy: Policy, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "images": [IMAGE],
        "task": "pick up the cube",
        "state": STATE,
        "norm_tag": "so101_tiny",
        "seed": 0,
        "num_steps": 2,
    }
    return policy.predict(**{**arguments, **changes})


BAD = {
    "no image": ({"images": []}, "image"),
    "image as float": ({"images": [IMAGE.astype(np.float32)]}, "uint8"),
    "image without channels": ({"images": [IMAGE[..., 0]]}, r"\(H, W, 3\)"),
    "image with alpha": ({"images": [np.zeros((4, 4, 4), np.uint8)]}, r"\(H, W, 3\)"),
    "image of size zero": ({"images": [np.zeros((0, 4, 3), np.uint8)]}, r"size|zero|0"),
    "not an array": ({"images": ["front.png"]}, "image"),
    "unknown norm tag": ({"norm_tag": "so999"}, "so101_tiny"),
    "no norm tag where there are several": ({"norm_tag": None}, "so101_tiny"),
    "state too short": ({"state": STATE[:5]}, "6"),
    "state of another rank": ({"state": STATE[None]}, "6"),
    "state not a number": ({"state": np.full(6, np.nan, np.float32)}, "finite"),
    "state infinite": ({"state": np.full(6, np.inf, np.float32)}, "finite"),
    "noise of another horizon": ({"noise": np.zeros((3, 8), np.float32)}, r"\(12, 8\)"),
    "noise not finite": ({"noise": np.full((12, 8), np.inf, np.float32)}, "finite"),
    "noise of integers": ({"noise": np.zeros((12, 8), np.int64)}, "floating"),
    "no steps": ({"num_steps": 0}, "num_steps"),
    "steps as a fraction": ({"num_steps": 2.5}, "num_steps"),
    "unknown action mode": ({"action_mode": "both"}, "action_mode"),
    "unknown joint convention": ({"convention": "so102"}, "so100_so101"),
    "task not a text": ({"task": None}, "task"),
    "prompt too long": ({"task": "abc " * 2000}, "1024"),
    "think with a checkpoint that cannot": ({"think": True}, "Think"),
    "depth cache without think": ({"depth_cache": DepthCache(IMAGE, np.zeros(100, np.int64))}, "think"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_one_clear_error(name: str, policy: Policy) -> None:
    changes, message = BAD[name]
    before = call(policy).actions
    with pytest.raises(InputError, match=message):
        call(policy, **changes)
    np.testing.assert_array_equal(call(policy).actions, before)


@pytest.mark.parametrize(
    "codes",
    [np.zeros(99, np.int64), np.zeros((10, 10), np.int64), np.zeros(100), np.full(100, 32), np.full(100, -1)],
    ids=["too few", "two axes", "floating", "too large", "negative"],
)
def test_depth_cache_of_another_kind(codes: np.ndarray[Any, Any], thinker: Policy) -> None:
    with pytest.raises(InputError, match="depth_cache"):
        call(thinker, think=True, depth_cache=DepthCache(IMAGE, codes))


def test_discrete_without_tokenizer(reference: Path) -> None:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    with pytest.raises(InputError, match=r"set policy\.action_tokenizer"):
        call(policy, action_mode="discrete")


def test_sequence_that_does_not_decode_is_invalid_and_empty(policy: Policy) -> None:
    """The answer to a chunk that cannot be read is empty, never zeros. A black frame gives one here."""
    p = call(policy, action_mode="discrete")
    assert not p.valid
    assert "decode" in p.reason
    assert p.actions.shape == (0, 6)
    assert p.token_ids is not None
    assert p.token_ids[-1] == policy.config.eos_token_id


def test_generation_that_reaches_its_limit_is_invalid(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    complete = call(policy, action_mode="discrete", images=[frame]).token_ids
    assert len(complete) > 12
    monkeypatch.setattr("molmoact2_edge.policy._TOKENS_PER_STEP", 1)
    p = call(policy, action_mode="discrete", images=[frame])
    assert p.token_ids == complete[:12]
    assert not p.valid
    assert "12 generated tokens" in p.reason
    assert p.actions.shape == (0, 6)


def test_depth_map_without_end_is_invalid(thinker: Policy) -> None:
    head = thinker.model.decoder.head.weight
    end = thinker.config.depth_end_token_id
    kept = head[end].clone()
    head[end] = -head[end] * 10
    try:
        p = call(thinker, think=True)
    finally:
        head[end] = kept
    assert not p.valid
    assert "depth_end" in p.reason
    assert p.actions.shape == (0, 6)
    assert p.depth_cache is None


def test_chunk_that_is_not_finite_is_invalid(policy: Policy) -> None:
    norm = policy.model.decoder.blocks[0].attention_norm
    kept = norm.clone()
    norm[:] = float("nan")
    try:
        p = call(policy)
    finally:
        norm[:] = kept
    assert not p.valid
    assert "finite" in p.reason
    assert p.actions.shape == (0, 6)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([403, 405, 410, 404, 401], [0, 5]),
        ([403, 404, 401], []),
        ([7, 403, 406, 404, 403, 409, 404], [1]),
        ([403, 405, 406], []),
        ([404, 405, 403], []),
        ([405, 406, 401], []),
        ([403, 405, 12, 404], []),
        ([403, 405 + 64, 404], []),
    ],
)
def test_action_codes(tokens: list[int], expected: list[int], policy: Policy) -> None:
    assert action_codes(Generated(tokens, True), policy.config) == expected


def test_the_checkpoints_own_joint_convention_is_applied_once(policy: Policy) -> None:
    embodiment = policy.processor.embodiment("so101_tiny")
    own = replace(embodiment, joint_signs=(1, -1, 1, 1, 1, 1), joint_offsets=(0, 90, 90, 0, 0, 0))
    other = replace(embodiment, joint_signs=(1,) * 6, joint_offsets=(5,) * 6)
    assert joints_of(embodiment, "none") is None
    assert joints_of(embodiment, "so100_so101") == SO100_SO101
    assert joints_of(own, "none") == SO100_SO101
    assert joints_of(own, "so100_so101") == SO100_SO101
    with pytest.raises(InputError, match="leave the convention at 'none'"):
        joints_of(other, "so100_so101")


def test_a_joint_convention_maps_state_and_actions(policy: Policy) -> None:
    """What the arm calls x, the model calls sign * x + offset, on the way in and on the way out."""
    plain = call(policy, state=SO100_SO101.to_model(STATE)).actions
    mapped = call(policy, state=STATE, convention="so100_so101").actions
    np.testing.assert_allclose(SO100_SO101.to_model(mapped), plain, rtol=0, atol=1e-4)


def test_devices_and_number_types() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    for device in ("gpu", "mps", "cuda:x", ""):
        with pytest.raises(InputError, match="device"):
            resolve_device(device)
    with pytest.raises(InputError, match="float16"):
        resolve_dtype("float16", torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(InputError, match="doctor"):
        resolve_device("cuda")


def test_seed_makes_calls_reproducible(policy: Policy) -> None:
    first, again, other = call(policy, seed=3), call(policy, seed=3), call(policy, seed=4)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert np.abs(first.actions - other.actions).max() > 0


def test_wrong_tensor_shape_names_the_tensor(reference: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(reference / "tiny-base", broken, ignore=shutil.ignore_patterns("cases"))
    config = json.loads((broken / "config.json").read_text())
    config["action_expert_config"]["ffn_multiple_of"] = 64
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mlp\.up_proj.*\[160, 40\].*\[192, 40\]"):
        Policy.from_pretrained(broken, device="cpu")


def test_threads_share_a_policy(policy: Policy) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = [call(policy, seed=seed).actions for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: call(policy, seed=seed).actions, range(6)))
    np.testing.assert_array_equal(found, expected)
