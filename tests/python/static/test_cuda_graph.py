"""The recorded call on a device: the numbers of the unrecorded one, fused attention, no allocation, clear errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import DepthCache, Policy, Prediction, build_config
from molmoact2_edge.errors import CaptureError
from molmoact2_edge.model.execution import DirectExecution, GraphExecution
from molmoact2_edge.model.integrator import TorchIntegrator
from molmoact2_edge.model.operators import TorchOperators
from molmoact2_edge.model.patches import HostPatches
from molmoact2_edge.model.static_network import Lap
from molmoact2_edge.model.static_pipeline import StaticPipeline
from molmoact2_edge.policy import ExecutionMode, Trace
from molmoact2_edge.timing import Stopwatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RNG = np.random.default_rng(5)
FRAMES = [[RNG.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(2)] for _ in range(4)]
STATE = np.linspace(-20, 30, 6, dtype=np.float32)
# bf16 keeps 8 bits; two ways to round part by a few of the last in four layers. Of the largest number of each stage.
CLOSE_BF16 = {
    "image_features": 2e-2,
    "keys": 3e-2,
    "values": 3e-2,
    "context_keys": 3e-2,
    "context_values": 3e-2,
}
CLOSE_BF16_ACTIONS = 3e-2
FUSED = ("flash", "fmha", "cudnn", "cutlass")


def load(reference: Path, name: str, dtype: str, execution: ExecutionMode) -> Policy:
    return Policy.from_pretrained(reference / name, device="cuda", dtype=dtype, execution=execution)


def call(policy: Policy, seed: int, **changes: Any) -> Prediction:
    options: dict[str, Any] = {
        "task": "reach",
        "state": STATE + seed,
        "norm_tag": "so101_tiny",
        "seed": seed,
        **changes,
    }
    images = None if changes.get("reuse_images") else FRAMES[seed % len(FRAMES)]
    return policy.predict(images, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("think", [False, True])
def test_recorded_and_unrecorded_calls_give_the_same_bits(reference: Path, dtype: str, think: bool) -> None:
    graph, static = (load(reference, "tiny-think", dtype, mode) for mode in ("graph", "static"))
    cache: DepthCache | None = None
    for seed in range(6):
        options = {"think": think, "depth_cache": cache, "reuse_images": seed % 3 == 2}
        found, expected = (call(policy, seed, **options) for policy in (graph, static))
        np.testing.assert_array_equal(found.actions, expected.actions)
        assert found.token_ids == expected.token_ids
        assert found.depth_forwards == expected.depth_forwards
        cache = expected.depth_cache


def in_torch(policy: Policy) -> Policy:
    """The same model as a static call that uses no kernel of this package."""
    model = policy.model
    plain = Policy(model, policy.processor, execution="static")
    plain._pipeline = StaticPipeline(
        model,
        policy.processor.patch_grid,
        HostPatches(),
        TorchOperators(model.config.text_config, model.decoder.rope),
        TorchIntegrator(model),
        DirectExecution(model.device),
    )
    return plain


@pytest.mark.parametrize("name", ["tiny-base", "tiny-think"])
def test_kernels_and_torch_agree(reference: Path, name: str) -> None:
    """Whole calls in bf16, where both round: the cache, the context and the actions."""
    policy = load(reference, name, "bfloat16", "graph")
    if not build_config()["cuda"]:
        pytest.skip("built without CUDA kernels")
    found_by = {key: policy.backends[key] for key in ("pixels", "decoder", "context", "flow")}
    assert found_by == {
        "pixels": "cuda kernel",
        "decoder": "cuda kernels",
        "context": "cuda kernel",
        "flow": "cuda kernel",
    }
    plain = in_torch(policy)
    for seed in range(2):
        traces = [Trace(), Trace()]
        predictions = [
            call(one, seed, trace=trace) for one, trace in zip((policy, plain), traces, strict=True)
        ]
        for stage, tolerance in CLOSE_BF16.items():
            found, expected = (trace.arrays[stage] for trace in traces)
            scale = float(np.abs(expected).max())
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=tolerance * scale, err_msg=f"{stage}, of its largest"
            )
        span = float(np.ptp(predictions[1].actions))
        apart = np.abs(predictions[0].actions - predictions[1].actions).max()
        assert apart <= CLOSE_BF16_ACTIONS * span


def test_the_device_resizes_to_the_bit(reference: Path) -> None:
    policy = load(reference, "tiny-multicrop", "bfloat16", "static")
    if policy.backends["pixels"] != "cuda kernel":
        pytest.skip("built without CUDA kernels")
    call(policy, 0)
    pipeline = policy._pipeline
    assert isinstance(pipeline, StaticPipeline)
    assert pipeline._seen is not None
    expected = policy.processor.images(FRAMES[0]).pixel_values
    np.testing.assert_array_equal(pipeline._seen.patches.patches().cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_runs_on_fused_kernels(reference: Path, dtype: str) -> None:
    """Both what torch says that it chooses, and the names of the kernels that a replay runs."""
    policy = load(reference, "tiny-think", dtype, "graph")
    call(policy, 0, think=True)
    chosen = set(policy.backends["attention"].split(", "))
    assert chosen
    assert chosen <= {"flash", "efficient", "cudnn"}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(policy, 1, think=True)
    kernels = [event.key.lower() for event in profile.key_averages()]
    assert any(name in kernel for kernel in kernels for name in FUSED), kernels
    # The scores of torch's math backend pass through this kernel of its own.
    assert not [kernel for kernel in kernels if "at::native" in kernel and "softmax" in kernel]


def test_a_replay_allocates_nothing(reference: Path) -> None:
    policy = load(reference, "tiny-think", "bfloat16", "graph")
    policy.warmup(FRAMES[0], "reach", STATE, "so101_tiny", think=True)
    call(policy, 0)
    cache = call(policy, 0, think=True).depth_cache
    call(policy, 0, reuse_images=True)

    def allocations() -> int:
        count: int = torch.cuda.memory_stats()["allocation.all.allocated"]
        return count

    before = allocations()
    for seed in range(1, 4):
        call(policy, seed)
        call(policy, seed, reuse_images=True)
        cache = call(policy, seed, think=True, depth_cache=cache).depth_cache
        call(policy, seed, think="exact", depth_cache=cache, reuse_images=True)
    assert allocations() == before


def test_after_warming_up_nothing_is_recorded(reference: Path) -> None:
    policy = load(reference, "tiny-think", "bfloat16", "graph")
    policy.warmup(FRAMES[0], ["reach", "a longer task " * 9], STATE, "so101_tiny", think=True)
    execution = policy._pipeline._execution  # type: ignore[attr-defined]
    assert isinstance(execution, GraphExecution)
    ready = set(execution._recordings)
    cache: DepthCache | None = None
    for seed in range(4):
        cache = call(policy, seed, think=True, depth_cache=cache).depth_cache
        call(policy, seed, think=True, depth_cache=cache, reuse_images=True)
    assert set(execution._recordings) == ready
    assert policy.backends["call"].startswith("cuda graph (buckets: ")


def test_timing_comes_from_events(reference: Path) -> None:
    policy = load(reference, "tiny-think", "bfloat16", "graph")
    for seed in range(3):
        for think in (False, True):
            for reuse in (False, True):
                timing = call(policy, seed, think=think, reuse_images=reuse).timing
                ran = {stage for stage, seconds in timing.items() if seconds > 0}
                expected = {"preprocess", "prefill", "flow", "postprocess", "total"}
                expected |= set() if reuse else {"vision"}
                assert ran == expected | ({"depth"} if think else set())
    stages = sum(seconds for stage, seconds in timing.items() if stage != "total")
    assert stages <= 1.01 * timing["total"]


def test_what_cannot_be_recorded_is_an_error(reference: Path) -> None:
    execution = GraphExecution(torch.device("cuda"))
    x = torch.ones(3, device="cuda")

    def waits(lap: Lap) -> None:
        x.add_(float(x.sum()))

    with torch.inference_mode(), execution.session():
        watch = Stopwatch(torch.device("cuda"))
        with pytest.raises(CaptureError, match="could not record 'waits'"):
            execution.run("waits", waits, watch)
        y = torch.zeros(3, device="cuda")
        execution.run("counts", lambda lap: y.add_(1), watch)
        execution.run("counts", lambda lap: y.add_(1), watch)
        torch.cuda.synchronize()
    # Two runs to warm up, two replays; a recording computes nothing.
    assert y.tolist() == [4.0] * 3
    policy = load(reference, "tiny-base", "bfloat16", "graph")
    assert call(policy, 0).valid


def test_other_threads_may_use_cuda_during_a_recording(reference: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def busy() -> None:
        try:
            while not stop.is_set():
                size = int(RNG.integers(1, 1 << 22))
                float(torch.ones(size, device="cuda").sum())
                torch.cuda.empty_cache()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        policy = load(reference, "tiny-think", "bfloat16", "graph")
        assert call(policy, 0, think=True).valid
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_policies_and_callers_side_by_side(reference: Path) -> None:
    policies = [load(reference, "tiny-base", "bfloat16", "graph") for _ in range(2)]
    expected = [call(policies[0], seed).actions for seed in range(4)]
    found: dict[tuple[int, int, int], Any] = {}

    def calls(number: int, caller: int) -> None:
        for seed in range(4):
            found[number, caller, seed] = call(policies[number], seed).actions

    threads = [threading.Thread(target=calls, args=(n, c)) for n in range(2) for c in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    for (_, _, seed), actions in found.items():
        np.testing.assert_array_equal(actions, expected[seed])
