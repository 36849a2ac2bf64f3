"""A call that was recorded once and is replayed gives what the plain call gives, whatever came before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from static.replay import ReplayedExecution, fill_with_nan

from molmoact2_edge import ActionGuide, DepthCache, Policy, Prediction
from molmoact2_edge.errors import InputError
from molmoact2_edge.model.depth_decode import DepthTokens, decode_depth, decode_depth_from_draft
from molmoact2_edge.model.static_network import BUCKET, bucket_of
from molmoact2_edge.model.static_pipeline import StaticPipeline

Plain = Callable[[str], Policy]
Replayed = Callable[[str], tuple[Policy, ReplayedExecution]]

# What float32 rounding leaves between sums over padded and over fitting rows, of the action range. Measured: 3e-7.
CLOSE = 1e-5
RNG = np.random.default_rng(7)
FRAMES = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(3)]
OTHER_FRAMES = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(3)]
STATE = np.linspace(-20, 30, 6, dtype=np.float32)
NORM_TAG = "so101_tiny"


def arguments(seed: int, **changes: Any) -> dict[str, Any]:
    state = STATE * np.float32(1 - 0.1 * (seed % 7)) + seed % 5
    return {"task": "reach", "state": state, "norm_tag": NORM_TAG, "seed": seed, **changes}


def length(policy: Policy, cameras: int, task: str, think: bool) -> int:
    images = policy.processor.images(FRAMES[:cameras])
    prompt = policy.processor.prompt(images, task=task, state=STATE, norm_tag=NORM_TAG, depth=think)
    return len(prompt.input_ids)


def task_of(policy: Policy, cameras: int, remainder: int, think: bool) -> str:
    """A task whose prompt's length leaves ``remainder`` when divided by the bucket."""
    for letters in range(1, 200):
        task = " ".join(["zq"] * (letters // 2) + ["z"] * (letters % 2))
        if length(policy, cameras, task, think) % BUCKET == remainder:
            return task
    raise AssertionError("no task has this length")


def assert_same(found: Prediction, expected: Prediction) -> None:
    assert found.valid == expected.valid
    assert found.token_ids == expected.token_ids
    assert found.depth_forwards == expected.depth_forwards
    assert found.guide_clipped == expected.guide_clipped
    for one, other in (
        (found.depth_codes, expected.depth_codes),
        (found.depth_update_mask, expected.depth_update_mask),
    ):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other)
    scale = max(float(np.abs(expected.actions).max(initial=0.0)), 1.0)
    np.testing.assert_allclose(found.actions, expected.actions, rtol=0, atol=CLOSE * scale)


def test_buckets() -> None:
    assert [bucket_of(tokens) for tokens in (1, 31, 32, 33, 64, 65)] == [32, 32, 32, 64, 64, 96]


@pytest.mark.parametrize("remainder", [BUCKET - 1, 0, 1])
@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("think", [False, True])
def test_every_side_of_a_bucket(
    plain: Plain, replayed: Replayed, remainder: int, cameras: int, think: bool
) -> None:
    """Two calls a recording, so that the second is a pure replay; then two that reuse the images."""
    name = "tiny-think" if think else "tiny-base"
    eager, (policy, execution) = plain(name), replayed(name)
    task = task_of(eager, cameras, remainder, think)
    images = FRAMES[:cameras]
    for seed in (1, 2):
        options = arguments(seed, task=task, think=think)
        assert_same(policy.predict(images, **options), eager.predict(images, **options))
    for seed in (3, 4):
        options = arguments(seed, task=task, think=think, reuse_images=True)
        assert_same(policy.predict(None, **options), eager.predict(None, **options))
    tokens = length(eager, cameras, task, think)
    assert {key[-2] for key in execution.recorded} == {bucket_of(tokens)}
    if not think:
        assert sorted(execution.replays.values()) == [2, 2]


def test_calls_of_all_kinds_in_turn_do_not_disturb_each_other(plain: Plain, replayed: Replayed) -> None:
    eager, (policy, _) = plain("tiny-base"), replayed("tiny-base")
    kinds: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (2, {"task": "push the block to the far left corner of the table " * 3}),
        (1, {"num_steps": 3}),
        (3, {"norm_tag": "droid_tiny", "state": np.zeros(8, np.float32)}),
        (2, {"action_mode": "discrete"}),
        (1, {"task": "x"}),
        (2, {}),
    ]
    for seed, (cameras, changes) in enumerate([*kinds, *reversed(kinds)]):
        options = arguments(seed, **changes)
        images = (FRAMES if seed % 2 else OTHER_FRAMES)[:cameras]
        assert_same(policy.predict(images, **options), eager.predict(images, **options))
        if "action_mode" not in changes:
            reused = {**options, "seed": seed + 100, "reuse_images": True}
            assert_same(policy.predict(None, **reused), eager.predict(None, **reused))


