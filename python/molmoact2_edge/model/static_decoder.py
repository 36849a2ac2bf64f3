"""The decoder's forward over memory that never moves: fixed rows, a fixed cache, positions in device memory.

It computes what :meth:`Decoder.forward` computes for one observation. No shape, address or branch depends on what is
in the tensors, so that one recording of it serves every call of the same sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import TextConfig
from molmoact2_edge.model.attention import attend_to_cache
from molmoact2_edge.model.decoder import Decoder, DecoderBlock
from molmoact2_edge.model.operators import Operators, Places


class StaticCache:
    """Keys (after norm and rotation) and values of all layers, each (layers, capacity, kv_heads, head_dim).

    Zeros at first: a masked position must still be finite, since zero times infinity is no zero.
    """

    def __init__(self, config: TextConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.num_hidden_layers, capacity, config.num_key_value_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def clear(self, start: int, stop: int) -> None:
        """Set positions ``start..stop`` to zero."""
        self.keys[:, start:stop].zero_()
        self.values[:, start:stop].zero_()

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of positions ``start..stop`` as (layers, positions, kv_width) views."""
        return self.keys[:, start:stop].flatten(2), self.values[:, start:stop].flatten(2)


class StaticDecoder:
    """The blocks of a :class:`Decoder`, run row by row position in place."""

    def __init__(self, decoder: Decoder, operators: Operators) -> None:
        self._decoder = decoder
        self._operators = operators
        self._eps = decoder.config.layer_norm_eps

    def forward(
        self, x: Tensor, cache: StaticCache, position: Tensor, bias: Tensor, *, states: bool
    ) -> Tensor | None:
        """Run new rows through all layers; their keys and values are written to ``cache`` from ``position`` on.

        ``x``: (rows, width) embeddings, overwritten; ``position``: int32 (1,); ``bias``: (rows, length), added to the
        scores against the first ``length`` positions of the cache. Returns the final states (rows, width), or, without
        ``states``, None: then nothing of the last layer is computed but what goes to the cache.
        """
        if self._decoder.config.norm_after:
            return self._forward_norm_after(x, cache, position, bias, states)
        operators, eps = self._operators, self._eps
        places = operators.places(position, x.shape[0])
        blocks = self._decoder.blocks
        residual, normed = x, operators.rms_norm(x, blocks[0].attention_norm, eps)
        for index, block in enumerate(blocks):
            last = index == len(blocks) - 1
            query = self._cache_rows(block, index, normed, cache, places)
            if last and not states:
                return None
            attended = self._attend(block, index, query, cache, bias)
            normed = operators.add_rms_norm(attended, residual, block.ffn_norm, eps)
            after = self._decoder.final_norm if last else blocks[index + 1].attention_norm
            normed = operators.add_rms_norm(self._mlp(block, normed), residual, after, eps)
        return normed

    def _forward_norm_after(
        self, x: Tensor, cache: StaticCache, position: Tensor, bias: Tensor, states: bool
    ) -> Tensor | None:
        operators, eps = self._operators, self._eps
        places = operators.places(position, x.shape[0])
        blocks = self._decoder.blocks
        for index, block in enumerate(blocks):
            query = self._cache_rows(block, index, x, cache, places)
            if index == len(blocks) - 1 and not states:
                return None
            attended = self._attend(block, index, query, cache, bias)
            x = x + operators.rms_norm(attended, block.attention_norm, eps)
            x = x + operators.rms_norm(self._mlp(block, x), block.ffn_norm, eps)
        return operators.rms_norm(x, self._decoder.final_norm, eps)

    def _cache_rows(
        self, block: DecoderBlock, index: int, x: Tensor, cache: StaticCache, places: Places
    ) -> Tensor:
        return self._operators.qk_norm_rope_cache(
            block.qkv(x), block.q_norm, block.k_norm, places, cache.keys[index], cache.values[index]
        )

    @staticmethod
    def _attend(block: DecoderBlock, index: int, query: Tensor, cache: StaticCache, bias: Tensor) -> Tensor:
        length = bias.shape[-1]
        return block.attention_out(
            attend_to_cache(query, cache.keys[index, :length], cache.values[index, :length], bias)
        )

    def _mlp(self, block: DecoderBlock, x: Tensor) -> Tensor:
        return block.down(self._operators.silu_gated(block.up_gate(x)))
