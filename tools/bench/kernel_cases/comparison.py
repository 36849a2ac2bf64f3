"""One kernel on one set of shapes, beside what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.layout import Part, random_source

REFERENCE = Path(__file__).parents[3] / "tests" / "reference"
RELEASE = REFERENCE / "shapes" / "molmoact2-so101.json"
CPU = torch.device("cpu")

Computed: TypeAlias = "Tensor | list[NDArray[np.float64]]"


@dataclass(frozen=True)
class Comparison:
    """``ours`` and ``baseline`` return what they computed, for the check before the timing.

    A side that computes many small arrays, as its user would have them, returns their list: to stack them is no part
    of what is timed.

    ``bytes_moved`` is what no implementation can avoid reading and writing, or None where it all fits the caches or is
    not what takes the time; ``flops`` counts multiplications and additions of the matrix products. On CUDA both sides
    queue their work on the current stream and are recorded as a graph; ``baseline_on_host`` marks a baseline that
    cannot be, because it computes on the CPU.
    """

    name: str
    settings: dict[str, Any]
    baseline_is: str
    ours: Callable[[], Computed]
    baseline: Callable[[], Computed]
    tolerance: float
    bytes_moved: int | None = None
    flops: int = 0
    baseline_on_host: bool = False


def gathered(computed: Computed) -> Tensor:
    """Return what one side computed as one tensor on the CPU, float64."""
    if isinstance(computed, list):
        return torch.from_numpy(np.stack(computed))
    return computed.cpu().double()


def config_of(path: Path) -> ModelConfig:
    return ModelConfig.from_json(json.loads(path.read_text()))


def random_filler(device: torch.device) -> Callable[[Part, Tensor], None]:
    """Return what fills parameters with numbers that keep activations near one."""
    generator = torch.Generator(device).manual_seed(0)

    def fill(part: Part, rows: Tensor) -> None:
        scale = part.shape[1] ** -0.5 if len(part.shape) > 1 else 0.1
        rows.normal_(0.0, scale, generator=generator)

    return fill


def random_source_on(device: torch.device, dtype: torch.dtype) -> Any:
    return random_source(random_filler(device), dtype=dtype, device=device)


def stream_handle() -> int:
    """Return the current CUDA stream as compiled code takes it."""
    return int(torch.cuda.current_stream().cuda_stream)
