"""Qwen3-style decoder with a key/value cache that the action expert reads layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from molmoact2_edge.checkpoint.config import TextConfig
from molmoact2_edge.model.layout import Linear, ParameterSource, Part
from molmoact2_edge.model.rope import RotaryTable

Hidden = Literal["none", "last", "all"]


class LayerCache(Protocol):
    """Where a forward pass puts each layer's new keys and values, and what it reads back."""

    length: int

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, new, kv_heads, head_dim) behind ``length``; return all keys and values of the layer."""
        ...


class KeyValueCache:
    """Keys (after norm and rotation) and values of all layers, in memory that is allocated once.

    ``keys`` and ``values``: (layers, batch, capacity, kv_heads, head_dim); the first ``length`` positions are filled.
    """

    def __init__(
        self, config: TextConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_hidden_layers, batch, capacity, config.num_key_value_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        stop = self.length + key.shape[1]
        if stop > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, {stop} are needed")
        self.keys[layer, :, self.length : stop] = key
        self.values[layer, :, self.length : stop] = value
        return self.keys[layer, :, :stop], self.values[layer, :, :stop]

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} positions and cannot be cut to {length}")
        self.length = length

    def copy_prefix(self, other: KeyValueCache, length: int) -> None:
        """Take over the first ``length`` positions of another cache of the same model."""
        if self.length or length > min(other.length, self.capacity):
            raise ValueError(
                f"cannot take {length} positions of {other.length} into a cache of {self.capacity}"
            )
        self.keys[:, :, :length] = other.keys[:, :, :length]
        self.values[:, :, :length] = other.values[:, :, :length]
        self.length = length

    def filled(self) -> tuple[Tensor, Tensor]:
        """Return the filled keys and values as (layers, batch, length, kv_heads * head_dim) views."""
        return self.keys[:, :, : self.length].flatten(3), self.values[:, :, : self.length].flatten(3)


@dataclass(frozen=True, slots=True)
class DecoderBlock:
    """Parameters of one layer."""

    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    attention_out: Linear
    ffn_norm: Tensor
    up_gate: Linear
    down: Linear


class Decoder:
    """Embedding, blocks, final norm and vocabulary head.

    One forward serves prefill (many tokens, image tokens see one another) and decoding (a run of new tokens
    behind a cache); both append to a :class:`KeyValueCache`.
    """

    def __init__(self, source: ParameterSource, config: TextConfig, device: torch.device) -> None:
        self.config = config
        width = config.hidden_size
        self.embedding = source.packed(
            Part("model.transformer.wte.embedding", (config.vocab_size, width)),
            Part("model.transformer.wte.new_embedding", (config.additional_vocab_size, width)),
        )
        self.blocks = [self._block(source, i) for i in range(config.num_hidden_layers)]
        self.final_norm = source.tensor("model.transformer.ln_f.weight", width)
        self.head = source.linear("lm_head", config.vocab_size, width, bias=False)
        self._q_width = config.num_attention_heads * config.head_dim
        self._kv_width = config.num_key_value_heads * config.head_dim
        self.rope = RotaryTable(config.head_dim, config.rope_theta, device)

    def _block(self, source: ParameterSource, index: int) -> DecoderBlock:
        config = self.config
        prefix = f"model.transformer.blocks.{index}"
        width, head_dim = config.hidden_size, config.head_dim
        q_width = config.num_attention_heads * head_dim
        kv_width = config.num_key_value_heads * head_dim
        q_norm = k_norm = None
        if config.use_qk_norm:
            per_head = config.qk_norm_type == "qwen3"
            q_norm = source.tensor(f"{prefix}.self_attn.q_norm.weight", head_dim if per_head else q_width)
            k_norm = source.tensor(f"{prefix}.self_attn.k_norm.weight", head_dim if per_head else kv_width)
        return DecoderBlock(
            attention_norm=source.tensor(f"{prefix}.attn_norm.weight", width),
            qkv=source.linear(
                f"{prefix}.self_attn.att_proj", q_width + 2 * kv_width, width, bias=config.qkv_bias
            ),
            q_norm=q_norm,
            k_norm=k_norm,
            attention_out=source.linear(f"{prefix}.self_attn.attn_out", width, q_width, bias=False),
            ffn_norm=source.tensor(f"{prefix}.ff_norm.weight", width),
            up_gate=source.linear(f"{prefix}.mlp.ff_proj", 2 * config.intermediate_size, width, bias=False),
            down=source.linear(f"{prefix}.mlp.ff_out", width, config.intermediate_size, bias=False),
        )

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return embeddings (..., width) of token ids (...)."""
        return F.embedding(token_ids, self.embedding)

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``capacity`` positions."""
        return KeyValueCache(self.config, batch, capacity, self.embedding.dtype, self.embedding.device)

    def forward(
        self, x: Tensor, cache: LayerCache, *, mask: Tensor | None = None, hidden: Hidden = "last"
    ) -> Tensor | None:
        """Run new positions through all layers, appending their keys and values to ``cache``.

        ``x``: (batch, new, width) embeddings. ``mask``: bool (batch or 1, new, past + new), true where the row may
        look; None means causal. ``hidden`` says which final hidden states are wanted: "last" gives (batch, width),
        "all" (batch, new, width), "none" None; what nobody reads in the last layer is not computed, and the action
        expert reads only keys and values.
        """
        start = cache.length
        new = x.shape[1]
        if mask is None and new > 1:
            mask = causal_mask(new, start, x.device)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            normed = x if self.config.norm_after else self._norm(x, block.attention_norm)
            if index == last and hidden == "none":
                key, value = self._key_value(block, normed, start)
                cache.append(index, key, value)
                break
            rows = slice(-1, None) if index == last and hidden == "last" else slice(None)
            attended = self._attention(block, index, normed, cache, mask, rows)
            x = x[:, rows]
            if self.config.norm_after:
                x = x + self._norm(attended, block.attention_norm)
                x = x + self._norm(self._mlp(block, x), block.ffn_norm)
            else:
                x = x + attended
                x = x + self._mlp(block, self._norm(x, block.ffn_norm))
        cache.length = start + new
        if hidden == "none":
            return None
        x = self._norm(x, self.final_norm)
        return x[:, -1] if hidden == "last" else x

    def logits(self, hidden: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the vocabulary scores of rows ``start..stop`` for hidden states (..., width)."""
        return self.head.rows(start, self.config.vocab_size if stop is None else stop)(hidden)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.layer_norm_eps)

    def _heads(self, x: Tensor, weight: Tensor | None, start: int) -> Tensor:
        """Split a projection into heads, normed as the configuration says and rotated from position ``start``."""
        if weight is not None and self.config.qk_norm_type == "olmo":
            x = self._norm(x, weight)
        x = x.unflatten(-1, (-1, self.config.head_dim))
        if weight is not None and self.config.qk_norm_type == "qwen3":
            x = self._norm(x, weight)
        return self.rope.rotate(x, start)

    def _key_value(self, block: DecoderBlock, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        projection = block.qkv.rows(self._q_width, self._q_width + 2 * self._kv_width)
        key, value = projection(x).split(self._kv_width, dim=-1)
        return self._heads(key, block.k_norm, start), value.unflatten(-1, (-1, self.config.head_dim))

    def _attention(
        self, block: DecoderBlock, layer: int, x: Tensor, cache: LayerCache, mask: Tensor | None, rows: slice
    ) -> Tensor:
        """Attend from ``rows`` of the new positions; all of them go to the cache."""
        start = cache.length
        query, key, value = block.qkv(x).split([self._q_width, self._kv_width, self._kv_width], dim=-1)
        value = value.unflatten(-1, (-1, self.config.head_dim))
        keys, values = cache.append(layer, self._heads(key, block.k_norm, start), value)
        query = query[:, rows]
        first_row = start + x.shape[1] - query.shape[1]
        if mask is not None:
            mask = mask[:, rows]
        rotated = self._heads(query, block.q_norm, first_row)
        return block.attention_out(grouped_attention(rotated, keys, values, mask))

    @staticmethod
    def _mlp(block: DecoderBlock, x: Tensor) -> Tensor:
        up, gate = block.up_gate(x).chunk(2, dim=-1)
        return block.down(F.silu(gate) * up)


def grouped_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention; the query heads of one key/value head are stacked as rows, so nothing is repeated.

    ``query``: (batch, new, heads, head_dim); ``keys``, ``values``: (batch, length, kv_heads, head_dim); ``mask``: bool
    (batch or 1, new, length) or None. Returns (batch, new, heads * head_dim).
    """
    batch, new, heads, head_dim = query.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    rows = query.view(batch, new, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    if mask is not None:
        mask = mask[:, None, None].expand(-1, 1, group, -1, -1).flatten(2, 3)
    out = F.scaled_dot_product_attention(rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
    return out.view(batch, kv_heads, group, new, head_dim).permute(0, 3, 1, 2, 4).reshape(batch, new, -1)


def causal_mask(new: int, past: int, device: torch.device) -> Tensor:
    """Return the bool mask (1, new, past + new) in which each new position sees itself and all before it."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril_(past).unsqueeze(0)


def prefill_mask(image_tokens: Tensor) -> Tensor:
    """Return the prefill mask (batch, S, S): causal, and image tokens see one another in both directions.

    ``image_tokens``: bool (batch, S).
    """
    causal = causal_mask(image_tokens.shape[1], 0, image_tokens.device)
    return causal | (image_tokens[:, :, None] & image_tokens[:, None, :])
