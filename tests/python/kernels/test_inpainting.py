"""In-painting in the flow loop: torch and C++ against the plain float64 network, and against what it promises."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import molmoact2 as plain
from torch import Tensor

from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.expert import ActionExpert, Context
from molmoact2_edge.model.flow import CompiledFlow, FlowGuide
from molmoact2_edge.model.layout import Part, checkpoint_tensors, random_source

CPU = torch.device("cpu")
ACTION_DIM, CONTEXT = 8, 24
# float32 against float64 through four blocks and up to ten steps; values are of the order of one. Measured: 4e-7.
TOLERANCE = 1e-5
# A frozen row ends on its guide up to what the last step's sum rounds.
LANDED = 2e-6


class Flow:
    """A random expert, its context, and the plain computation of the same."""

    def __init__(
        self, reference: Path, tokens: int = 19, dtype: torch.dtype = torch.float32, **changes: object
    ) -> None:
        self.config = json.loads((reference / "tiny-base" / "config.json").read_text())
        parsed = ModelConfig.from_json(copy.deepcopy(self.config)).action_expert_config
        parsed = dataclasses.replace(parsed, **changes)  # type: ignore[arg-type]
        self.config["action_expert_config"].update(changes)
        generator = torch.Generator().manual_seed(3)

        def fill(part: Part, rows: Tensor) -> None:
            scale = 0.7 / part.shape[1] ** 0.5 if len(part.shape) > 1 else 0.3
            rows.copy_(scale * torch.randn(part.shape, generator=generator))

        source = random_source(fill, dtype=dtype, device=CPU)
        self.expert = ActionExpert(source, parsed, action_dim=ACTION_DIM, context_width=CONTEXT, device=CPU)
        self.weights = {
            name: tensor.double() for name, tensor in checkpoint_tensors(source.parameters).items()
        }
        self.keys, self.values = (
            torch.randn(parsed.num_layers, tokens, CONTEXT, generator=generator).to(dtype) for _ in range(2)
        )

    def context(self) -> Context:
        return self.expert.context(self.keys[:, None], self.values[:, None])

    def plain(self, noise: Tensor, guide: FlowGuide, steps: int, valid_dim: int) -> Tensor:
        config = {**self.config, "mask_action_dim_padding": valid_dim < ACTION_DIM}
        chunk, _ = plain.inpainted_flow(
            self.weights,
            config,
            self.keys.double(),
            self.values.double(),
            torch.ones(self.keys.shape[1], dtype=torch.bool),
            noise.double(),
            steps,
            valid_dim,
            (guide.actions[0].double(), guide.weights[0].double()),
        )
        return chunk


def guide_of(horizon: int, frozen: int, soft: int, seed: int = 8) -> FlowGuide:
    """Random actions; weights 1 for ``frozen`` rows, falling over ``soft`` more, 0 for the rest."""
    actions = torch.randn(1, horizon, ACTION_DIM, generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(1, horizon)
    weights[0, :frozen] = 1.0
    reached = min(frozen + soft, horizon)
    weights[0, frozen:reached] = torch.linspace(0.9, 0.1, max(soft, 1))[: reached - frozen]
    return FlowGuide(actions, weights)


def noise_of(horizon: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, horizon, ACTION_DIM, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "changes",
    [{}, {"causal_attn": True}, {"rope": False}, {"qk_norm": False}, {"context_layer_norm": False},
     {"num_layers": 1, "hidden_size": 96, "num_heads": 3}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    ("horizon", "frozen", "soft", "steps", "valid_dim"),
    [(13, 4, 5, 10, 6), (30, 9, 21, 5, 8), (7, 0, 7, 3, 1), (5, 5, 0, 4, 6), (1, 1, 0, 1, 3)],
)
def test_both_loops_equal_the_plain_network(
    reference: Path,
    changes: dict[str, object],
    horizon: int,
    frozen: int,
    soft: int,
    steps: int,
    valid_dim: int,
) -> None:
    flow = Flow(reference, **changes)
    guide, noise = guide_of(horizon, frozen, soft), noise_of(horizon)
    expected = flow.plain(noise[0], guide, steps, valid_dim)
    with torch.inference_mode():
        context = flow.context()
        for _ in ("torch", "compiled"):
            chunk = flow.expert.integrate(noise, context, steps, valid_dim, guide=guide)[0]
            np.testing.assert_allclose(chunk, expected, rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(
                chunk[:frozen, :valid_dim], guide.actions[0, :frozen, :valid_dim], rtol=0, atol=LANDED
            )
            assert bool((chunk[:, valid_dim:] == 0).all())
            flow.expert.compile()


def test_every_row_of_a_batch_has_its_own_guide(reference: Path) -> None:
    flow = Flow(reference)
    noise = noise_of(12, batch=2)
    first, second = guide_of(12, 4, 4, seed=1), guide_of(12, 0, 12, seed=2)
    both = FlowGuide(torch.cat([first.actions, second.actions]), torch.cat([first.weights, second.weights]))
    with torch.inference_mode():
        context = flow.expert.context(
            flow.keys[:, None].expand(-1, 2, -1, -1), flow.values[:, None].expand(-1, 2, -1, -1)
        )
        for _ in ("torch", "compiled"):
            together = flow.expert.integrate(noise, context, 4, 6, guide=both)
            for row, guide in enumerate((first, second)):
                alone = flow.expert.integrate(noise[row : row + 1], flow.context(), 4, 6, guide=guide)
                torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-6)
            flow.expert.compile()


def test_a_guide_without_weight_changes_no_bit_and_velocities_stay_the_networks(reference: Path) -> None:
    flow = Flow(reference)
    noise, guide = noise_of(12), guide_of(12, 0, 0)
    frozen = guide_of(12, 12, 0)
    with torch.inference_mode():
        context = flow.context()
        for _ in ("torch", "compiled"):
            plain_run: list[Tensor] = []
            guided_run: list[Tensor] = []
            without = flow.expert.integrate(noise, context, 4, 6, plain_run)
            assert torch.equal(flow.expert.integrate(noise, context, 4, 6, guide=guide), without)
            flow.expert.integrate(noise, context, 4, 6, guided_run, frozen)
            # The first step starts from the same noise, whatever the guide makes of it afterwards.
            assert torch.equal(guided_run[0], plain_run[0])
            assert not torch.equal(guided_run[1], plain_run[1])
            flow.expert.compile()


def test_every_instruction_set_and_any_number_of_threads(reference: Path) -> None:
    flow = Flow(reference, hidden_size=160, num_layers=2)
    noise, guide, steps = noise_of(30), guide_of(30, 9, 12), 5
    expected = flow.plain(noise[0], guide, steps, 6)
    with torch.inference_mode():
        schedule, context = flow.expert.schedule(steps), flow.context()
    for isa in kernels.cpu_isas():
        chunks = [
            CompiledFlow(flow.expert, threads=threads, isa=isa).integrate(
                noise, context, schedule, 6, None, guide
            )
            for threads in (1, 3)
        ]
        np.testing.assert_allclose(chunks[0][0], expected, rtol=0, atol=TOLERANCE)
        assert torch.equal(chunks[0], chunks[1])


def test_bfloat16_keeps_frozen_rows_in_float32(reference: Path) -> None:
    flow = Flow(reference, dtype=torch.bfloat16)
    guide = guide_of(12, 6, 3)
    with torch.inference_mode():
        chunk = flow.expert.integrate(noise_of(12), flow.context(), 10, 6, guide=guide)
    assert chunk.dtype == torch.float32
    np.testing.assert_allclose(chunk[0, :6, :6], guide.actions[0, :6, :6], rtol=0, atol=LANDED)


@pytest.mark.parametrize(
    ("guide", "weight", "error"),
    [
        (np.zeros((4, 7), np.float32), np.zeros(4, np.float32), "guide must have shape"),
        (np.zeros((4, 8), np.float32), np.zeros(5, np.float32), "guide_weight must have shape"),
        (np.zeros((4, 8), np.float32), None, "a guide needs weights"),
        (None, np.zeros(4, np.float32), "a guide needs weights"),
        (np.zeros((4, 8)), np.zeros(4, np.float32), "incompatible function arguments"),
    ],
)
def test_the_door_refuses_what_does_not_fit(
    reference: Path, guide: object, weight: object, error: str
) -> None:
    flow = Flow(reference)
    with torch.inference_mode():
        schedule, context = flow.expert.schedule(2), flow.context()
    plan = CompiledFlow(flow.expert, threads=1)._plan
    with pytest.raises((ValueError, TypeError), match=error):
        plan.run(
            np.zeros((4, 8), np.float32),
            context.keys[:, 0].numpy(),
            context.values[:, 0].numpy(),
            schedule.blocks.numpy(),
            schedule.final.numpy(),
            valid_columns=8,
            guide=guide,  # type: ignore[arg-type]
            guide_weight=weight,  # type: ignore[arg-type]
        )
