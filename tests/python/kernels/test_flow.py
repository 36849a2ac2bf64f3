"""The compiled flow loop against torch's, and against the public vectors with every instruction set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from molmoact2_edge import DepthCache, Policy
from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint.config import ActionExpertConfig, ModelConfig
from molmoact2_edge.model.expert import ActionExpert, Context
from molmoact2_edge.model.flow import CompiledFlow
from molmoact2_edge.model.layout import Part, random_source
from molmoact2_edge.policy import Trace

ROOT = Path(__file__).parents[2] / "reference"
CASES = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/cases/*.npz"))
CPU = torch.device("cpu")
# From tests/reference/README.md.
VELOCITIES = 1e-4
# Two float32 computations of velocities of the order of one. Measured: 6e-7.
TOLERANCE = 1e-5


def expert_config(**changes: object) -> ActionExpertConfig:
    text = (ROOT / "tiny-base" / "config.json").read_text()
    return dataclasses.replace(ModelConfig.from_json(json.loads(text)).action_expert_config, **changes)  # type: ignore[arg-type]


def random_expert(config: ActionExpertConfig, action_dim: int = 8) -> ActionExpert:
    generator = torch.Generator().manual_seed(3)

    def fill(part: Part, rows: Tensor) -> None:
        scale = 0.7 / part.shape[1] ** 0.5 if len(part.shape) > 1 else 0.3
        rows.copy_(scale * torch.randn(part.shape, generator=generator))

    source = random_source(fill, dtype=torch.float32, device=CPU)
    return ActionExpert(source, config, action_dim=action_dim, context_width=24, device=CPU)


def random_context(expert: ActionExpert, tokens: int, batch: int = 1, mask: Tensor | None = None) -> Context:
    generator = torch.Generator().manual_seed(4)
    shape = (expert.config.num_layers, batch, tokens, 24)
    keys, values = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    return expert.context(keys, values, mask)


def compare(expert: ActionExpert, context: Context, horizon: int, steps: int, valid_dim: int | None) -> None:
    """Integrate with torch, then compiled."""
    batch = context.keys.shape[1]
    noise = torch.randn(batch, horizon, expert.action_dim, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        assert expert.flow_backend == "torch"
        expected_velocities: list[Tensor] = []
        expected = expert.integrate(noise, context, steps, valid_dim, expected_velocities)
        expert.compile()
        assert expert.flow_backend.startswith("compiled")
        velocities: list[Tensor] = []
        chunk = expert.integrate(noise, context, steps, valid_dim, velocities)
        torch.testing.assert_close(expert.integrate(noise, context, steps, valid_dim), chunk, rtol=0, atol=0)
    torch.testing.assert_close(chunk, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        torch.stack(velocities), torch.stack(expected_velocities), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal_attn": True},
        {"rope": False},
        {"qk_norm": False},
        {"context_layer_norm": False},
        {"num_heads": 1},
        {"num_layers": 1, "hidden_size": 96, "num_heads": 3},
    ],
    ids=str,
)
def test_every_option_equals_torch(changes: dict[str, object]) -> None:
    expert = random_expert(expert_config(**changes))
    compare(expert, random_context(expert, 19), horizon=13, steps=4, valid_dim=6)


@pytest.mark.parametrize(("horizon", "tokens", "steps"), [(1, 1, 1), (7, 5, 2), (30, 131, 10), (16, 24, 3)])
def test_every_size_equals_torch(horizon: int, tokens: int, steps: int) -> None:
    expert = random_expert(expert_config(), action_dim=3)
    compare(expert, random_context(expert, tokens), horizon, steps, valid_dim=None)


def test_a_batch_with_masks_equals_torch() -> None:
    expert = random_expert(expert_config())
    mask = torch.rand(3, 21, generator=torch.Generator().manual_seed(6)) < 0.6
    compare(expert, random_context(expert, 21, batch=3, mask=mask), horizon=12, steps=3, valid_dim=6)


def test_threads_do_not_change_a_bit() -> None:
    expert = random_expert(expert_config(hidden_size=160, num_layers=2))
    context, schedule = random_context(expert, 33), expert.schedule(3)
    noise = torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(7))
    chunks = []
    for threads in (1, 2, 3):
        flow = CompiledFlow(expert, threads=threads)
        assert flow.threads == threads
        chunks.append(flow.integrate(noise, context, schedule, 6, None))
    assert torch.equal(chunks[0], chunks[1])
    assert torch.equal(chunks[0], chunks[2])


def test_a_small_expert_stays_on_one_thread() -> None:
    assert CompiledFlow(random_expert(expert_config()), threads=8).threads == 1


@pytest.fixture(scope="module")
def policies() -> dict[str, Policy]:
    names = {case.parts[0] for case in CASES}
    return {name: Policy.from_pretrained(ROOT / name, device="cpu", dtype="float32") for name in names}


@pytest.mark.parametrize("case_path", CASES, ids=str)
def test_public_velocities_with_every_instruction_set(policies: dict[str, Policy], case_path: Path) -> None:
    policy = policies[case_path.parts[0]]
    assert policy.backends["flow"].startswith("compiled")
    with np.load(ROOT / case_path) as arrays:
        case = dict(arrays)
    trace = Trace()
    think = "depth_bins" in case
    # The codes of this very frame as its cache: nothing is decoded, the context is the same.
    cache = DepthCache(case["image_0"], case["depth_bins"]) if think else None
    policy.predict(
        images=[case[f"image_{i}"] for i in range(len(case["image_num_crops"]))],
        task=str(case["task"].item()),
        state=case["state"],
        norm_tag=str(case["norm_tag"].item()),
        num_steps=int(case["num_steps"]),
        noise=case["noise"],
        think=think,
        depth_cache=cache,
        trace=trace,
    )
    expert = policy.model.expert
    assert expert is not None
    context = Context(
        *(torch.from_numpy(trace.arrays[name])[:, None] for name in ("context_keys", "context_values"))
    )
    embodiment = policy.processor.embodiment(str(case["norm_tag"].item()))
    for isa in kernels.cpu_isas():
        velocities: list[Tensor] = []
        CompiledFlow(expert, threads=1, isa=isa).integrate(
            torch.from_numpy(case["noise"])[None].float(),
            context,
            expert.schedule(int(case["num_steps"])),
            embodiment.action_dim,
            velocities,
        )
        np.testing.assert_allclose(torch.cat(velocities).numpy(), case["velocities"], 0, VELOCITIES)


def test_bfloat16_stays_with_torch() -> None:
    policy = Policy.from_pretrained(ROOT / "tiny-base", device="cpu", dtype="bfloat16")
    assert policy.backends == {"call": "eager", "context": "torch", "flow": "torch"}


def test_not_finite_noise_gives_a_chunk_that_is_not_finite() -> None:
    expert = random_expert(expert_config())
    expert.compile()
    noise = torch.zeros(1, 12, 8)
    noise[0, 3, 2] = torch.nan
    assert not expert.integrate(noise, random_context(expert, 9), 2, 6)[..., :6].isfinite().any()


def test_changed_weights_are_noticed() -> None:
    expert = random_expert(expert_config())
    context, noise = random_context(expert, 5), torch.zeros(1, 4, 8)
    expert.compile()
    before = expert.integrate(noise, context, 1)
    expert.final.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="have changed since"):
        expert.integrate(noise, context, 1)
    expert.compile()
    assert not torch.equal(expert.integrate(noise, context, 1), before)


def arguments(expert: ActionExpert) -> dict[str, np.ndarray]:
    context, schedule = random_context(expert, 5), expert.schedule(2)
    return {
        "noise": np.zeros((4, 8), np.float32),
        "keys": context.keys[:, 0].numpy(),
        "values": context.values[:, 0].numpy(),
        "modulation": schedule.blocks.numpy(),
        "final_modulation": schedule.final.numpy(),
    }


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("noise", lambda a: a[:, :7].copy(), "noise must have shape"),
        ("noise", lambda a: a[:0], "horizon must be 1 to"),
        ("noise", lambda a: a.astype(np.float64), "incompatible function arguments"),
        ("noise", lambda a: np.asfortranarray(a), "incompatible function arguments"),
        ("keys", lambda a: a[:, :, :4], "values must have shape"),
        ("keys", lambda a: a[:-1], "keys must have shape"),
        ("values", lambda a: np.asfortranarray(a), "last axis of values must be contiguous"),
        ("modulation", lambda a: a[:, :, :8].copy(), "modulation must have shape"),
        ("final_modulation", lambda a: a[:1], "final_modulation must have shape"),
    ],
)
def test_the_door_refuses_what_does_not_fit(name: str, change: object, error: str) -> None:
    expert = random_expert(expert_config())
    plan = CompiledFlow(expert, threads=1)._plan
    given = arguments(expert)
    given[name] = change(given[name])  # type: ignore[operator]
    with pytest.raises((ValueError, TypeError), match=error):
        plan.run(**given, valid_columns=8)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="isa must be one of portable"):
        CompiledFlow(random_expert(expert_config()), threads=1, isa="sse9")
