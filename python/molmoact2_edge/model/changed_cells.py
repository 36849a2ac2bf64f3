"""Where a call finds out which depth cells changed: on the host, or on the device that it computes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact2_edge.depth import checked_frame, depth_update_mask, grid_side
from molmoact2_edge.model.cuda_operators import current_stream
from molmoact2_edge.model.execution import recording
from molmoact2_edge.model.staging import FetchedOutput, StagedInputs
from molmoact2_edge.types import BoolArray, Image


class ChangedCells(Protocol):
    """Compares two frames cell by cell."""

    @property
    def name(self) -> str:
        """What compares, for ``backends``."""
        ...

    def between(self, current: Image, previous: Image, cells: int) -> BoolArray:
        """Return (cells,) bool, as :func:`molmoact2_edge.depth_update_mask`."""
        ...


class HostCells:
    """On the CPU, while a GPU still computes the prompt."""

    name = "cpu"

    def between(self, current: Image, previous: Image, cells: int) -> BoolArray:
        return depth_update_mask(current, previous, cells=cells)


class DepthDiff(Protocol):
    """What is used of ``molmoact2_edge._core.cuda.DepthDiff``; see csrc/kernels/depth_diff/depth_diff.h."""

    def update_mask(self, current: Tensor, previous: Tensor, changed: Tensor, *, stream: int) -> None: ...


class MakesDepthDiff(Protocol):
    """Its constructor."""

    def __call__(
        self, *, current: tuple[int, int], previous: tuple[int, int], side: int, device: int
    ) -> DepthDiff: ...


class DeviceCells:
    """On the device, on a stream of its own: nothing waits for the prompt that is being computed there, and the host
    only copies. The same bits as on the host.
    """

    name = "cuda kernel"

    def __init__(
        self, make: MakesDepthDiff, device: torch.device, *, stream: Callable[[], int] = current_stream
    ) -> None:
        self._make = make
        self._device = device
        self._stream = stream
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: _CellBuffers | None = None

    def between(self, current: Image, previous: Image, cells: int) -> BoolArray:
        side = grid_side(cells)
        now, before = checked_frame(current, "current_rgb"), checked_frame(previous, "previous_rgb")
        setting = (now.shape, before.shape, side)
        with self._session():
            if self._buffers is None or self._buffers.setting != setting:
                self._buffers = None  # its memory goes first; a camera changes its size once in a while
                self._buffers = _CellBuffers(*setting, self._make, self._device)
            return self._buffers.compare(now, before, self._stream())

    def _session(self) -> AbstractContextManager[object]:
        return nullcontext() if self._queue is None else torch.cuda.stream(self._queue)


class _CellBuffers:
    """Two frames of fixed sizes and the mask, in memory that never moves."""

    def __init__(
        self,
        current: tuple[int, ...],
        previous: tuple[int, ...],
        side: int,
        make: MakesDepthDiff,
        device: torch.device,
    ) -> None:
        self.setting = (current, previous, side)
        self._frames = StagedInputs(
            {"current": (current, torch.uint8), "previous": (previous, torch.uint8)}, device
        )
        self._changed = torch.zeros(side * side, dtype=torch.bool, device=device)
        self._mask = FetchedOutput(self._changed)
        with recording:  # its weights are copied to the device, and waited for
            self._diff = make(
                current=(current[0], current[1]),
                previous=(previous[0], previous[1]),
                side=side,
                device=torch.cuda.current_device() if device.type == "cuda" else 0,
            )

    def compare(self, current: Image, previous: Image, stream: int) -> BoolArray:
        self._frames.send(current=current, previous=previous)
        frames = self._frames.tensors
        self._diff.update_mask(frames["current"], frames["previous"], self._changed, stream=stream)
        return self._mask.fetch(len(self._changed)).astype(np.bool_)