def test_images_stay_known_when_the_memory_grows(plain: Plain, replayed: Replayed) -> None:
    eager, (policy, execution) = plain("tiny-base"), replayed("tiny-base")
    options = arguments(1)
    assert_same(policy.predict(FRAMES[:2], **options), eager.predict(FRAMES[:2], **options))
    before = set(execution.recorded)
    longer = arguments(2, task="then put it back where it came from " * 20, reuse_images=True)
    assert_same(policy.predict(None, **longer), eager.predict(None, **longer))
    assert before.isdisjoint(execution.recorded), "recordings of the old memory are gone"
    short = arguments(3, reuse_images=True)
    assert_same(policy.predict(None, **short), eager.predict(None, **short))


def test_more_camera_settings_than_are_kept(plain: Plain, replayed: Replayed) -> None:
    """Crops depend on the size of the frame here, so that every size is a setting of its own."""
    eager, (policy, execution) = plain("tiny-multicrop"), replayed("tiny-multicrop")
    sizes = [(70, 70), (100, 230), (150, 190), (230, 100), (60, 300), (300, 60), (70, 70)]
    for seed, size in enumerate(sizes):
        frame = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
        options = arguments(seed, num_steps=2)
        assert_same(policy.predict([frame], **options), eager.predict([frame], **options))
        options = arguments(seed, num_steps=2, reuse_images=True)
        assert_same(policy.predict(None, **options), eager.predict(None, **options))
    assert {key[-3] for key in execution.recorded} <= {0, 1, 2, 3}


def test_two_policies_of_one_model(plain: Plain, replayed: Replayed) -> None:
    """What one computes once for its longer prompts may not take away what the other's recordings read."""
    eager, (policy, _) = plain("tiny-base"), replayed("tiny-base")
    other = Policy(policy.model, policy.processor, execution=ReplayedExecution())
    rope = policy.model.decoder.rope
    assert_same(policy.predict(FRAMES[:1], **arguments(0)), eager.predict(FRAMES[:1], **arguments(0)))
    before = [tensor.data_ptr() for tensor in rope.tables]
    rope.reserve(len(rope.tables[0]) + 1)
    other.predict(FRAMES[:1], **arguments(1))
    held = [tensor.data_ptr() for pair in rope._superseded for tensor in pair]
    assert set(before) <= set(held)
    assert_same(policy.predict(FRAMES[:1], **arguments(2)), eager.predict(FRAMES[:1], **arguments(2)))


@pytest.mark.parametrize("think", [False, True])
def test_a_guide_is_an_input_like_any_other(plain: Plain, replayed: Replayed, think: bool) -> None:
    eager, (policy, execution) = plain("tiny-think"), replayed("tiny-think")
    guide = ActionGuide(np.full((5, 6), 3.0), [1.0, 1.0, 0.5, 0.25, 0.0])
    for seed, given_guide in enumerate([None, guide, None]):
        options = arguments(seed, guide=given_guide, think=think)
        assert_same(policy.predict(FRAMES[:2], **options), eager.predict(FRAMES[:2], **options))
    assert sum("act" in key for key in execution.recorded) == 1


