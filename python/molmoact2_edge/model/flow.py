"""The action expert's flow loop in C++: the whole integration in one call, for float32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from molmoact2_edge._core.kernels import FlowPlan
from molmoact2_edge.model.layout import Linear

if TYPE_CHECKING:
    from molmoact2_edge.model.expert import ActionExpert, Context, Modulation

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FlowGuide:
    """What the flow in-paints around, in the model's units: both float32, finite, on the flow's device.

    ``actions``: (batch, T, action_dim); ``weights``: (batch, T) from 0 to 1. Row r of the velocity v at time t becomes
    ``v + w_r * ((actions - x) / (1 - t) - v)``: with w = 1 the row lands on the guide up to rounding.
    """

    actions: Tensor
    weights: Tensor


class CompiledFlow:
    """An action expert's weights, packed for this processor.

    ``threads``: at most this many, the caller's included; a small expert uses one, because meeting after every
    phase would cost more than the others save. ``isa``: instruction set, None takes the fastest that is there.
    The packed weights are a copy of what a flow step reads (1.5 GB at release shapes).
    """

    def __init__(self, expert: ActionExpert, *, threads: int, isa: str | None = None) -> None:
        config = expert.config
        linears = [expert.action_embed, expert.final]
        blocks = [
            (block.qkv, block.self_out, block.query, block.cross_out, block.up_gate, block.down)
            for block in expert.blocks
        ]
        self._sources = [
            tensor
            for linear in [*linears, *(linear for block in blocks for linear in block)]
            for tensor in (linear.weight, linear.bias)
            if tensor is not None
        ]
        self._versions = versions_of(self._sources)
        self._plan = FlowPlan(
            heads=config.num_heads,
            action_embed=_arrays(expert.action_embed),
            blocks=[
                (_arrays(qkv), _arrays(out), _arrays(query), _arrays(cross), _arrays(up_gate), _arrays(down))
                for qkv, out, query, cross, up_gate, down in blocks
            ],
            final=_arrays(expert.final),
            qk_norm=config.qk_norm,
            qk_norm_eps=config.qk_norm_eps,
            rope=config.rope,
            causal=config.causal_attn,
            available_threads=threads,
            isa=isa,
        )

    @property
    def threads(self) -> int:
        return self._plan.threads

    @property
    def isa(self) -> str:
        return self._plan.isa

    def integrate(
        self,
        noise: Tensor,
        context: Context,
        schedule: Modulation,
        valid_dim: int | None,
        velocities: list[Tensor] | None,
        guide: FlowGuide | None = None,
    ) -> Tensor:
        """See :meth:`ActionExpert.integrate`; one row of the batch after the other.

        Raises:
            RuntimeError: The expert's weights have changed since they were packed.
        """
        if versions_of(self._sources) != self._versions:
            raise RuntimeError(
                "the expert's weights have changed since compile(); call expert.compile() again"
            )
        batch, horizon, columns = noise.shape
        steps = schedule.blocks.shape[0]
        start = noise.float().contiguous()
        kept = torch.empty(batch, steps, horizon, columns) if velocities is not None else None
        rows = []
        for row in range(batch):
            keys, values = context.keys[:, row], context.values[:, row]
            if context.mask is not None:
                valid = context.mask[row].flatten()
                keys, values = keys[:, :, valid], values[:, :, valid]
            chunk = self._plan.run(
                array_of(start[row]),
                array_of(keys),
                array_of(values),
                array_of(schedule.blocks),
                array_of(schedule.final),
                columns if valid_dim is None else valid_dim,
                None if kept is None else array_of(kept[row]),
                None if guide is None else array_of(guide.actions[row].contiguous()),
                None if guide is None else array_of(guide.weights[row].contiguous()),
            )
            rows.append(torch.from_numpy(chunk))
        if velocities is not None and kept is not None:
            velocities.extend(kept.unbind(1))
        return torch.stack(rows)


def array_of(tensor: Tensor) -> _Array:
    """Return the tensor's own memory."""
    array: _Array = tensor.detach().numpy()
    return array


def _arrays(linear: Linear) -> tuple[_Array, _Array]:
    assert linear.bias is not None
    return array_of(linear.weight), array_of(linear.bias)


def versions_of(tensors: Sequence[Tensor]) -> int:
    """Return a number that grows with every change of a tensor in place; inference tensors do not count theirs."""
    return sum(tensor._version for tensor in tensors if not tensor.is_inference())
