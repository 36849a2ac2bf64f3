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
from molmoact2_edge.model.molmoact2 import MolmoAct2
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


class CheckedKernels:
    """Stands for ``_core.cuda``: what the context kernel is handed is checked, and answered by the plain network."""

    def __init__(self, model: MolmoAct2, widest: int) -> None:
        assert model.expert is not None
        self.MAX_CONTEXT_WIDTH = widest
        self.FlowPlan = type("Plan", (CheckedPlan,), {"expert": model.expert, "dtype": model.dtype})
        self.model = model
        self.contexts = 0

    def context_workspace_bytes(self, *, gates: int, tokens: int) -> int:
        return 16 * (gates + tokens)

    def context(
        self,
        keys: Tensor,
        values: Tensor,
        valid: Tensor,
        depth: Tensor | None,
        *,
        key: Tensor,
        value: Tensor,
        gate: tuple[Tensor, Tensor] | None,
        workspace: Tensor,
        projected_keys: Tensor,
        projected_values: Tensor,
        count: Tensor,
        layer_norm: bool,
        qk_norm: bool,
        qk_norm_eps: float,
        stream: int,
    ) -> None:
        expert, depth_gate = self.model.expert, self.model.depth_gate
        assert expert is not None
        config = expert.config
        assert stream == STREAM
        layers, tokens, kv_width = keys.shape
        assert values.shape == keys.shape
        assert keys.stride(2) == values.stride(2) == 1
        assert (valid.dtype, tuple(valid.shape), valid.is_contiguous()) == (torch.bool, (tokens,), True)
        assert key is expert.context_key.weight
        assert value is expert.context_value.weight
        assert (layer_norm, qk_norm, qk_norm_eps) == (
            config.context_layer_norm, config.qk_norm, config.qk_norm_eps,
        )  # fmt: skip
        gates = 0
        if depth_gate is not None:
            assert depth is not None
            assert (depth.dtype, tuple(depth.shape), depth.is_contiguous()) == (torch.bool, (tokens,), True)
            assert gate is not None
            gates = len(depth_gate.gates)
            assert (tuple(gate[0].shape), tuple(gate[1].shape)) == ((gates, kv_width), (gates,))
            assert torch.equal(gate[0][-1:], depth_gate.gates[-1].weight)
        assert workspace.dtype == torch.uint8
        assert workspace.numel() >= self.context_workspace_bytes(gates=gates, tokens=tokens)
        assert (count.dtype, tuple(count.shape)) == (torch.int32, (1,))
        for projected in (projected_keys, projected_values):
            assert projected.dtype == keys.dtype
            assert projected.shape[:2] == (layers, config.num_heads)
            assert projected.shape[2] >= tokens
            assert projected.is_contiguous()
        self.contexts += 1
        if depth_gate is not None and depth is not None:
            keys, values = depth_gate.apply(keys, values, depth & valid, valid)
        order, found = valid_first(valid)
        count.copy_(found)
        context = expert.context(keys[:, order].unsqueeze(1), values[:, order].unsqueeze(1))
        # What lies behind the valid tokens is left as it is, here: anything.
        projected_keys.fill_(float("nan"))[:, :, :tokens] = context.keys[:, 0]
        projected_values.fill_(float("nan"))[:, :, :tokens] = context.values[:, 0]


@pytest.fixture(scope="module")
def loaded(reference: Path) -> Policy:
    return Policy.from_pretrained(reference / "tiny-think", device="cpu", dtype="float32", execution="static")


def on_kernel(loaded: Policy, widest: int) -> tuple[Policy, CheckedKernels]:
    model = loaded.model
    kernels = CheckedKernels(model, widest)
    execution = ReplayedExecution()
    policy = Policy(model, loaded.processor, execution=execution)
    policy._pipeline = StaticPipeline(
        model,
        loaded.processor.patch_grid,
        HostPatches(),
        TorchOperators(model.config.text_config, model.decoder.rope),
        CudaIntegrator(model, kernels, stream=lambda: STREAM),
        execution,
    )
    return policy, kernels


@pytest.mark.parametrize("think", [False, True])
@pytest.mark.parametrize("widest", [768, 39])
def test_whole_calls_on_the_kernels(loaded: Policy, think: bool, widest: int) -> None:
    """With a context kernel for experts of this width, and with one for narrower ones only."""
    policy, kernels = on_kernel(loaded, widest)
    fits = widest == 768
    assert policy.backends["flow"] == "cuda kernel"
    assert policy.backends["context"].startswith("cuda kernel" if fits else "torch (the kernel is for")
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
    assert (kernels.contexts > 0) == fits


def test_a_trace_shows_the_kernels_context_and_velocities(loaded: Policy) -> None:
    policy, _ = on_kernel(loaded, 768)
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 1}
    traces = [Trace(), Trace()]
    for one, trace in zip((policy, loaded), traces, strict=True):
        one.predict(FRAMES, **options, think=True, trace=trace)
    assert set(traces[0].arrays) == set(traces[1].arrays)
    for name, expected in traces[1].arrays.items():
        np.testing.assert_allclose(traces[0].arrays[name], expected, rtol=0, atol=1e-4, err_msg=name)


def test_a_horizon_beyond_the_plan_is_refused(loaded: Policy) -> None:
    from molmoact2_edge.model.integrator import FlowSetting

    policy, _ = on_kernel(loaded, 768)
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
