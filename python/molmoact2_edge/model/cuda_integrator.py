"""Context and flow of a static call on the compiled CUDA kernels, in bf16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from molmoact2_edge.model.cuda_operators import current_stream
from molmoact2_edge.model.integrator import FlowSetting, Integrated
from molmoact2_edge.model.layout import Linear
from molmoact2_edge.model.molmoact2 import MolmoAct2

_Pair = tuple[Tensor, Tensor]


class CudaFlowPlan(Protocol):
    """What is used of ``molmoact2_edge._core.cuda.FlowPlan``; see csrc/kernels/flow/flow_cuda.h."""

    @property
    def max_horizon(self) -> int: ...

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
    ) -> None: ...


class ExpertKernels(Protocol):
    """What is used of ``molmoact2_edge._core.cuda``; see csrc/kernels/context/context.h and flow/flow_cuda.h."""

    @property
    def MAX_CONTEXT_WIDTH(self) -> int: ...  # noqa: N802

    @property
    def FlowPlan(self) -> Callable[..., CudaFlowPlan]: ...  # noqa: N802

    def context_workspace_bytes(self, *, gates: int, tokens: int) -> int: ...

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
    ) -> None: ...


class CudaIntegrator:
    """See :class:`Integrator`. The whole Euler loop is one launch; tokens that may not be read are left out of it.

    How many are left is read on the device, so that one recording serves every prompt of its bucket.
    """

    def __init__(
        self, model: MolmoAct2, kernels: ExpertKernels, *, stream: Callable[[], int] = current_stream
    ) -> None:
        """Pack a copy of the expert's weights.

        Raises:
            ValueError: The flow kernel does not take an expert of these shapes.
        """
        assert model.expert is not None
        self._model = model
        self._expert = expert = model.expert
        self._kernels = kernels
        self._stream = stream
        config = expert.config
        self._gate: tuple[Tensor, Tensor] | None = None
        if model.depth_gate is not None:
            gates = [_pair(gate) for gate in model.depth_gate.gates]
            self._gate = torch.cat([weight for weight, _ in gates]), torch.cat([bias for _, bias in gates])
        self._plan = kernels.FlowPlan(
            heads=config.num_heads,
            action_embed=_pair(expert.action_embed),
            blocks=[
                (
                    _pair(block.qkv),
                    _pair(block.self_out),
                    _pair(block.query),
                    _pair(block.cross_out),
                    _pair(block.up_gate),
                    _pair(block.down),
                )
                for block in expert.blocks
            ],
            final=_pair(expert.final),
            qk_norm=config.qk_norm,
            qk_norm_eps=config.qk_norm_eps,
            rope=config.rope,
            causal=config.causal_attn,
            max_horizon=model.config.max_action_horizon,
        )

    @property
    def backends(self) -> dict[str, str]:
        widest = self._kernels.MAX_CONTEXT_WIDTH
        refused = f"torch (the kernel is for widths up to {widest})"
        return {
            "context": "cuda kernel" if self._projects else refused,
            "flow": "cuda kernel",
        }

    @property
    def _projects(self) -> bool:
        """Whether the context kernel takes this expert."""
        return self._expert.config.hidden_size <= self._kernels.MAX_CONTEXT_WIDTH

    def prepare(self, setting: FlowSetting) -> None:
        if setting.horizon > self._plan.max_horizon:
            raise ValueError(f"the flow was packed for {self._plan.max_horizon} steps, got {setting.horizon}")
        self._expert.schedule(setting.steps)

    def integrate(
        self,
        keys: Tensor,
        values: Tensor,
        inputs: Mapping[str, Tensor],
        setting: FlowSetting,
        velocities: list[Tensor] | None = None,
    ) -> Integrated:
        horizon = setting.horizon
        valid, depth = inputs["valid"][: keys.shape[1]], inputs["depth"][: keys.shape[1]]
        project = self._project if self._projects else self._project_in_torch
        context_keys, context_values, count = project(keys, values, valid, depth)
        noise = inputs["noise"][0, :horizon]
        schedule = self._expert.schedule(setting.steps)
        chunk = torch.empty_like(noise)
        kept = None if velocities is None else noise.new_empty(setting.steps, *noise.shape)
        self._plan.run_persistent(
            context_keys,
            context_values,
            count,
            schedule.blocks,
            schedule.final,
            noise,
            chunk,
            noise.shape[1] if setting.valid_dim is None else setting.valid_dim,
            kept,
            inputs["guide_actions"][0, :horizon],
            inputs["guide_weights"][0, :horizon],
            stream=self._stream(),
        )
        if velocities is not None and kept is not None:
            velocities.extend(kept.unsqueeze(1).unbind(0))
        return Integrated(chunk, context_keys, context_values, compact=True)

    def _project(
        self, keys: Tensor, values: Tensor, valid: Tensor, depth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values (layers, heads, positions, head size), valid ones first, and their int32 count."""
        config, expert = self._expert.config, self._expert
        layers, positions, _ = keys.shape
        gates = 0 if self._gate is None else len(self._gate[1])
        size = self._kernels.context_workspace_bytes(gates=gates, tokens=positions)
        projected_keys = keys.new_empty(layers, config.num_heads, positions, expert.head_dim)
        projected_values = torch.empty_like(projected_keys)
        count = torch.empty(1, dtype=torch.int32, device=keys.device)
        self._kernels.context(
            keys,
            values,
            valid,
            None if self._gate is None else depth,
            key=expert.context_key.weight,
            value=expert.context_value.weight,
            gate=self._gate,
            workspace=torch.empty(size, dtype=torch.uint8, device=keys.device),
            projected_keys=projected_keys,
            projected_values=projected_values,
            count=count,
            layer_norm=config.context_layer_norm,
            qk_norm=config.qk_norm,
            qk_norm_eps=config.qk_norm_eps,
            stream=self._stream(),
        )
        return projected_keys, projected_values, count

    def _project_in_torch(
        self, keys: Tensor, values: Tensor, valid: Tensor, depth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`_project`."""
        if self._model.depth_gate is not None:
            keys, values = self._model.depth_gate.apply(keys, values, depth & valid, valid)
        order, count = valid_first(valid)
        projected = self._expert.context(
            keys.index_select(1, order).unsqueeze(1), values.index_select(1, order).unsqueeze(1)
        )
        return projected.keys[:, 0].contiguous(), projected.values[:, 0].contiguous(), count


def valid_first(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 indices (n,) of the true entries of ``valid`` (n,), then zeros, and the count, int32 (1,)."""
    length = valid.shape[0]
    rank = valid.cumsum(0)
    # Entries that are false all go to one place behind the others.
    place = torch.where(valid, rank - 1, length)
    indices = torch.arange(length, device=valid.device)
    order = torch.zeros(length + 1, dtype=torch.int64, device=valid.device).scatter_(0, place, indices)
    return order[:length], rank[-1:].to(torch.int32)


def _pair(linear: Linear) -> _Pair:
    assert linear.bias is not None
    return linear.weight, linear.bias
