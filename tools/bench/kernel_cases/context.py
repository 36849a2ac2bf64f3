"""The expert's context: projection, norms, depth gate and the choice of valid tokens, against torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

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
from molmoact2_edge.model.context import CompiledContext
from molmoact2_edge.model.depth_gate import DepthGate
from molmoact2_edge.model.expert import ActionExpert


def cpu() -> Iterator[Comparison]:
    """Float32: a tiny checkpoint, a tiny one that thinks, release shapes."""
    for name, config, tokens in (
        ("context-tiny", config_of(REFERENCE / "tiny-base" / "config.json"), 90),
        ("context-tiny-think", config_of(REFERENCE / "tiny-think" / "config.json"), 140),
        ("context-release", config_of(RELEASE), 490),
    ):
        case = _Case(config, tokens, CPU, torch.float32)
        compiled = CompiledContext(
            case.expert, case.gate, layers=case.layers, threads=torch.get_num_threads()
        )

        def ours(compiled: CompiledContext = compiled, case: _Case = case) -> Tensor:
            return torch.stack(compiled.project(case.keys, case.values, case.valid, case.depth))

        yield case.comparison(name, ours, compiled.backend, tolerance=1e-4)


def cuda(device: torch.device) -> Iterator[Comparison]:
    """Release shapes in bf16, without and with depth tokens."""
    release = config_of(RELEASE)
    think = dataclasses.replace(
        release, action_expert_depth_gate=True, action_expert_depth_gate_per_layer=True
    )
    for name, config, tokens in (("context-release", release, 490), ("context-release-think", think, 593)):
        case = _Case(config, tokens, device, torch.bfloat16)
        yield case.comparison(name, case.on_device(), "cuda", tolerance=0.1)


class _Case:
    """Two projections with random weights, and a cache of which most tokens are valid."""

    def __init__(self, config: ModelConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        text = config.text_config
        self.layers = text.num_hidden_layers
        self.kv_width = text.num_key_value_heads * text.head_dim
        source = random_source_on(device, dtype)
        self.expert = ActionExpert(
            source,
            # One block is enough: the context takes its layers from the cache.
            dataclasses.replace(config.action_expert_config, num_layers=1),
            action_dim=config.max_action_dim,
            context_width=self.kv_width,
            device=device,
        )
        self.gate = DepthGate(source, config) if config.action_expert_depth_gate else None
        generator = torch.Generator(device).manual_seed(1)
        shape = (self.layers, tokens, self.kv_width)
        self.keys, self.values = (
            torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(2)
        )
        places = torch.arange(tokens, device=device)
        self.valid = places > 0  # all but the beginning token
        self.depth = places >= tokens - (103 if self.gate is not None else 0)

    def plain(self) -> Tensor:
        keys, values = self.keys, self.values
        if self.gate is not None:
            keys, values = self.gate.apply(keys, values, self.depth & self.valid, self.valid)
        context = self.expert.context(keys[:, 1:].unsqueeze(1), values[:, 1:].unsqueeze(1))
        return torch.stack((context.keys[:, 0], context.values[:, 0]))

    def on_device(self) -> _OnDevice:
        return _OnDevice(self)

    def comparison(self, name: str, ours: object, backend: str, tolerance: float) -> Comparison:
        assert callable(ours)
        config = self.expert.config
        tokens, width = self.keys.shape[1], config.hidden_size
        size = self.keys.element_size()
        moved = 2 * size * ((self.kv_width + width) * self.layers * (tokens - 1) + width * self.kv_width)
        return Comparison(
            name,
            {
                "layers": self.layers,
                "tokens": tokens,
                "kv_width": self.kv_width,
                "width": width,
                "heads": config.num_heads,
                "gated": self.gate is not None,
                "backend": backend,
            },
            "plain torch",
            ours,
            self.plain,
            tolerance=tolerance,
            bytes_moved=moved if moved > 64 << 20 else None,
            flops=4 * self.layers * (tokens - 1) * width * self.kv_width,
        )


class _OnDevice:
    """The CUDA kernel with everything it needs allocated ahead."""

    def __init__(self, case: _Case) -> None:
        self._case = case
        config, device = case.expert.config, case.keys.device
        tokens = case.keys.shape[1]
        heads = config.num_heads
        shape = (2, case.layers, heads, tokens, config.hidden_size // heads)
        self._projected = torch.empty(shape, dtype=case.keys.dtype, device=device)
        self._count = torch.empty(1, dtype=torch.int32, device=device)
        self._gate = None
        if case.gate is not None:
            weights = [gate.weight for gate in case.gate.gates]
            biases = [gate.bias for gate in case.gate.gates if gate.bias is not None]
            self._gate = (torch.cat(weights), torch.cat(biases))
        gates = 0 if self._gate is None else len(self._gate[0])
        size = _core.cuda.context_workspace_bytes(gates=gates, tokens=tokens)
        self._workspace = torch.empty(size, dtype=torch.uint8, device=device)

    def __call__(self) -> Tensor:
        case, config = self._case, self._case.expert.config
        _core.cuda.context(
            case.keys,
            case.values,
            case.valid,
            case.depth if self._gate is not None else None,
            key=case.expert.context_key.weight,
            value=case.expert.context_value.weight,
            gate=self._gate,
            workspace=self._workspace,
            projected_keys=self._projected[0],
            projected_values=self._projected[1],
            count=self._count,
            layer_norm=config.context_layer_norm,
            qk_norm=config.qk_norm,
            qk_norm_eps=config.qk_norm_eps,
            stream=stream_handle(),
        )
        return self._projected[:, :, :, :-1]  # one token is not valid
