"""Ways between the host and tensors whose addresses never change, through page-locked memory on CUDA."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Every field begins at a multiple of this; kernels load up to 16 bytes at a time, copies prefer more.
_ALIGNMENT = 256

Shape = tuple[int, ...]


class StagedInputs:
    """Named device tensors that are filled from the host by one copy.

    ``tensors`` are views of one device block. :meth:`send` never overwrites host memory that a copy may still be
    reading.
    """

    def __init__(self, fields: Mapping[str, tuple[Shape, torch.dtype]], device: torch.device) -> None:
        places: dict[str, tuple[int, int]] = {}
        size = 0
        for name, (shape, dtype) in fields.items():
            stop = size + int(np.prod(shape)) * dtype.itemsize
            places[name] = (size, stop)
            size = -(-stop // _ALIGNMENT) * _ALIGNMENT
        cuda = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=cuda)
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._copied = torch.cuda.Event() if cuda else None
        self.tensors: dict[str, Tensor] = {}
        self._arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, (shape, dtype) in fields.items():
            place = slice(*places[name])
            self.tensors[name] = self._device[place].view(dtype).view(shape)
            self._arrays[name] = self._host[place].view(dtype).view(shape).numpy()

    def send(self, **values: npt.NDArray[np.generic]) -> None:
        """Write each value to the front of its field, the rest of which becomes zero, and queue the copy.

        A field that is not named keeps what it holds.
        """
        if self._copied is not None:
            self._copied.synchronize()
        for name, value in values.items():
            array = self._arrays[name]
            if value.shape != array.shape:
                array.fill(0)
            array[tuple(slice(size) for size in value.shape)] = value
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class FetchedOutput:
    """Brings a device tensor to the host: one copy, one wait."""

    def __init__(self, source: Tensor) -> None:
        self._source = source
        self._host = torch.empty(
            source.shape, dtype=source.dtype, device="cpu", pin_memory=source.device.type == "cuda"
        )
        self._copied = torch.cuda.Event() if source.device.type == "cuda" else None

    def fetch(self, rows: int) -> npt.NDArray[np.generic]:
        """Return a copy of the first ``rows`` rows, when everything queued before on this stream is done."""
        self._host[:rows].copy_(self._source[:rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
            self._copied.synchronize()
        found: npt.NDArray[np.generic] = self._host[:rows].numpy().copy()
        return found
