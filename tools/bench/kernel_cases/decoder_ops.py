"""What stands between the decoder's matrix products, at release shapes, against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kernel_cases.comparison import CPU, RELEASE, Comparison, config_of, stream_handle
from molmoact2_edge import _core
from molmoact2_edge._core import kernels
from molmoact2_edge.model.operators import TorchOperators
from molmoact2_edge.model.rope import RotaryTable

ROWS = (490, 1)  # a prefill with two cameras, and one token


def cpu() -> Iterator[Comparison]:
    for rows in ROWS:
        yield from _cases(_Inputs(rows, CPU, torch.float32), _OnCpu)


def cuda(device: torch.device) -> Iterator[Comparison]:
    for rows in ROWS:
        yield from _cases(_Inputs(rows, device, torch.bfloat16), _OnDevice)


class _Inputs:
    def __init__(self, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        config = config_of(RELEASE)
        text = config.text_config
        self.rows, self.text = rows, text
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        kv_width = text.num_key_value_heads * text.head_dim
        self.x, self.weight = random(rows, text.hidden_size), random(text.hidden_size)
        self.qkv = random(rows, text.num_attention_heads * text.head_dim + 2 * kv_width)
        self.q_weight, self.k_weight = random(text.head_dim), random(text.head_dim)
        self.up_gate = random(rows, 2 * text.intermediate_size)
        self.logits = random(1, text.vocab_size)
        self.codes = (text.vocab_size - config.num_depth_tokens, text.vocab_size)
        self.caches = torch.zeros(
            2, rows + 8, text.num_key_value_heads, text.head_dim, device=device, dtype=dtype
        )
        rope = RotaryTable(text.head_dim, text.rope_theta, device)
        rope.reserve(rows + 8)
        self.tables = rope.tables
        self.position = torch.tensor([3], dtype=torch.int32, device=device)
        self.torch = TorchOperators(text, rope)
        self.places = self.torch.places(self.position, rows)

    def plain_qk(self) -> Tensor:
        return self.torch.qk_norm_rope_cache(
            self.qkv, self.q_weight, self.k_weight, self.places, *self.caches
        )


class _OnCpu:
    def __init__(self, inputs: _Inputs) -> None:
        self._in = inputs

    def rms_norm(self) -> Tensor:
        i = self._in
        return torch.from_numpy(kernels.rms_norm(i.x.numpy(), i.weight.numpy(), eps=i.text.layer_norm_eps))

    def qk_norm_rope_cache(self) -> Tensor:
        i = self._in
        queries = kernels.qk_norm_rope_cache(
            i.qkv.numpy(),
            i.caches[0].numpy(),
            i.caches[1].numpy(),
            cosines=i.tables[0].numpy(),
            sines=i.tables[1].numpy(),
            position=3,
            norm="per_head",
            q_weight=i.q_weight.numpy(),
            k_weight=i.k_weight.numpy(),
            eps=i.text.layer_norm_eps,
        )
        return torch.from_numpy(queries)

    def silu_gated(self) -> Tensor:
        return torch.from_numpy(kernels.silu_gated(self._in.up_gate.numpy()))

    def argmax_range(self) -> Tensor:
        first, last = self._in.codes
        return torch.from_numpy(kernels.argmax_range(self._in.logits.numpy(), first=first, last=last))


class _OnDevice:
    def __init__(self, inputs: _Inputs) -> None:
        self._in = inputs
        self._normed = torch.empty_like(inputs.x)
        self._gated = torch.empty_like(inputs.up_gate[:, : inputs.text.intermediate_size].contiguous())
        shape = (inputs.rows, inputs.text.num_attention_heads, inputs.text.head_dim)
        self._queries = torch.empty(shape, dtype=inputs.x.dtype, device=inputs.x.device)
        self._ids = torch.empty(1, dtype=torch.int64, device=inputs.x.device)

    def rms_norm(self) -> Tensor:
        i = self._in
        _core.cuda.rms_norm(i.x, i.weight, self._normed, eps=i.text.layer_norm_eps, stream=stream_handle())
        return self._normed

    def qk_norm_rope_cache(self) -> Tensor:
        i = self._in
        _core.cuda.qk_norm_rope_cache(
            i.qkv,
            self._queries,
            i.caches[0],
            i.caches[1],
            cosines=i.tables[0],
            sines=i.tables[1],
            position=i.position,
            norm="per_head",
            q_weight=i.q_weight,
            k_weight=i.k_weight,
            eps=i.text.layer_norm_eps,
            stream=stream_handle(),
        )
        return self._queries

    def silu_gated(self) -> Tensor:
        _core.cuda.silu_gated(self._in.up_gate, self._gated, stream=stream_handle())
        return self._gated

    def argmax_range(self) -> Tensor:
        first, last = self._in.codes
        _core.cuda.argmax_range(self._in.logits, self._ids, first=first, last=last, stream=stream_handle())
        return self._ids


def _cases(inputs: _Inputs, side: type[_OnCpu] | type[_OnDevice]) -> Iterator[Comparison]:
    ours = side(inputs)
    i, text = inputs, inputs.text
    first, last = i.codes
    size = i.x.element_size()
    # bf16 is rounded where the kernels do not round.
    tolerance = 1e-4 if size == 4 else 0.13
    rows: tuple[tuple[str, Callable[[], Tensor], Callable[[], Tensor], int, float], ...] = (
        (
            "rms_norm",
            ours.rms_norm,
            lambda: i.torch.rms_norm(i.x, i.weight, text.layer_norm_eps),
            2 * i.x.numel() * size,
            tolerance,
        ),
        ("qk_norm_rope_cache", ours.qk_norm_rope_cache, i.plain_qk, 2 * i.qkv.numel() * size, tolerance),
        (
            "silu_gated",
            ours.silu_gated,
            lambda: i.torch.silu_gated(i.up_gate),
            3 * i.up_gate.numel() // 2 * size,
            tolerance,
        ),
        (
            "argmax_range",
            ours.argmax_range,
            lambda: i.torch.argmax(i.logits[:, first:last]) + first,
            (last - first) * size,
            0,
        ),
    )
    for name, compiled, plain, moved, allowed in rows:
        if name == "argmax_range" and i.rows > 1:
            continue
        yield Comparison(
            f"decoder-{name}-{i.rows}",
            {"rows": i.rows, "width": text.hidden_size},
            "plain torch",
            compiled,
            plain,
            tolerance=allowed,
            bytes_moved=moved if moved > 1 << 20 else None,
        )
