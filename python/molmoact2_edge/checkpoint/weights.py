"""A checkpoint's tensors: one safetensors file or shards, memory-mapped, under the names of Ai2's releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from molmoact2_edge.checkpoint.json_section import Section, read_json
from molmoact2_edge.checkpoint.mapped_file import MappedFile
from molmoact2_edge.checkpoint.safetensors_header import TensorEntry, read_header
from molmoact2_edge.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies: its file, its name there, and what the file's header says of it."""

    path: Path
    name: str
    entry: TensorEntry


class Weights:
    """Tensors by name. Headers are checked on opening; data is mapped from the file only when it is read."""

    def __init__(self, tensors: Mapping[str, _Stored]) -> None:
        self._tensors = tensors
        self._mapped_files: dict[Path, MappedFile] = {}

    @classmethod
    def open(cls, directory: Path) -> Weights:
        """The weights of a checkpoint directory: `model.safetensors`, or the shards that the index lists.

        A LeRobot-saved checkpoint holds every name under one more leading `model.`, which is dropped here.

        Raises:
            CheckpointError: A file is missing or damaged, or the index does not fit its files or leaves the directory.
        """
        single, index = directory / SINGLE_FILE, directory / INDEX_FILE
        if single.exists():
            stored = [_Stored(single, name, entry) for name, entry in read_header(single).items()]
        elif index.exists():
            stored = _stored_by_index(directory, index)
        else:
            raise CheckpointError(
                f"{directory}: expected {SINGLE_FILE}, or {INDEX_FILE} with its shards; neither is there"
            )
        if not stored:
            raise CheckpointError(f"{directory}: the weights hold no tensor")
        from_lerobot = any(one.name.startswith("model.model.") for one in stored)
        tensors = {one.name.removeprefix("model.") if from_lerobot else one.name: one for one in stored}
        if len(tensors) != len(stored):
            raise CheckpointError(
                f"{directory}: tensors stand there both with and without the leading `model.`"
            )
        return cls(tensors)

    def names(self) -> list[str]:
        return list(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError for a tensor that is not there."""
        return self._stored(name).entry.shape

    def dtype(self, name: str) -> torch.dtype:
        """Raises CheckpointError for a tensor that is not there, or of a dtype other than fp32, bf16 and fp16."""
        stored = self._stored(name)
        if stored.entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"{stored.path}: tensor {stored.name!r} has the unsupported dtype {stored.entry.dtype}; "
                f"supported are {', '.join(_DTYPES)}"
            )
        return _DTYPES[stored.entry.dtype]

    def read(self, name: str) -> torch.Tensor:
        """The tensor on the CPU, as a view of the mapped file: no copy, and not to be written to.

        Raises:
            CheckpointError: The tensor is not there or of an unsupported dtype, or its file cannot be mapped.
        """
        dtype = self.dtype(name)
        stored = self._stored(name)
        return self._mapped(stored.path).tensor(stored.entry, dtype)

    def release(self, name: str) -> None:
        """Give the pages of a tensor that was read back to the system; views of it stay usable, but slow."""
        stored = self._stored(name)
        self._mapped(stored.path).release(stored.entry)

    def _mapped(self, path: Path) -> MappedFile:
        if path not in self._mapped_files:
            self._mapped_files[path] = MappedFile(path)
        return self._mapped_files[path]

    def _stored(self, name: str) -> _Stored:
        stored = self._tensors.get(name)
        if stored is None:
            raise CheckpointError(
                f"tensor {name!r} is missing from the checkpoint's weights; the configuration asks for it. "
                "The checkpoint is incomplete, or its config.json belongs to another"
            )
        return stored


def _stored_by_index(directory: Path, index: Path) -> list[_Stored]:
    weight_map = Section(read_json(index), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a `weight_map` from tensor names to files")
    shards: dict[str, Path] = {}
    for file_name in weight_map.values():
        if isinstance(file_name, str) and file_name in shards:
            continue
        if not isinstance(file_name, str) or Path(file_name).name != file_name or "\\" in file_name:
            raise CheckpointError(f"{index}: expected names of files beside the index, got {file_name!r}")
        shard = directory / file_name
        if not shard.exists():
            raise CheckpointError(
                f"{shard}: shard is missing, {INDEX_FILE} lists it; download the checkpoint again"
            )
        if not any(shard.resolve().is_relative_to(root) for root in _allowed_roots(directory)):
            raise CheckpointError(
                f"{shard}: is a link that leaves the checkpoint directory to {shard.resolve()}"
            )
        shards[file_name] = shard
    headers = {file_name: read_header(shard) for file_name, shard in shards.items()}
    for name, file_name in weight_map.items():
        if name not in headers[file_name]:
            raise CheckpointError(
                f"{shards[file_name]}: tensor {name!r} is missing, {INDEX_FILE} says that it is here"
            )
    return [
        _Stored(shards[file_name], name, headers[file_name][name]) for name, file_name in weight_map.items()
    ]


def _allowed_roots(directory: Path) -> list[Path]:
    """The directory; for a snapshot in the Hub's cache also the folder of blobs that its links point to."""
    directory = directory.resolve()
    roots = [directory]
    if directory.parent.name == "snapshots":
        roots.append(directory.parent.parent / "blobs")
    return roots