@pytest.mark.parametrize("think", ["adaptive", "exact"])
def test_frames_in_a_row(plain: Plain, replayed: Replayed, reference: Path, think: str) -> None:
    """Each call drafts from the one before, images change by part, and some calls only refresh the state."""
    eager, (policy, _) = plain("tiny-think"), replayed("tiny-think")
    cache: DepthCache | None = None
    for number in range(5):
        with np.load(reference / "tiny-think" / "cases" / f"frame_{number}.npz") as case:
            images = [case["image_0"], case["image_1"]]
        options = arguments(number, think=think, depth_cache=cache)
        expected = eager.predict(images, **options)
        assert_same(policy.predict(images, **options), expected)
        cache = expected.depth_cache
        reused = arguments(number + 9, think=think, depth_cache=cache, reuse_images=True)
        assert_same(policy.predict(None, **reused), eager.predict(None, **reused))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
@settings(max_examples=8, deadline=None)
def test_any_draft_and_any_cells(
    plain: Plain, thinker: Policy, seed: int, share_changed: float, share_wrong: float
) -> None:
    """Codes, tokens and forwards of the two ways to feed tokens, for drafts and cells that no camera would give."""
    eager = plain("tiny-think")
    options = arguments(11, think=True)
    rng = np.random.default_rng(seed)
    tokens = DepthTokens.of(eager.config)
    truth = eager.predict(FRAMES[:2], **options).depth_codes
    thinker.predict(FRAMES[:2], **options)
    assert truth is not None
    draft = truth.copy()
    wrong = rng.random(tokens.cells) < share_wrong
    draft[wrong] = rng.integers(0, tokens.codes, int(wrong.sum()))
    changed = rng.random(tokens.cells) < share_changed
    found = []
    with torch.inference_mode():
        for policy in (eager, thinker):
            decoding = policy._pipeline.decoding()
            for keep in (0, 0):  # the second time over what the first left behind
                decoding.keep(keep)
                decoded = decode_depth_from_draft(
                    decoding, tokens, draft=draft, changed=changed, closing_limit=8
                )
            found.append(decoded)
            decoding.keep(0)
            found.append(decode_depth(decoding, tokens, closing_limit=8))
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert found[1].codes == truth.tolist()


@pytest.fixture(scope="module")
def thinker(replayed: Replayed) -> Policy:
    return replayed("tiny-think")[0]


def test_what_earlier_calls_left_in_memory_is_never_read(plain: Plain, replayed: Replayed) -> None:
    """Not even as zero times it, which NaN would show."""
    eager, (policy, _) = plain("tiny-think"), replayed("tiny-think")
    long = arguments(0, task="sort the blocks by colour and stack them", think=True)
    policy.predict(FRAMES[:2], **long)
    pipeline = policy._pipeline
    assert isinstance(pipeline, StaticPipeline)
    buffers = pipeline._buffers
    assert buffers is not None
    for think in (True, False):
        for tensor in (buffers.cache.keys, buffers.cache.values, buffers.states, buffers.chunk):
            fill_with_nan(tensor)
        options = arguments(1, think=think)
        assert_same(policy.predict(FRAMES[:2], **options), eager.predict(FRAMES[:2], **options))
        prefix = pipeline._seen.prefix if pipeline._seen else 0
        for tensor in (buffers.cache.keys, buffers.cache.values):
            fill_with_nan(tensor[:, prefix:])
        options = arguments(2, think=think, reuse_images=True)
        assert_same(policy.predict(None, **options), eager.predict(None, **options))


