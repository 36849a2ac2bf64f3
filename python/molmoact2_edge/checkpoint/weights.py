"""A checkpoint's tensors: one safetensors file or shards, memory-mapped, under the names of Ai2's releases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from molmoact2_edge.checkpoint.json_section import Section, read_json
from molmoact2_edge.checkpoint.mapped_file import MappedFile
from molmoact2_edge.checkpoint.safetensors_header import TensorEntry, data_start, read_header
from molmoact2_edge.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Weights:
    """Tensors by name. Headers are checked on opening; data is mapped from the file only when it is read."""

    def __init__(self, files: Mapping[str, Path], stored_names: Mapping[str, str]) -> None:
        """`files` maps each stored name to its file, `stored_names` each public name to the stored one."""
        headers = {path: read_header(path) for path in set(files.values())}
        self._stored_names = stored_names
        self._files = files
        self._entries: dict[str, TensorEntry] = {}
        for name, stored in stored_names.items():
            header = headers[files[stored]]
            if stored not in header:
                raise CheckpointError(
                    f"{files[stored]}: tensor {stored!r} is listed in {INDEX_FILE}, but the file does not hold it"
                )
            self._entries[name] = header[stored]
        self._mapped: dict[Path, MappedFile] = {}

    @classmethod
    def open(cls, directory: Path) -> Weights:
        """The weights of a checkpoint directory: `model.safetensors`, or the shards that the index lists.

        A LeRobot-saved checkpoint holds every name under one more leading `model.`, which is dropped here.

        Raises:
            CheckpointError: A file is missing or damaged, or the index does not fit the files or leaves the directory.
        """
        single, index = directory / SINGLE_FILE, directory / INDEX_FILE
        if single.exists():
            files = dict.fromkeys(read_header(single), single)
        elif index.exists():
            files = _files_of_index(directory, index)
        else:
            raise CheckpointError(
                f"{directory}: expected {SINGLE_FILE}, or {INDEX_FILE} with its shards; neither is there"
            )
        if not files:
            raise CheckpointError(f"{directory}: the weights hold no tensor")
        from_lerobot = any(name.startswith("model.model.") for name in files)
        stored_names = {name.removeprefix("model.") if from_lerobot else name: name for name in files}
        if len(stored_names) != len(files):
            raise CheckpointError(
                f"{directory}: tensors stand there both with and without the leading `model.`"
            )
        return cls(files, stored_names)

    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError for a tensor that is not there."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Raises CheckpointError for a tensor that is not there, or of a dtype other than fp32, bf16 and fp16."""
        stored = self._entry(name).dtype
        if stored not in _DTYPES:
            raise CheckpointError(
                f"{self.file_of(name)}: tensor {name!r} has the unsupported dtype {stored}; "
                f"supported are {', '.join(_DTYPES)}"
            )
        return _DTYPES[stored]

    def file_of(self, name: str) -> Path:
        self._entry(name)
        return self._files[self._stored_names[name]]

    def read(self, name: str) -> torch.Tensor:
        """The tensor on the CPU, as a view of the mapped file: no copy, and not to be written to.

        Raises:
            CheckpointError: The tensor is not there or of an unsupported dtype, or its file cannot be mapped.
        """
        return self._file(name).tensor(self._entry(name), self.dtype(name))

    def release(self, name: str) -> None:
        """Give the pages of a tensor that was read back to the system; views of it stay usable, but slow."""
        self._file(name).release(self._entry(name))

    def _file(self, name: str) -> MappedFile:
        path = self.file_of(name)
        if path not in self._mapped:
            self._mapped[path] = MappedFile(path, data_start(path))
        return self._mapped[path]

    def _entry(self, name: str) -> TensorEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(
                f"tensor {name!r} is missing from the checkpoint's weights; the configuration asks for it. "
                "The checkpoint is incomplete, or its config.json belongs to another"
            )
        return entry


def _files_of_index(directory: Path, index: Path) -> dict[str, Path]:
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
    return {tensor: shards[file_name] for tensor, file_name in weight_map.items()}


def _allowed_roots(directory: Path) -> list[Path]:
    """The directory; for a snapshot in the Hub's cache also the folder of blobs that its links point to."""
    directory = directory.resolve()
    roots = [directory]
    if directory.parent.name == "snapshots":
        roots.append(directory.parent.parent / "blobs")
    return roots
