"""What the CUDA kernels are handed: every tensor is checked as the bindings check it, and answered in torch.

The kernels themselves are tested where they are (tests/csrc/kernels); this is the way to them, in whole calls.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from static.replay import ReplayedExecution
from torch import Tensor

from molmoact2_edge import Policy
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.cuda_operators import CudaOperators, Norm
from molmoact2_edge.model.decoder import prefill_mask
from molmoact2_edge.model.integrator import TorchIntegrator
from molmoact2_edge.model.operators import Operators, TorchOperators
from molmoact2_edge.model.patches import HostPatches
from molmoact2_edge.model.rope import RotaryTable, rotate
from molmoact2_edge.model.static_pipeline import StaticPipeline

STREAM = 1234
RNG = np.random.default_rng(9)
FRAMES = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(2)]
STATE = np.linspace(-20, 30, 6, dtype=np.float32)


class CheckedKernels:
    """Stands for ``molmoact2_edge._core.cuda``: the same arguments and refusals, computed in ``dtype`` by torch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.calls: Counter[str] = Counter()

    def _take(self, name: str, stream: int, **tensors: tuple[Tensor, tuple[int, ...]]) -> None:
        assert stream == STREAM
        self.calls[name] += 1
        for what, (tensor, shape) in tensors.items():
            assert tuple(tensor.shape) == shape, what
            assert tensor.dtype == self.dtype, what
            assert tensor.is_contiguous(), what

    def rms_norm(self, x: Tensor, weight: Tensor, out: Tensor, *, eps: float, stream: int) -> None:
        rows, width = x.shape
        self._take(
            "rms_norm",
            stream,
            x=(x, (rows, width)),
            weight=(weight, (width,)),
            out=(out, (rows, width)),
        )
        out.copy_(F.rms_norm(x, (width,), weight, eps))

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, out: Tensor, *, eps: float, stream: int
    ) -> None:
        rows, width = x.shape
        self._take(
            "add_rms_norm",
            stream,
            x=(x, (rows, width)),
            residual=(residual, (rows, width)),
            weight=(weight, (width,)),
            out=(out, (rows, width)),
        )
        out.copy_(F.rms_norm(residual.add_(x), (width,), weight, eps))

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
    ) -> None:
        rows, heads, head_dim = q.shape
        capacity, kv_heads, _ = keys.shape
        self._take(
            "qk_norm_rope_cache",
            stream,
            qkv=(qkv, (rows, (heads + 2 * kv_heads) * head_dim)),
            q=(q, (rows, heads, head_dim)),
            keys=(keys, (capacity, kv_heads, head_dim)),
            values=(values, (capacity, kv_heads, head_dim)),
        )
        assert cosines.dtype == sines.dtype == torch.float32
        assert cosines.shape == sines.shape == (len(cosines), head_dim)
        assert (position.dtype, tuple(position.shape)) == (torch.int32, (1,))
        places = torch.arange(rows) + position
        query, key, value = qkv.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=1)
        turned = []
        for part, weight, count in ((query, q_weight, heads), (key, k_weight, kv_heads)):
            if norm == "none":
                assert weight is None
            else:
                assert weight is not None
                assert tuple(weight.shape) == (count * head_dim if norm == "whole" else head_dim,)
            if norm == "whole":
                part = F.rms_norm(part, (count * head_dim,), weight, eps)
            part = part.unflatten(1, (count, head_dim))
            if norm == "per_head":
                part = F.rms_norm(part, (head_dim,), weight, eps)
            turned.append(rotate(part, cosines[places], sines[places]))
        q.copy_(turned[0])
        keys[places] = turned[1]
        values[places] = value.unflatten(1, (kv_heads, head_dim))

    def silu_gated(self, up_gate: Tensor, out: Tensor, *, stream: int) -> None:
        rows, width = out.shape
        self._take("silu_gated", stream, up_gate=(up_gate, (rows, 2 * width)), out=(out, (rows, width)))
        out.copy_(F.silu(up_gate[:, width:]) * up_gate[:, :width])

    def argmax_range(self, logits: Tensor, ids: Tensor, *, first: int, last: int, stream: int) -> None:
        rows, width = logits.shape
        self._take("argmax_range", stream, logits=(logits, (rows, width)))
        assert (ids.dtype, tuple(ids.shape)) == (torch.int64, (rows,))
        assert 0 <= first < last <= width
        ids.copy_(logits[:, first:last].argmax(dim=1) + first)


def policy_with(loaded: Policy, operators: Operators, execution: Any = None) -> Policy:
    """A static policy on other operators."""
    policy = Policy(loaded.model, loaded.processor, execution="static")
    policy._pipeline = StaticPipeline(
        loaded.model,
        loaded.processor.patch_grid,
        HostPatches(),
        operators,
        TorchIntegrator(loaded.model),
        execution or policy._pipeline._execution,  # type: ignore[attr-defined]
    )
    return policy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("think", [False, True])
