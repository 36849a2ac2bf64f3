"""The Euler loop of the action expert."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_cases.comparison import (
    CPU,
    REFERENCE,
    RELEASE,
    Comparison,
    config_of,
    random_source_on,
    stream_handle,
)
from molmoact2_edge import _core
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.expert import ActionExpert, Context, Modulation

KV_WIDTH = 64  # of the cache that the context is made of; the loop never sees it
# A last-level cache holds a few megabytes of weights from one step to the next.
_CACHED = 64 << 20


def cpu() -> Iterator[Comparison]:
    """Float32 against torch: tiny-base, the width of a small policy, release shapes."""
    tiny = config_of(REFERENCE / "tiny-base" / "config.json")
    small = dataclasses.replace(
        tiny,
        action_expert_config=dataclasses.replace(
            tiny.action_expert_config, hidden_size=128, num_heads=4, num_layers=3
        ),
    )
    for name, config, horizon, tokens in (
        ("flow-tiny", tiny, 12, 90),
        ("flow-small", small, 10, 120),
        ("flow-release", config_of(RELEASE), 30, 490),
    ):
        case = _Case(config, horizon, tokens, steps=10, device=CPU, dtype=torch.float32)
        case.expert.compile()
        yield case.comparison(name, case.compiled, case.expert.flow_backend, tolerance=1e-3)


def cuda(device: torch.device) -> Iterator[Comparison]:
    """Release shapes in bf16 against plain torch: one cooperative launch, and the same work as many launches."""
    case = _Case(config_of(RELEASE), 30, 490, steps=10, device=device, dtype=torch.bfloat16)
    plan = _cuda_plan(case.expert, max_horizon=30)
    keys, values = (part[:, 0].contiguous() for part in (case.context.keys, case.context.values))
    tokens = torch.tensor([keys.shape[2]], dtype=torch.int32, device=device)
    schedule = case.expert.schedule(case.steps)
    chunk = torch.empty_like(case.noise[0])
    for way, run in (("persistent", plan.run_persistent), ("launches", plan.run_launches)):

        def ours(run: Any = run) -> Tensor:
            run(
                keys,
                values,
                tokens,
                schedule.blocks,
                schedule.final,
                case.noise[0],
                chunk,
                case.noise.shape[-1],
                stream=stream_handle(),
            )
            return chunk[None]

        # Two ways to round in bf16, ten steps long; measured against float32 both are as far from it.
        yield case.comparison(f"flow-release-{way}", ours, f"cuda ({way})", tolerance=0.15)


def _cuda_plan(expert: ActionExpert, max_horizon: int) -> Any:
    def pair(linear: Any) -> tuple[Tensor, Tensor]:
        return linear.weight, linear.bias

    config = expert.config
    return _core.cuda.FlowPlan(
        heads=config.num_heads,
        action_embed=pair(expert.action_embed),
        blocks=[
            (
                pair(block.qkv),
                pair(block.self_out),
                pair(block.query),
                pair(block.cross_out),
                pair(block.up_gate),
                pair(block.down),
            )
            for block in expert.blocks
        ],
        final=pair(expert.final),
        qk_norm=config.qk_norm,
        qk_norm_eps=config.qk_norm_eps,
        rope=config.rope,
        causal=config.causal_attn,
        max_horizon=max_horizon,
    )


class _Case:
    """An expert with random weights, a context and noise."""

    def __init__(
        self,
        config: ModelConfig,
        horizon: int,
        tokens: int,
        *,
        steps: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.steps = steps
        self.expert = ActionExpert(
            random_source_on(device, dtype),
            config.action_expert_config,
            action_dim=config.max_action_dim,
            context_width=KV_WIDTH,
            device=device,
        )
        generator = torch.Generator(device).manual_seed(1)
        shape = (config.action_expert_config.num_layers, 1, tokens, KV_WIDTH)
        cache = [torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(2)]
        with torch.inference_mode():
            self.context: Context = self.expert.context(*cache)
        self.noise = torch.randn(1, horizon, config.max_action_dim, generator=generator, device=device)

    def compiled(self) -> Tensor:
        return self.expert.integrate(self.noise, self.context, self.steps)

    def plain(self) -> Tensor:
        schedule = self.expert.schedule(self.steps)
        dtype = self.expert.action_embed.weight.dtype
        x = self.noise.clone()
        for step in range(self.steps):
            at_step = Modulation(schedule.blocks[step : step + 1], schedule.final[step : step + 1])
            x.add_(self.expert.velocity(x.to(dtype), at_step, self.context), alpha=1.0 / self.steps)
        return x

    def comparison(self, name: str, ours: Any, backend: str, tolerance: float) -> Comparison:
        expert = self.config.action_expert_config
        layers, width, inner = expert.num_layers, expert.hidden_size, expert.intermediate_size
        horizon, tokens = self.noise.shape[1], self.context.keys.shape[3]
        weights = layers * (6 * width**2 + 3 * width * inner)
        attention = 4 * layers * horizon * width * (horizon + tokens)
        schedule = self.expert.schedule(self.steps)
        per_step = self.context.keys.element_size() * (weights + 2 * layers * tokens * width)
        return Comparison(
            name,
            {
                "width": width,
                "layers": layers,
                "heads": expert.num_heads,
                "inner": inner,
                "horizon": horizon,
                "tokens": tokens,
                "steps": self.steps,
                "backend": backend,
            },
            "plain torch",
            ours,
            self.plain,
            tolerance=tolerance,
            bytes_moved=self.steps * per_step + schedule.blocks.nbytes if per_step > _CACHED else None,
            flops=self.steps * (2 * horizon * weights + attention),
        )
