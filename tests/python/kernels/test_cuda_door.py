"""What the CUDA functions refuse before any device is touched: needs a build with CUDA, but no GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import _core

if not _core.build_config()["cuda"]:
    pytest.skip("built without CUDA", allow_module_level=True)

from molmoact2_edge._core import cuda

BF16 = torch.bfloat16


class DlTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("ordinal", ctypes.c_int32)]


class PretendCuda:
    """A tensor in host memory that says it is on a CUDA device."""

    def __init__(self, tensor: torch.Tensor, ordinal: int = 0) -> None:
        self.tensor = tensor
        self.ordinal = ordinal

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.ordinal

    def __dlpack__(self, *, stream: Any = None) -> Any:
        assert stream == -1
        capsule = self.tensor.__dlpack__()
        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        header = DlTensor.from_address(pointer_of(capsule, b"dltensor"))
        header.device_type, header.ordinal = 2, self.ordinal
        return capsule


def pretend(*shape: int, dtype: torch.dtype = BF16, ordinal: int = 0) -> PretendCuda:
    return PretendCuda(torch.zeros(shape, dtype=dtype), ordinal)


def norm(x: Any, weight: Any, out: Any) -> None:
    cuda.rms_norm(x, weight, out, eps=1e-6, stream=0)


def test_what_is_no_cuda_tensor_is_refused() -> None:
    good = pretend(2, 8)
    with pytest.raises(TypeError, match="x must be a tensor that speaks DLPack, got list"):
        norm([1.0], good, good)
    with pytest.raises(TypeError, match=r"weight must be on a CUDA device .* got device type 1"):
        norm(good, torch.zeros(8, dtype=BF16), good)
    with pytest.raises(TypeError, match="out must be on a CUDA device"):
        norm(good, pretend(8), np.zeros((2, 8), np.float32))


def test_types_shapes_and_strides_are_named() -> None:
    x, weight = pretend(2, 8), pretend(8)
    with pytest.raises(
        ValueError, match=r"x must be bfloat16 of shape \(any, any\), got float32 of shape \(2, 8\)"
    ):
        norm(pretend(2, 8, dtype=torch.float32), weight, x)
    with pytest.raises(
        ValueError, match=r"weight must be bfloat16 of shape \(8,\), got bfloat16 of shape \(7,\)"
    ):
        norm(x, pretend(7), x)
    with pytest.raises(ValueError, match=r"out must be contiguous .* got bfloat16 of shape \(2, 8\)"):
        norm(x, weight, PretendCuda(torch.zeros(8, 2, dtype=BF16).T))
    with pytest.raises(ValueError, match="x is on CUDA device 0 and weight on 1"):
        norm(x, pretend(8, ordinal=1), x)


def test_each_function_checks_its_arguments() -> None:
    x, row = pretend(2, 8), pretend(8)
    with pytest.raises(ValueError, match="residual must be bfloat16"):
        cuda.add_rms_norm(x, pretend(1, 8), row, x, eps=1e-6, stream=0)
    with pytest.raises(ValueError, match="bias must be bfloat16"):
        cuda.layer_norm(x, row, pretend(9), x, eps=1e-6, stream=0)
    with pytest.raises(ValueError, match=r"up_gate must be bfloat16 of shape \(2, 16\)"):
        cuda.silu_gated(x, x, stream=0)
    with pytest.raises(ValueError, match="ids must be int64"):
        cuda.argmax_range(x, pretend(2, dtype=torch.int32), first=0, last=8, stream=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": pretend(2, 31)}, r"qkv must be bfloat16 of shape \(2, 32\)"),
        ({"values": pretend(5, 1, 8)}, "values must be"),
        ({"cosines": pretend(6, 8)}, "cosines must be float32"),
        ({"position": pretend(1, dtype=torch.int64)}, "position must be int32"),
        ({"norm": "whole"}, r"q_weight must be bfloat16 of shape \(16,\)"),
        ({"norm": "both"}, "norm must be none, per_head or whole, got both"),
    ],
)
def test_the_cache_function_checks_its_arguments(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "qkv": pretend(2, 32),
        "q": pretend(2, 2, 8),
        "keys": pretend(4, 1, 8),
        "values": pretend(4, 1, 8),
        "cosines": pretend(6, 8, dtype=torch.float32),
        "sines": pretend(6, 8, dtype=torch.float32),
        "position": pretend(1, dtype=torch.int32),
        "norm": "per_head",
        "q_weight": pretend(8),
        "k_weight": pretend(8),
        "eps": 1e-6,
        "stream": 0,
    }
    with pytest.raises(ValueError, match=message):
        cuda.qk_norm_rope_cache(**(arguments | changes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_operations_equal_torch_on_a_device() -> None:
    stream = torch.cuda.current_stream().cuda_stream
    x = torch.randn(5, 2560, device="cuda", dtype=BF16)
    weight = torch.randn(2560, device="cuda", dtype=BF16)
    out = torch.empty_like(x)
    cuda.rms_norm(x, weight, out, eps=1e-6, stream=stream)
    torch.testing.assert_close(out, torch.nn.functional.rms_norm(x, (2560,), weight, 1e-6))
    ids = torch.empty(5, dtype=torch.int64, device="cuda")
    cuda.argmax_range(x, ids, first=100, last=2000, stream=stream)
    assert ids.tolist() == (x[:, 100:2000].float().argmax(1) + 100).tolist()
