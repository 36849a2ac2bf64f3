"""What the static decoder wants fused: one interface, computed by torch here and by CUDA kernels elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from molmoact2_edge.checkpoint.config import TextConfig
from molmoact2_edge.model.rope import RotaryTable, rotate


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a forward stand: ``first`` int32 (1,), and what an implementation derives from it once."""

    first: Tensor
    rows: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None


class Operators(Protocol):
    """Operations between the matrix products of a decoder layer.

    ``rows`` new positions of one observation at a time; every result has a fixed shape, and nothing waits for the
    device.
    """

    @property
    def name(self) -> str:
        """What computes them, for ``backends``."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return the RMSNorm of ``x`` (rows, width), computed in float32."""
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Add ``x`` to ``residual`` in place, both (rows, width), and return the RMSNorm of the sum."""
        ...

    def places(self, position: Tensor, rows: int) -> Places:
        """Return the places of ``rows`` rows from ``position``, int32 (1,), on, for all layers of a forward."""
        ...

    def qk_norm_rope_cache(
        self,
        qkv: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        places: Places,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Norm and rotate queries and keys, write keys and values to the cache, return the queries.

        ``qkv``: (rows, (heads + 2 * kv_heads) * head_dim), [q | k | v]; ``keys``, ``values``: (capacity, kv_heads,
        head_dim), written at ``places``. Returns (rows, heads, head_dim).
        """
        ...

    def silu_gated(self, up_gate: Tensor) -> Tensor:
        """Return ``silu(gate) * up`` for [up | gate] (rows, 2 * inner): (rows, inner)."""
        ...

    def argmax(self, logits: Tensor) -> Tensor:
        """Return the first largest column of each row of (rows, columns) as int64 (rows,).

        A row with NaN gives any column, or -1.
        """
        ...


class TorchOperators:
    """The operations in plain torch, on any device and in any number type."""

    name = "torch"

    def __init__(self, config: TextConfig, rope: RotaryTable) -> None:
        self._config = config
        self._rope = rope

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self.rms_norm(residual.add_(x), weight, eps)

    def places(self, position: Tensor, rows: int) -> Places:
        indices = torch.arange(rows, device=position.device) + position
        return Places(position, indices, *self._rope.at(indices))

    def qk_norm_rope_cache(
        self,
        qkv: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        places: Places,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        assert places.rows is not None
        config = self._config
        kv_width = config.num_key_value_heads * config.head_dim
        query, key, value = qkv.split([qkv.shape[-1] - 2 * kv_width, kv_width, kv_width], dim=-1)
        keys.index_copy_(0, places.rows, self._heads(key, k_weight, places))
        values.index_copy_(0, places.rows, value.unflatten(-1, (-1, config.head_dim)))
        return self._heads(query, q_weight, places)

    def _heads(self, x: Tensor, weight: Tensor | None, places: Places) -> Tensor:
        config = self._config
        if weight is not None and config.qk_norm_type == "olmo":
            x = self.rms_norm(x, weight, config.layer_norm_eps)
        x = x.unflatten(-1, (-1, config.head_dim))
        if weight is not None and config.qk_norm_type == "qwen3":
            x = self.rms_norm(x, weight, config.layer_norm_eps)
        assert places.cos is not None
        assert places.sin is not None
        return rotate(x, places.cos, places.sin)

    def silu_gated(self, up_gate: Tensor) -> Tensor:
        up, gate = up_gate.chunk(2, dim=-1)
        return F.silu(gate) * up

    def argmax(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)
