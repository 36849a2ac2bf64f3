"""The header of a safetensors file, checked against the file before anything is read through it.

Format: eight bytes with the header's length (little endian), the header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmoact2_edge.errors import CheckpointError

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the format's own limit

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `begin` and `end` count bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Tensors of a file, by name.

    Raises:
        CheckpointError: The file is missing or truncated, or its header is damaged. The message names the file and,
            where one is to blame, the tensor.
    """
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            length_field = file.read(_LENGTH_BYTES)
            if len(length_field) < _LENGTH_BYTES:
                raise CheckpointError(
                    f"{path}: truncated: {file_bytes} bytes, too few for a safetensors header"
                )
            header_bytes = int.from_bytes(length_field, "little")
            if header_bytes > min(_LARGEST_HEADER, file_bytes - _LENGTH_BYTES):
                raise CheckpointError(
                    f"{path}: truncated or no safetensors file: it announces a header of {header_bytes} bytes, "
                    f"but has {file_bytes} bytes in all"
                )
            raw = file.read(header_bytes)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error}") from error
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: damaged safetensors header: expected a JSON object")
    header.pop("__metadata__", None)
    data_start = _LENGTH_BYTES + header_bytes
    entries = {name: _entry(path, name, values, data_start) for name, values in header.items()}
    _check_layout(path, entries, data_start, file_bytes)
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name appears twice")
    return unique


def _entry(path: Path, name: str, values: object, data_start: int) -> TensorEntry:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name!r}: {what}; the file is damaged")

    if not isinstance(values, Mapping):
        raise refuse("expected a JSON object in the header")
    dtype: Any = values.get("dtype")
    shape: Any = values.get("shape")
    offsets: Any = values.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise refuse(f"unknown dtype {dtype!r}")
    if not _are_sizes(shape):
        raise refuse(f"shape must be a list of integers of at least 0, got {shape!r}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"data_offsets must be [begin, end], got {offsets!r}")
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise refuse(
            f"{dtype} of shape {shape} takes {expected} bytes, its data_offsets {offsets} give another size"
        )
    return TensorEntry(
        dtype=dtype, shape=tuple(shape), begin=data_start + offsets[0], end=data_start + offsets[1]
    )


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(one) is int and one >= 0 for one in values)


def _check_layout(path: Path, entries: Mapping[str, TensorEntry], data_start: int, file_bytes: int) -> None:
    """Tensors must follow one another without gap or overlap and fill the file exactly."""
    filled = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != filled:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected its data at byte {filled} of the file, the header says "
                f"{entry.begin}; the file is damaged"
            )
        filled = entry.end
        if filled > file_bytes:
            raise CheckpointError(
                f"{path}: truncated: tensor {name!r} ends at byte {filled}, the file has {file_bytes}; "
                "download it again"
            )
    if filled != file_bytes:
        raise CheckpointError(f"{path}: expected {filled} bytes, found {file_bytes}; the file is damaged")
