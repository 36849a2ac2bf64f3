"""MolmoAct2-Think's gate: how much the expert may read from the depth tokens, decided by everything else it sees."""

from __future__ import annotations

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.layout import Linear, ParameterSource


class DepthGate:
    """One gate per decoder layer, or one for all layers computed from the last layer's values."""

    def __init__(self, source: ParameterSource, config: ModelConfig) -> None:
        text = config.text_config
        width = text.num_key_value_heads * text.head_dim
        prefix = "model.action_expert_depth_gate"
        self.per_layer = config.action_expert_depth_gate_per_layer
        names = [f"{prefix}.{i}" for i in range(text.num_hidden_layers)] if self.per_layer else [prefix]
        self.gates: list[Linear] = [source.linear(name, 1, width, bias=True) for name in names]

    def gains(self, values: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
        """Return the gate of every layer, (layers,) or (1,) when shared.

        ``values``: (layers, tokens, kv_width); ``depth``, ``valid``: bool (tokens,); the mean runs over the valid
        tokens that are no depth tokens, or over all valid ones where there is no other.
        """
        others = valid & ~depth
        # No branch on the flags: whoever records this as a graph may not wait for them.
        others = torch.where(others.any(), others, valid)
        total = values.where(others[:, None], torch.zeros_like(values)).sum(dim=1, dtype=torch.float32)
        pooled = (total / others.sum()).to(values.dtype)
        if not self.per_layer:
            pooled = pooled[-1:]
        scores = [gate(pooled[i]) for i, gate in enumerate(self.gates)]
        return torch.sigmoid(torch.cat(scores))

    def apply(self, keys: Tensor, values: Tensor, depth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (layers, tokens, kv_width) with those of depth tokens scaled by the gate."""
        gains = self.gains(values, depth, valid)[:, None, None]
        scale = torch.where(depth[None, :, None], gains, torch.ones_like(gains))
        return keys * scale, values * scale
