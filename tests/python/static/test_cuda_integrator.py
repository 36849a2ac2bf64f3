"""What the flow kernel is handed in whole calls, checked as its bindings check it and answered by the plain expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from static.replay import ReplayedExecution
from torch import Tensor

from molmoact2_edge import ActionGuide, Policy
from molmoact2_edge.model.cuda_integrator import CudaIntegrator, valid_first
from molmoact2_edge.model.expert import ActionExpert, Context, Modulation
from molmoact2_edge.model.flow import FlowGuide
from molmoact2_edge.model.operators import TorchOperators
from molmoact2_edge.model.patches import HostPatches
from molmoact2_edge.model.static_pipeline import StaticPipeline
from molmoact2_edge.policy import Trace

STREAM = 4321
CLOSE = 1e-5
RNG = np.random.default_rng(9)
FRAMES = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(2)]
STATE = np.linspace(-20, 30, 6, dtype=np.float32)


class CheckedPlan:
    """Stands for ``_core.cuda.FlowPlan``: the same arguments and refusals; the expert's torch loop answers.

    The weights that it was made of are compared, not used.
    """

    expert: ActionExpert
    dtype: torch.dtype

    def __init__(self, *, max_horizon: int, **weights: Any) -> None:
        self.max_horizon = max_horizon
        expert, config = self.expert, self.expert.config
        width, inner = config.hidden_size, config.intermediate_size
        shapes = [
            (3 * width, width), (width, width), (width, width), (width, width), (2 * inner, width), (width, inner),
        ]  # fmt: skip
        assert len(weights["blocks"]) == config.num_layers
        for block in weights["blocks"]:
            for (weight, bias), shape in zip(block, shapes, strict=True):
                assert (tuple(weight.shape), tuple(bias.shape)) == (shape, shape[:1])
        assert weights["action_embed"][0] is expert.action_embed.weight
        assert weights["final"][1] is expert.final.bias
        assert {"heads", "qk_norm", "qk_norm_eps", "rope", "causal"} <= set(weights)

    def run_persistent(
        self,
        keys: Tensor,
        values: Tensor,
        tokens: Tensor,
        blocks: Tensor,
        final: Tensor,
        noise: Tensor,
        chunk: Tensor,
        valid_columns: int,
        velocities: Tensor | None = None,
        guide: Tensor | None = None,
        guide_weight: Tensor | None = None,
        *,
        stream: int,
    ) -> None:
        config = self.expert.config
        assert stream == STREAM
        horizon, columns = noise.shape
        steps = blocks.shape[0]
        head_dim = config.hidden_size // config.num_heads
        shape = (config.num_layers, config.num_heads, keys.shape[2], head_dim)
        expected: list[tuple[Tensor, torch.dtype, tuple[int, ...]]] = [
            (keys, self.dtype, shape),
            (values, self.dtype, shape),
            (blocks, self.dtype, (steps, config.num_layers, 9, config.hidden_size)),
            (final, self.dtype, (steps, 2, config.hidden_size)),
            (tokens, torch.int32, (1,)),
            (noise, torch.float32, (horizon, columns)),
            (chunk, torch.float32, (horizon, columns)),
        ]
        assert guide is not None
        assert guide_weight is not None
        expected += [
            (guide, torch.float32, (horizon, columns)),
            (guide_weight, torch.float32, (horizon,)),
        ]
        if velocities is not None:
            expected.append((velocities, torch.float32, (steps, horizon, columns)))
        for tensor, dtype, wanted in expected:
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, wanted)
            assert tensor.is_contiguous()
        # As in the kernel: the count is in memory, and what lies behind it is not read.
        visible = torch.arange(keys.shape[2]) < tokens
        bias = torch.zeros(keys.shape[2], dtype=self.dtype).masked_fill_(~visible, float("-inf"))
        context = Context(keys.unsqueeze(1), values.unsqueeze(1), bias.expand(horizon, -1))
        self.expert._schedules[steps] = Modulation(blocks, final)
        found: list[Tensor] = []
        flow_guide = FlowGuide(guide.unsqueeze(0), guide_weight.unsqueeze(0))
        result = self.expert.integrate(noise.unsqueeze(0), context, steps, valid_columns, found, flow_guide)
        chunk.copy_(result[0])
        if velocities is not None:
            velocities.copy_(torch.cat(found))


@pytest.fixture(scope="module")
def loaded(reference: Path) -> Policy:
    return Policy.from_pretrained(reference / "tiny-think", device="cpu", dtype="float32", execution="static")


def on_kernel(loaded: Policy) -> tuple[Policy, ReplayedExecution]:
    model = loaded.model
    assert model.expert is not None
    plan_type = type("Plan", (CheckedPlan,), {"expert": model.expert, "dtype": model.dtype})
    execution = ReplayedExecution()
    policy = Policy(model, loaded.processor, execution=execution)
    policy._pipeline = StaticPipeline(
        model,
        loaded.processor.patch_grid,
        HostPatches(),
        TorchOperators(model.config.text_config, model.decoder.rope),
        CudaIntegrator(model, plan_type, stream=lambda: STREAM),
        execution,
    )
    return policy, execution


@pytest.mark.parametrize("think", [False, True])
def test_whole_calls_on_the_kernel(loaded: Policy, think: bool) -> None:
    policy, _ = on_kernel(loaded)
    assert policy.backends["flow"] == "cuda kernel"
    guide = ActionGuide(np.full((5, 6), 3.0), [1.0, 1.0, 0.5, 0.25, 0.0])
    for seed in range(4):
        options: dict[str, Any] = {
            "task": "reach" + " it" * seed,
            "state": STATE + seed,
            "norm_tag": "so101_tiny",
            "seed": seed,
            "think": think,
            "guide": guide if seed % 2 else None,
        }
        found, expected = policy.predict(FRAMES, **options), loaded.predict(FRAMES, **options)
        scale = float(np.abs(expected.actions).max())
        np.testing.assert_allclose(found.actions, expected.actions, rtol=0, atol=CLOSE * scale)


def test_a_trace_shows_the_kernels_context_and_velocities(loaded: Policy) -> None:
    policy, _ = on_kernel(loaded)
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 1}
    traces = [Trace(), Trace()]
    for one, trace in zip((policy, loaded), traces, strict=True):
        one.predict(FRAMES, **options, think=True, trace=trace)
    assert set(traces[0].arrays) == set(traces[1].arrays)
    for name, expected in traces[1].arrays.items():
        np.testing.assert_allclose(traces[0].arrays[name], expected, rtol=0, atol=1e-4, err_msg=name)


def test_a_horizon_beyond_the_plan_is_refused(loaded: Policy) -> None:
    from molmoact2_edge.model.integrator import FlowSetting

    policy, _ = on_kernel(loaded)
    integrator = policy._pipeline._integrator  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="packed for 12 steps, got 13"):
        integrator.prepare(FlowSetting(13, 10, 6))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_valid_entries_come_first_in_their_order(flags: list[bool]) -> None:
    order, count = valid_first(torch.tensor(flags))
    expected = np.flatnonzero(flags)
    assert count.dtype == torch.int32
    assert count.tolist() == [len(expected)]
    assert order[: len(expected)].tolist() == expected.tolist()
    assert order.tolist()[len(expected) :] == [0] * (len(flags) - len(expected))
