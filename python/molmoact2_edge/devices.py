"""Which device and number type a name stands for on this machine."""

from __future__ import annotations

import torch

from molmoact2_edge.errors import InputError


def resolve_device(device: str) -> torch.device:
    """Return the device that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for on this machine."""
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        target = None
    if target is None or target.type not in ("cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    if target.type == "cuda" and not available:
        raise InputError("device='cuda', but torch sees no CUDA device; `molmoact2-edge doctor` says why")
    return target


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number type that ``"auto"``, ``"float32"`` or ``"bfloat16"`` stands for on ``device``."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in names:
        raise InputError(f"dtype must be 'auto', 'float32' or 'bfloat16', got {dtype!r}")
    return names[dtype]
