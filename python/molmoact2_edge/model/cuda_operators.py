"""The decoder's operations on the compiled CUDA kernels, in bf16: one pass over memory each, one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import TextConfig
from molmoact2_edge.model.operators import Places
from molmoact2_edge.model.rope import RotaryTable

# kMaxDecoderHeadDim of csrc/kernels/decoder_ops/decoder_ops.h.
_MAX_HEAD_DIM = 256

Norm = Literal["none", "per_head", "whole"]


class DecoderKernels(Protocol):
    """What is used of ``molmoact2_edge._core.cuda``; csrc/kernels/decoder_ops/decoder_ops.h says what they compute."""

    def rms_norm(self, x: Tensor, weight: Tensor, out: Tensor, *, eps: float, stream: int) -> None: ...

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, out: Tensor, *, eps: float, stream: int
    ) -> None: ...

    def qk_norm_rope_cache(
        self,
        qkv: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        cosines: Tensor,
        sines: Tensor,
        position: Tensor,
        norm: Norm,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        eps: float,
        stream: int,
    ) -> None: ...

    def silu_gated(self, up_gate: Tensor, out: Tensor, *, stream: int) -> None: ...

    def argmax_range(self, logits: Tensor, ids: Tensor, *, first: int, last: int, stream: int) -> None: ...


def current_stream() -> int:
    """Return torch's current stream as CUDA knows it."""
    stream: int = torch.cuda.current_stream().cuda_stream
    return stream


class CudaOperators:
    """See :class:`Operators`. Everything is queued on torch's current stream, and results are torch's own memory."""

    name = "cuda kernels"

    def __init__(
        self,
        config: TextConfig,
        rope: RotaryTable,
        kernels: DecoderKernels,
        *,
        stream: Callable[[], int] = current_stream,
    ) -> None:
        self._config = config
        self._rope = rope
        self._kernels = kernels
        self._stream = stream
        self._norm: Norm = "none"
        if config.use_qk_norm:
            self._norm = "whole" if config.qk_norm_type == "olmo" else "per_head"

    @staticmethod
    def fits(config: TextConfig) -> bool:
        """Return whether the kernels take a decoder of this configuration."""
        return config.head_dim % 2 == 0 and config.head_dim <= _MAX_HEAD_DIM

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        self._kernels.rms_norm(x, weight, out, eps=eps, stream=self._stream())
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        self._kernels.add_rms_norm(x, residual, weight, out, eps=eps, stream=self._stream())
        return out

    def places(self, position: Tensor, rows: int) -> Places:
        return Places(position)

    def qk_norm_rope_cache(
        self,
        qkv: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        places: Places,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        config = self._config
        cosines, sines = self._rope.tables
        query = qkv.new_empty(qkv.shape[0], config.num_attention_heads, config.head_dim)
        self._kernels.qk_norm_rope_cache(
            qkv,
            query,
            keys,
            values,
            cosines=cosines,
            sines=sines,
            position=places.first,
            norm=self._norm,
            q_weight=q_weight,
            k_weight=k_weight,
            eps=config.layer_norm_eps,
            stream=self._stream(),
        )
        return query

    def silu_gated(self, up_gate: Tensor) -> Tensor:
        out = up_gate.new_empty(up_gate.shape[0], up_gate.shape[1] // 2)
        self._kernels.silu_gated(up_gate, out, stream=self._stream())
        return out

    def argmax(self, logits: Tensor) -> Tensor:
        ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
        self._kernels.argmax_range(logits, ids, first=0, last=logits.shape[1], stream=self._stream())
        return ids