def test_whole_calls_on_the_kernels(reference: Path, dtype: str, think: bool) -> None:
    loaded = Policy.from_pretrained(reference / "tiny-think", device="cpu", dtype=dtype, execution="static")
    config, rope = loaded.config.text_config, loaded.model.decoder.rope
    kernels = CheckedKernels(loaded.dtype)
    found = policy_with(loaded, CudaOperators(config, rope, kernels, stream=lambda: STREAM))
    expected = policy_with(loaded, TorchOperators(config, rope))
    assert found.backends["decoder"] == "cuda kernels"
    cache = None
    for seed in range(3):
        options: dict[str, Any] = {
            "task": "reach",
            "state": STATE + seed,
            "norm_tag": "so101_tiny",
            "seed": seed,
            "think": think,
            "depth_cache": cache,
        }
        one, other = (policy.predict(FRAMES, **options) for policy in (found, expected))
        assert one.token_ids == other.token_ids
        np.testing.assert_array_equal(one.actions, other.actions)
        cache = other.depth_cache
    # The last layer of a prompt stops at its keys and values.
    assert kernels.calls["qk_norm_rope_cache"] > kernels.calls["silu_gated"]
    assert set(kernels.calls) == {
        "rms_norm",
        "add_rms_norm",
        "qk_norm_rope_cache",
        "silu_gated",
        *({"argmax_range"} if think else set()),
    }


@pytest.mark.parametrize(
    "change",
    [{}, {"qk_norm_type": "olmo"}, {"use_qk_norm": False}, {"norm_after": True}, {"qkv_bias": True}],
    ids=str,
)
def test_every_kind_of_decoder(reference: Path, change: dict[str, Any]) -> None:
    """The static decoder on both kinds of operators against the plain one, on random weights."""
    from model.test_options import random_model
    from model.test_options import settings as changed

    config_json = changed(reference, **{f"text_config__{key}": value for key, value in change.items()})
    model, _ = random_model(config_json, seed=1)
    config: ModelConfig = model.config
    from molmoact2_edge.model.attention import hiding
    from molmoact2_edge.model.static_decoder import StaticCache, StaticDecoder

    rows, capacity, past = 9, 16, 3
    x = torch.randn(rows, config.text_config.hidden_size, generator=torch.Generator().manual_seed(2))
    image = torch.zeros(1, rows, dtype=torch.bool)
    image[0, 2:5] = True
    with torch.inference_mode():
        plain = model.decoder.new_cache(1, rows)
        expected = model.decoder.forward(x[None], plain, mask=prefill_mask(image), hidden="all")
        assert expected is not None
        rope = RotaryTable(config.text_config.head_dim, config.text_config.rope_theta, torch.device("cpu"))
        rope.reserve(capacity)
        kinds: list[Operators] = [
            TorchOperators(config.text_config, rope),
            CudaOperators(config.text_config, rope, CheckedKernels(torch.float32), stream=lambda: STREAM),
        ]
        bias = hiding(prefill_mask(image)[0], torch.float32)
        for operators in kinds:
            cache = StaticCache(config.text_config, capacity, torch.float32, torch.device("cpu"))
            decoder = StaticDecoder(model.decoder, operators)
            # Image tokens see what follows, so that only what comes after them can be run apart.
            start = torch.tensor([0], dtype=torch.int32)
            decoder.forward(x[:5].clone(), cache, start, bias[:5, :5], states=False)
            start = torch.tensor([5], dtype=torch.int32)
            padded = torch.cat([x[5:], torch.zeros(past, x.shape[1])])
            visible = torch.arange(capacity)[None] <= torch.arange(5, 5 + len(padded))[:, None]
            states = decoder.forward(padded, cache, start, hiding(visible, torch.float32), states=True)
            assert states is not None
            torch.testing.assert_close(states[: rows - 5], expected[0, 5:], rtol=0, atol=1e-5)
            for found, wanted in zip(cache.rows(0, rows), plain.filled(), strict=True):
                torch.testing.assert_close(found, wanted[:, 0], rtol=0, atol=1e-5)


def test_replays_read_the_position_from_memory(reference: Path) -> None:
    loaded = Policy.from_pretrained(
        reference / "tiny-think", device="cpu", dtype="float32", execution="static"
    )
    rope = loaded.model.decoder.rope
    policy = policy_with(loaded, TorchOperators(loaded.config.text_config, rope), ReplayedExecution())
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 0}
    first = policy.predict(FRAMES, think=True, **options)
    second = policy.predict(FRAMES, think=True, **options)
    assert first.token_ids == second.token_ids
    assert len(set(first.token_ids or [])) > 3