def test_a_call_that_broke_leaves_nothing_to_reuse(
    plain: Plain, replayed: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, (policy, execution) = plain("tiny-base"), replayed("tiny-base")
    policy.predict(FRAMES[:1], **arguments(0))

    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(execution, "run", broken)
        with pytest.raises(RuntimeError, match="the device is gone"):
            policy.predict(OTHER_FRAMES[:1], **arguments(1))
    with pytest.raises(InputError, match="earlier call"):
        policy.predict(None, **arguments(2, reuse_images=True))
    options = arguments(3)
    assert_same(policy.predict(FRAMES[:1], **options), eager.predict(FRAMES[:1], **options))


def test_bad_input_computes_nothing_and_keeps_the_images(plain: Plain, replayed: Replayed) -> None:
    eager, (policy, execution) = plain("tiny-base"), replayed("tiny-base")
    policy.predict(FRAMES[:1], **arguments(0))
    eager.predict(FRAMES[:1], **arguments(0))
    before = execution.replays.copy()
    with pytest.raises(InputError):
        policy.predict(OTHER_FRAMES[:1], **arguments(1, state=STATE[:5]))
    assert execution.replays == before
    options = arguments(2, reuse_images=True)
    assert_same(policy.predict(None, **options), eager.predict(None, **options))


def test_callers_and_policies_side_by_side(plain: Plain, replayed: Replayed) -> None:
    """Three threads a policy and two policies: every call gets its own answer."""
    eager = plain("tiny-base")
    policies = [replayed("tiny-base")[0] for _ in range(2)]
    expected = [eager.predict(FRAMES[: 1 + seed % 2], **arguments(seed, num_steps=2)) for seed in range(6)]
    found: dict[tuple[int, int], Prediction] = {}

    def call(number: int, seed: int) -> None:
        options = arguments(seed, num_steps=2)
        found[number, seed] = policies[number].predict(FRAMES[: 1 + seed % 2], **options)

    threads = [threading.Thread(target=call, args=(n, seed)) for seed in range(6) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for (_, seed), prediction in found.items():
        assert_same(prediction, expected[seed])


@pytest.mark.parametrize("think", [False, True])
def test_after_warming_up_nothing_is_recorded_any_more(
    replayed: Replayed, reference: Path, think: bool
) -> None:
    policy, execution = replayed("tiny-think")
    tasks = ["reach", "a much longer task, which takes another bucket than the first one " * 2]
    assert policy.warmup(FRAMES[:2], tasks, STATE, NORM_TAG, think=think) > 0
    ready = set(execution.recorded)
    with pytest.raises(InputError, match="earlier call"):
        policy.predict(None, **arguments(0, reuse_images=True))
    cache: DepthCache | None = None
    for seed, task in enumerate(tasks * 3):
        options = arguments(seed, task=task, think=think, depth_cache=cache)
        images = (FRAMES if seed % 2 else OTHER_FRAMES)[:2]
        cache = policy.predict(images, **options).depth_cache
        policy.predict(None, **arguments(seed, task=task, think=think, reuse_images=True))
    assert set(execution.recorded) == ready
    buckets = sorted({key[-2] for key in ready})
    assert len(buckets) == 2
    assert policy.backends["call"] == f"replayed (buckets: {', '.join(map(str, buckets))})"


def test_stages_are_timed_where_they_run(replayed: Replayed) -> None:
    policy, _ = replayed("tiny-think")
    for think, reuse in ((False, False), (False, True), (True, False), (True, True)):
        options = arguments(1, think=think, reuse_images=reuse)
        timing = policy.predict(None if reuse else FRAMES[:2], **options).timing
        ran = {stage for stage, seconds in timing.items() if seconds > 0}
        expected = {"preprocess", "prefill", "flow", "postprocess", "total"}
        expected |= set() if reuse else {"vision"}
        assert ran == expected | ({"depth"} if think else set())
        stages = [seconds for stage, seconds in timing.items() if stage != "total"]
        assert sum(stages) <= timing["total"]


def test_runs_may_not_leave_the_memory(replayed: Replayed) -> None:
    policy, _ = replayed("tiny-think")
    policy.predict(FRAMES[:1], **arguments(0, think=True))
    decoding = policy._pipeline.decoding()
    fed = len(policy.predict(FRAMES[:1], **arguments(0, think=True)).token_ids or [])
    decoding = policy._pipeline.decoding()
    with pytest.raises(ValueError, match="cannot be kept"):
        decoding.keep(fed + 1)
    decoding.keep(0)
    with torch.inference_mode():
        decoding.feed([0] * 100)
        decoding.feed([0] * 100)
        with pytest.raises(ValueError, match="positions"):
            decoding.feed([0] * 100)
