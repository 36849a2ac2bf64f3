"""Scaled dot-product attention over a static cache, in shapes that fused kernels take, and the proof that one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

# In the order in which they are tried: flash takes no mask, cuDNN builds a plan per shape.
FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)

# Fused kernels load heads in pieces of 16 bytes, which is this many bf16 numbers.
_HEAD_MULTIPLE = 8


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    """Attention of (batch, heads, rows, head_dim) over (batch, heads, length, head_dim), scale head_dim^-0.5.

    ``mask``: bool, true where a row may look, or an additive bias in the query's dtype; it broadcasts to
    (batch, heads, rows, length). On CUDA heads of a width that no fused kernel takes are padded with zeros, which
    changes no score.
    """
    head_dim = query.shape[-1]
    missing = -head_dim % _HEAD_MULTIPLE if query.is_cuda else 0
    if missing:
        query, keys, values = (F.pad(part, (0, missing)) for part in (query, keys, values))
    out = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_causal, scale=head_dim**-0.5
    )
    return out[..., :head_dim] if missing else out


def attend_to_cache(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Grouped-query attention of new rows over cached ones.

    ``query``: (rows, heads, head_dim); ``keys``, ``values``: (length, kv_heads, head_dim); ``bias``: (rows, length) in
    the query's dtype, added to the scores. Returns (rows, heads * head_dim). The key/value heads stand where a batch
    would: the query heads that share one are its heads, and neither keys nor the bias are repeated in memory.
    """
    rows, heads, _ = query.shape
    group = heads // keys.shape[1]
    grouped = query.unflatten(1, (-1, group)).permute(1, 2, 0, 3)
    shared_keys, shared_values = (
        part.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1) for part in (keys, values)
    )
    return attend(grouped, shared_keys, shared_values, bias).permute(2, 0, 1, 3).reshape(rows, -1)


def hiding(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive bias of a bool mask: 0 where true, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, float("-inf")
    )


class AttentionRecorder(TorchFunctionMode):
    """Notes which kernel torch chooses for every attention that runs inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            choice = SDPBackend(torch._fused_sdp_choice(*args, **options))
            self.chosen.add(choice.name.removesuffix("_ATTENTION").lower())
        return func(*args, **options)


@contextmanager
def fused_only() -> Iterator[AttentionRecorder]:
    """Let attention run on fused kernels or raise; the recorder tells which ran.

    The choice is a setting of the process, not of the thread: whoever uses this holds a lock against its like.
    """
    with sdpa_kernel(list(FUSED), set_priority=True), AttentionRecorder() as recorder:
        yield recorder
