"""Vision tower and connector: patches to features of the decoder's width.

A SigLIP-style ViT, attention pooling over 2x2 patches, and a gated projector (arXiv 2605.02881).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from molmoact2_edge.checkpoint.config import AdapterConfig, VitConfig
from molmoact2_edge.model.attention import attend
from molmoact2_edge.model.layout import Linear, ParameterSource


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """LayerNorm with weight and bias."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """One pre-norm transformer block of the tower."""

    attention_norm: LayerNorm
    qkv: Linear
    out: Linear
    ffn_norm: LayerNorm
    up: Linear
    down: Linear
    heads: int

    def __call__(self, x: Tensor) -> Tensor:
        crops, patches, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(crops, patches, 3, self.heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended = attend(q, k, v).transpose(1, 2).reshape(crops, patches, -1)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


class VisionTower:
    """Patch embedding, learned positions and the blocks up to the last one whose output is used."""

    def __init__(self, source: ParameterSource, config: VitConfig, layers: tuple[int, ...]) -> None:
        prefix = "model.vision_backbone.image_vit"
        width = config.hidden_size
        patch_dim = config.image_patch_size**2 * 3
        self.config = config
        self.layers = layers
        self.patch_embedding = source.linear(f"{prefix}.patch_embedding", width, patch_dim, bias=True)
        self.positions = source.tensor(f"{prefix}.positional_embedding", config.image_num_pos, width)
        self.blocks = [
            self._block(source, f"{prefix}.transformer.resblocks.{i}") for i in range(max(layers) + 1)
        ]
        self._resized_positions: dict[tuple[int, int], Tensor] = {}

    def _block(self, source: ParameterSource, prefix: str) -> VisionBlock:
        config = self.config
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        norms = [
            LayerNorm(
                source.tensor(f"{prefix}.{name}.weight", width),
                source.tensor(f"{prefix}.{name}.bias", width),
                config.layer_norm_eps,
            )
            for name in ("attention_norm", "ffn_norm")
        ]
        return VisionBlock(
            attention_norm=norms[0],
            qkv=source.linear(
                [f"{prefix}.attention.{n}" for n in ("wq", "wk", "wv")], inner, width, bias=True
            ),
            out=source.linear(f"{prefix}.attention.wo", width, inner, bias=True),
            ffn_norm=norms[1],
            up=source.linear(f"{prefix}.feed_forward.w1", config.intermediate_size, width, bias=True),
            down=source.linear(f"{prefix}.feed_forward.w2", width, config.intermediate_size, bias=True),
            heads=config.num_attention_heads,
        )

    def positions_for(self, grid: tuple[int, int]) -> Tensor:
        """Return the learned positions for a patch grid (rows, columns), resized when it is not the trained one."""
        side_y, side_x = self.config.position_grid
        if grid == (side_y, side_x):
            return self.positions
        if self.positions.requires_grad or grid not in self._resized_positions:
            table = self.positions.float().view(1, side_y, side_x, -1).permute(0, 3, 1, 2)
            resized = F.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=True)
            self._resized_positions[grid] = (
                resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1).to(self.positions.dtype)
            )
        return self._resized_positions[grid]

    def __call__(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the concatenated features of the chosen layers.

        ``patches``: (crops, patches, patch_dim); result: (crops, patches, len(layers) * width).
        """
        x = self.patch_embedding(patches) + self.positions_for(grid)
        outputs = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.layers:
                outputs[index] = x
        return torch.cat([outputs[index] for index in self.layers], dim=-1)


@dataclass(frozen=True, slots=True)
class Pooling:
    """Which patches become one prompt token.

    ``indices``: int64 (tokens, members) into all patches, -1 for none; ``present``: bool, where there is one, or None
    when none is missing.
    """

    indices: Tensor
    present: Tensor | None

    @classmethod
    def of(cls, indices: Tensor) -> Pooling:
        """Look whether a patch is missing anywhere, which waits for the device."""
        present = indices >= 0
        return cls(indices, None if bool(present.all()) else present)


class Connector:
    """Attention pooling of 2x2 patches and the gated projector to the decoder's width."""

    def __init__(self, source: ParameterSource, config: AdapterConfig, feature_width: int) -> None:
        prefix = "model.vision_backbone"
        inner = config.num_attention_heads * config.head_dim
        pooling = f"{prefix}.image_pooling_2d"
        self.config = config
        self.query = source.linear(f"{pooling}.wq", inner, feature_width, bias=True)
        self.key_value = source.linear([f"{pooling}.wk", f"{pooling}.wv"], inner, feature_width, bias=True)
        self.out = source.linear(f"{pooling}.wo", config.hidden_size, inner, bias=True)
        projector = f"{prefix}.image_projector"
        self.gate_up = source.linear(
            [f"{projector}.w1", f"{projector}.w3"], config.intermediate_size, config.hidden_size, bias=False
        )
        self.down = source.linear(
            f"{projector}.w2", config.text_hidden_size, config.intermediate_size, bias=False
        )

    def __call__(self, features: Tensor, pooling: Pooling) -> Tensor:
        """Return one feature (tokens, text_hidden_size) per pooled token of ``features`` (crops, patches, width)."""
        flat = features.flatten(0, 1)
        present = pooling.present
        # Index -1 addresses the appended row of zeros.
        table = flat if present is None else torch.cat([flat, flat.new_zeros(1, flat.shape[1])])
        members = table[pooling.indices]
        tokens, size, _ = members.shape
        if present is None or not self.config.pooling_attention_mask:
            query_input = members.mean(dim=1)
        else:
            count = present.sum(dim=1, keepdim=True).clamp_min(1)
            query_input = members.sum(dim=1) / count.to(members.dtype)
        heads = self.config.num_attention_heads
        query = self.query(query_input).view(tokens, 1, heads, -1).transpose(1, 2)
        key, value = self.key_value(members).view(tokens, size, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None
        if self.config.pooling_attention_mask and present is not None:
            mask = present.view(tokens, 1, 1, size)
        attended = attend(query, key, value, mask)
        pooled = self.out(attended.transpose(1, 2).reshape(tokens, -1))
        gate, up = self.gate_up(pooled).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
