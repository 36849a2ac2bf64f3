"""Shortcuts give what the plain path gives: drafts for depth codes, and reused images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge import Policy
from molmoact2_edge.errors import InputError
from molmoact2_edge.model.decoder import KeyValueCache
from molmoact2_edge.model.decoding import CachedDecoding, feed
from molmoact2_edge.model.depth_decode import (
    DepthTokens,
    continuation,
    decode_depth,
    decode_depth_from_draft,
)
from molmoact2_edge.types import BoolArray, IntArray

STATE = np.linspace(-20, 30, 6, dtype=np.float32)
# What float32 rounding leaves between one forward over many tokens and many over one; of the action range. Measured:
# 2e-7.
REFRESH = 1e-5


@pytest.fixture(scope="module")
def thinker(reference: Path) -> Policy:
    return Policy.from_pretrained(reference / "tiny-think", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def frames(reference: Path) -> list[np.ndarray[Any, Any]]:
    with np.load(reference / "tiny-think" / "cases" / "frame_0.npz") as case:
        return [case["image_0"], case["image_1"]]


@pytest.fixture(scope="module")
def prompt(thinker: Policy) -> KeyValueCache:
    """A cache with a short prompt, to be copied by each test."""
    cache = thinker.model.decoder.new_cache(1, 20)
    with torch.inference_mode():
        feed(thinker.model.decoder, cache, [401, 306, 343, 375, 266, 199, 727, 402])
    return cache


def fresh(policy: Policy, prompt: KeyValueCache) -> KeyValueCache:
    cache = policy.model.decoder.new_cache(1, 200)
    cache.copy_prefix(prompt, prompt.length)
    return cache


def decoding(policy: Policy, cache: KeyValueCache) -> CachedDecoding:
    first = policy.config.depth_token_start_id
    assert first is not None
    return CachedDecoding(policy.model.decoder, cache, codes=(first, first + policy.config.num_depth_tokens))


def cell_by_cell(policy: Policy, cache: KeyValueCache, draft: IntArray, changed: BoolArray) -> list[int]:
    """The published rule, plainly: changed cells are decided in turn, others replayed, one forward a cell."""
    tokens = DepthTokens.of(policy.config)
    decoder = policy.model.decoder
    state = feed(decoder, cache, [tokens.start])
    codes = []
    for cell in range(tokens.cells):
        assert state is not None
        best = int(decoder.logits(state, tokens.first, tokens.first + tokens.codes).argmax())
        code = best if changed[cell] else int(draft[cell])
        codes.append(code)
        state = feed(decoder, cache, [tokens.first + code])
    return codes


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.0, 0.05, 1.0]))
@settings(max_examples=10, deadline=None)
@torch.inference_mode()
def test_a_draft_gives_the_codes_of_the_plain_rule(
    thinker: Policy, prompt: KeyValueCache, seed: int, share_changed: float, share_wrong: float
) -> None:
    rng = np.random.default_rng(seed)
    tokens = DepthTokens.of(thinker.config)
    truth = decode_depth(decoding(thinker, fresh(thinker, prompt)), tokens, closing_limit=8)
    every = np.ones(tokens.cells, dtype=np.bool_)
    assert truth.codes == cell_by_cell(
        thinker, fresh(thinker, prompt), np.zeros(tokens.cells, np.int64), every
    )
    draft = np.array(truth.codes, dtype=np.int64)
    wrong = rng.random(tokens.cells) < share_wrong
    draft[wrong] = rng.integers(0, tokens.codes, int(wrong.sum()))
    changed = rng.random(tokens.cells) < share_changed
    plain_cache, cache = fresh(thinker, prompt), fresh(thinker, prompt)
    expected = cell_by_cell(thinker, plain_cache, draft, changed)
    found = decode_depth_from_draft(
        decoding(thinker, cache), tokens, draft=draft, changed=changed, closing_limit=8
    )
    assert found.codes == expected
    assert found.token_ids[: tokens.cells + 1] == [tokens.start, *(tokens.first + code for code in expected)]
    disagreements = int((draft != np.array(expected)).sum())
    closing = len(found.token_ids) - tokens.cells - 2
    assert found.forwards <= disagreements + 1 + closing + 1
    assert cache.length == prompt.length + len(found.token_ids)
    length = plain_cache.length
    torch.testing.assert_close(cache.keys[:, :, :length], plain_cache.keys[:, :, :length], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        cache.values[:, :, :length], plain_cache.values[:, :, :length], rtol=0, atol=1e-4
    )


@torch.inference_mode()
def test_a_perfect_draft_takes_one_forward(thinker: Policy, prompt: KeyValueCache) -> None:
    tokens = DepthTokens.of(thinker.config)
    truth = decode_depth(decoding(thinker, fresh(thinker, prompt)), tokens, closing_limit=8)
    assert truth.complete
    assert truth.forwards <= tokens.cells + 2
    found = decode_depth_from_draft(
        decoding(thinker, fresh(thinker, prompt)),
        tokens,
        draft=np.array(truth.codes),
        changed=np.ones(tokens.cells, dtype=np.bool_),
        closing_limit=8,
    )
    assert found.token_ids == truth.token_ids
    assert found.forwards == 1


@pytest.mark.parametrize(
    ("codes", "count", "expected"),
    [
        ([5], 3, [5, 5, 5]),
        ([1, 2, 3], 2, [3, 3]),
        ([1, 2, 1], 4, [2, 1, 2, 1]),
        ([7, 1, 2, 3, 9, 1, 2, 3], 3, [9, 1, 2]),
        ([1, 2, 8, 1, 2, 9, 4, 1, 2], 1, [9]),
        ([4, 4], 0, []),
    ],
)
def test_the_guess_is_what_followed_the_latest_like_place(
    codes: list[int], count: int, expected: list[int]
) -> None:
    assert continuation(codes, count) == expected


def test_exact_mode_equals_decoding_without_a_cache(
    thinker: Policy, frames: list[np.ndarray[Any, Any]]
) -> None:
    other = [np.ascontiguousarray(np.roll(frame, 9, axis=1)) for frame in frames]
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 5}
    before = thinker.predict(frames, think="exact", **options)
    alone = thinker.predict(other, think=True, **options)
    exact = thinker.predict(other, think="exact", depth_cache=before.depth_cache, **options)
    np.testing.assert_array_equal(exact.depth_codes, alone.depth_codes)
    assert exact.token_ids == alone.token_ids
    again = thinker.predict(other, think="exact", depth_cache=exact.depth_cache, **options)
    assert again.token_ids == alone.token_ids
    assert again.depth_forwards == 1
    assert exact.depth_update_mask is not None
    assert exact.depth_update_mask.all()
    scale = np.ptp(alone.actions, axis=0).max()
    np.testing.assert_allclose(exact.actions, alone.actions, rtol=0, atol=REFRESH * scale)


def test_reused_images_give_the_actions_of_a_whole_call(
    thinker: Policy, frames: list[np.ndarray[Any, Any]]
) -> None:
    first = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 5}
    second = {
        "task": "push the red cube away",
        "state": STATE[::-1] * 1.5,
        "norm_tag": "so101_tiny",
        "seed": 6,
    }
    for think in (False, True):
        whole = thinker.predict(frames, **second, think=think)
        thinker.predict(frames, **first)
        for _ in range(2):
            again = thinker.predict(None, **second, think=think, reuse_images=True)
            scale = np.ptp(whole.actions, axis=0).max()
            np.testing.assert_allclose(again.actions, whole.actions, rtol=0, atol=REFRESH * scale)
            assert again.token_ids == whole.token_ids
            assert again.timing["vision"] == 0.0


def test_reuse_needs_something_to_reuse(reference: Path, frames: list[np.ndarray[Any, Any]]) -> None:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny"}
    with pytest.raises(InputError, match="earlier call"):
        policy.predict(None, **options, reuse_images=True)
    policy.predict(frames, **options)
    with pytest.raises(InputError, match="images=None"):
        policy.predict(frames, **options, reuse_images=True)
    with pytest.raises(InputError, match="image"):
        policy.predict(None, **options)
