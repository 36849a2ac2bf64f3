"""How parameters map to checkpoint tensors: which are packed into one matrix, in which order, with which shapes.

The modules of this package ask a :class:`ParameterSource` for every parameter by the names of the checkpoint
tensors that it is made of. A parameter made of several tensors is their concatenation along the first axis (fused
q/k/v, embedding plus added rows), so that a forward pass reads one packed matrix. Every request is recorded, which
is enough to write a checkpoint back (:func:`checkpoint_tensors`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from molmoact2_edge.errors import CheckpointError

Shape = tuple[int, ...]

# How much of a file is resident while a tensor is converted.
_SLAB_BYTES = 16 << 20


class TensorReader(Protocol):
    """Named tensors with known shapes, read one at a time (``checkpoint.Weights`` is one)."""

    def shape(self, name: str) -> Shape: ...

    def read(self, name: str) -> Tensor: ...

    def release(self, name: str) -> None:
        """Called when the tensor that was read is no longer needed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint tensor that is a block of rows of a parameter."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Parameter:
    """A packed parameter and the checkpoint tensors it consists of, in row order."""

    parts: tuple[Part, ...]
    tensor: Tensor


class ParameterSource:
    """Hands out packed parameters and remembers them.

    ``fill(part, rows)`` writes one checkpoint tensor into its rows of the packed parameter.
    """

    def __init__(
        self,
        fill: Callable[[Part, Tensor], None],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._fill = fill
        self._dtype = dtype
        self._device = device
        self.parameters: list[Parameter] = []

    def packed(self, *parts: Part) -> Tensor:
        """Return the concatenation of ``parts`` along the first axis as one contiguous tensor."""
        rows = sum(part.shape[0] for part in parts)
        tensor = torch.empty((rows, *parts[0].shape[1:]), dtype=self._dtype, device=self._device)
        start = 0
        for part in parts:
            self._fill(part, tensor[start : start + part.shape[0]])
            start += part.shape[0]
        self.parameters.append(Parameter(parts, tensor))
        return tensor

    def tensor(self, name: str, *shape: int) -> Tensor:
        """Return one checkpoint tensor of exactly ``shape``."""
        return self.packed(Part(name, shape))

    def linear(self, prefix: str | Sequence[str], out_features: int, in_features: int, bias: bool) -> Linear:
        """Return a linear map; several prefixes are packed one below the other, ``out_features`` rows each."""
        prefixes = [prefix] if isinstance(prefix, str) else list(prefix)
        weight = self.packed(*(Part(f"{p}.weight", (out_features, in_features)) for p in prefixes))
        bias_vector = self.packed(*(Part(f"{p}.bias", (out_features,)) for p in prefixes)) if bias else None
        return Linear(weight, bias_vector)


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = x W^T + b`` with W of shape (out, in)."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def rows(self, start: int, stop: int) -> Linear:
        """Return the map to output features ``start..stop``, sharing memory."""
        return Linear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


def _slab_rows(tensor: Tensor) -> int:
    """Rows to convert at a time: an embedding table alone would take a tenth of the model's memory again."""
    return max(1, _SLAB_BYTES * tensor.shape[0] // max(1, tensor.nbytes))


def checkpoint_source(reader: TensorReader, *, dtype: torch.dtype, device: torch.device) -> ParameterSource:
    """Return a source that reads, checks and converts tensor by tensor, so that only a part of one is in flight."""

    def fill(part: Part, rows: Tensor) -> None:
        found = reader.shape(part.name)
        if found != part.shape:
            raise CheckpointError(
                f"tensor {part.name!r} has shape {list(found)}, but the configuration asks for "
                f"{list(part.shape)}; config.json and the weights do not belong together"
            )
        stored = reader.read(part.name)
        slab = _slab_rows(stored)
        for begin in range(0, stored.shape[0], slab):
            rows[begin : begin + slab].copy_(stored[begin : begin + slab])
            reader.release(part.name)

    return ParameterSource(fill, dtype=dtype, device=device)


def random_source(
    initialize: Callable[[Part, Tensor], None], *, dtype: torch.dtype, device: torch.device
) -> ParameterSource:
    """Return a source whose parameters are made by ``initialize(part, rows)``: for training and benchmarks."""
    return ParameterSource(initialize, dtype=dtype, device=device)


def checkpoint_tensors(parameters: Sequence[Parameter]) -> dict[str, Tensor]:
    """Return the checkpoint tensors that ``parameters`` consist of, by name, as contiguous CPU copies."""
    tensors: dict[str, Tensor] = {}
    for parameter in parameters:
        start = 0
        for part in parameter.parts:
            stop = start + part.shape[0]
            tensors[part.name] = parameter.tensor[start:stop].detach().to("cpu", copy=True).contiguous()
            start = stop
    return tensors
