"""The decoder's fused operations on the CPU against torch's, and what their doors refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from molmoact2_edge._core import kernels
from molmoact2_edge.model.rope import RotaryTable

Floats = NDArray[np.float32]
EPS = 1e-6


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 37), (2, 2560)])
def test_norms_equal_torch(shape: tuple[int, int]) -> None:
    x, residual = numbers(*shape), numbers(*shape, seed=1)
    weight, bias = numbers(shape[1], seed=2), numbers(shape[1], seed=3)
    expected = F.rms_norm(torch.from_numpy(x), weight.shape, torch.from_numpy(weight), EPS)
    np.testing.assert_allclose(kernels.rms_norm(x, weight, eps=EPS), expected.numpy(), rtol=2e-6, atol=2e-6)
    added = residual.copy()
    out = kernels.add_rms_norm(x, added, weight, eps=EPS)
    np.testing.assert_array_equal(added, residual + x)
    np.testing.assert_allclose(out, kernels.rms_norm(added, weight, eps=EPS))
    layer = F.layer_norm(
        torch.from_numpy(x), weight.shape, torch.from_numpy(weight), torch.from_numpy(bias), EPS
    )
    np.testing.assert_allclose(
        kernels.layer_norm(x, weight, bias, eps=EPS), layer.numpy(), rtol=4e-6, atol=4e-6
    )


def test_queries_and_keys_equal_torch() -> None:
    heads, kv_heads, head_dim, capacity, start, rows = 4, 2, 12, 9, 3, 5
    rope = RotaryTable(head_dim, 10000.0, torch.device("cpu"))
    rope.reserve(capacity)
    cosines, sines = (table.numpy() for table in rope.tables)
    qkv = numbers(rows, (heads + 2 * kv_heads) * head_dim)
    q_weight, k_weight = numbers(head_dim, seed=1), numbers(head_dim, seed=2)
    keys, values = (
        numbers(capacity, kv_heads, head_dim, seed=3),
        numbers(capacity, kv_heads, head_dim, seed=4),
    )
    expected_keys, expected_values = keys.copy(), values.copy()
    q = kernels.qk_norm_rope_cache(
        qkv,
        keys,
        values,
        cosines=cosines,
        sines=sines,
        position=start,
        norm="per_head",
        q_weight=q_weight,
        k_weight=k_weight,
        eps=EPS,
    )

    def rotated(part: Floats, weight: Floats) -> Floats:
        split = torch.from_numpy(part).unflatten(-1, (-1, head_dim))
        normed = F.rms_norm(split, (head_dim,), torch.from_numpy(weight), EPS)
        return np.asarray(rope.rotate(normed, start), np.float32)

    q_part, k_part, v_part = np.split(qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1)
    expected_keys[start : start + rows] = rotated(k_part, k_weight)
    expected_values[start : start + rows] = v_part.reshape(rows, kv_heads, head_dim)
    np.testing.assert_allclose(q, rotated(q_part, q_weight), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(keys, expected_keys, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(values, expected_values)


def test_activation_and_choice_equal_torch() -> None:
    up_gate = numbers(3, 22)
    up, gate = torch.from_numpy(up_gate).chunk(2, dim=-1)
    expected = (F.silu(gate) * up).numpy()
    np.testing.assert_allclose(kernels.silu_gated(up_gate), expected, rtol=2e-6, atol=1e-7)
    logits = np.array([[5, 1, 2, 2], [0, 3, np.nan, 1], [np.nan, 1, 1, 1]], np.float32)
    assert kernels.argmax_range(logits, first=1, last=4).tolist() == [2, -1, 1]


def test_doors_refuse_what_does_not_fit() -> None:
    x, weight = numbers(2, 6), numbers(6)
    with pytest.raises(ValueError, match=r"weight must have shape \(6, \), got \(5, \)"):
        kernels.rms_norm(x, numbers(5), eps=EPS)
    with pytest.raises(ValueError, match="x must have 2 dimensions, got 1"):
        kernels.rms_norm(weight, weight, eps=EPS)
    with pytest.raises(TypeError):
        kernels.rms_norm(x.astype(np.float64), weight, eps=EPS)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.rms_norm(numbers(6, 2).T, weight, eps=EPS)
    with pytest.raises(ValueError, match="residual must have shape"):
        kernels.add_rms_norm(x, numbers(1, 6), weight, eps=EPS)
    frozen = numbers(2, 6)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        kernels.add_rms_norm(x, frozen, weight, eps=EPS)
    with pytest.raises(ValueError, match="even number of columns"):
        kernels.silu_gated(numbers(1, 3))
    with pytest.raises(ValueError, match="range of columns"):
        kernels.argmax_range(x, first=3, last=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": 3}, "leave the cache"),
        ({"position": -1}, "leave the cache"),
        ({"norm": "both"}, "norm must be none, per_head or whole, got both"),
        ({"q_weight": None}, "an array is missing"),
        ({"k_weight": numbers(7)}, "k_weight must have shape"),
        ({"values": numbers(4, 1, 8)}, "values must have shape"),
        ({"keys": numbers(4, 8)}, "keys must have shape"),
        ({"sines": numbers(5, 8)}, "sines must have shape"),
        ({"qkv": numbers(2, 33)}, "qkv must have shape"),
        ({"qkv": numbers(2, 16)}, "qkv must have shape"),
    ],
)
def test_the_cache_door_refuses_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "qkv": numbers(2, 4 * 8),
        "keys": numbers(4, 1, 8),
        "values": numbers(4, 1, 8),
        "cosines": numbers(6, 8),
        "sines": numbers(6, 8),
        "position": 2,
        "norm": "per_head",
        "q_weight": numbers(8),
        "k_weight": numbers(8),
        "eps": EPS,
    }
    if "values" in changes:  # the same shape as the keys is asked for
        arguments["keys"] = numbers(5, 1, 8)
    arguments.update(changes)
    with pytest.raises(ValueError, match=message):
        kernels.qk_norm_rope_cache(**arguments)  # type: ignore[arg-type]
