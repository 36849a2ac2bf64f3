"""Tensors of one safetensors file as views of its memory map, whose pages can be given back one tensor at a time.

The safetensors library maps files too, but keeps every page that was touched for as long as the file is open:
converting a float32 release to bfloat16 would then hold three times the weights that are kept.
"""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import torch

from molmoact2_edge.checkpoint.safetensors_header import TensorEntry
from molmoact2_edge.errors import CheckpointError


class MappedFile:
    """A file mapped for reading. Writing to a tensor changes this process's view of it, never the file."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError where the file cannot be mapped."""
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: could not be mapped: {error}") from error

    def tensor(self, entry: TensorEntry, dtype: torch.dtype) -> torch.Tensor:
        """The tensor as a view of the file; a copy only where the file does not align it."""
        count = (entry.end - entry.begin) // dtype.itemsize
        start = entry.begin
        if count == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if start % dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.end - entry.begin, offset=start)
            return raw.clone().view(dtype).view(entry.shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(entry.shape)

    def release(self, entry: TensorEntry) -> None:
        """Give the tensor's pages back to the system; reading it again loads them from the file again."""
        if entry.begin == entry.end:
            return
        first = entry.begin // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._map.madvise(mmap.MADV_DONTNEED, first, entry.end - first)
        except OSError as error:
            # Where a control loop has locked this process's memory, its pages stay, as was asked for.
            if error.errno != errno.EINVAL:
                raise
