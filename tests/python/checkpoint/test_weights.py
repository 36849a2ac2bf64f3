"""Reading tensors: layouts, dtypes, damage, and that nothing is copied."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact2_edge.checkpoint import Weights
from molmoact2_edge.checkpoint.weights import INDEX_FILE, SINGLE_FILE
from molmoact2_edge.errors import CheckpointError

TENSORS = {
    "model.first.weight": torch.arange(6.0).view(2, 3),
    "model.second.weight": torch.arange(5).to(torch.bfloat16),
    "lm_head.weight": torch.arange(4).to(torch.float16).view(4, 1),
}


def write_shards(directory: Path, tensors: dict[str, torch.Tensor] = TENSORS) -> dict[str, str]:
    """One file per tensor and their index."""
    weight_map = {
        name: f"model-{i + 1:05d}-of-{len(tensors):05d}.safetensors" for i, name in enumerate(tensors)
    }
    for name, file_name in weight_map.items():
        save_file({name: tensors[name]}, directory / file_name)
    write_index(directory, weight_map)
    return weight_map


def write_index(directory: Path, weight_map: object) -> None:
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def check(weights: Weights) -> None:
    assert set(weights.names()) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert name in weights
        assert weights.shape(name) == tuple(expected.shape)
        assert weights.dtype(name) == expected.dtype
        read = weights.read(name)
        assert read.dtype == expected.dtype
        assert torch.equal(read, expected)
        weights.release(name)
        assert torch.equal(read, expected), "released pages come back from the file"


def test_single_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    check(Weights.open(tmp_path))


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    check(Weights.open(tmp_path))


@pytest.mark.parametrize("sharded", [False, True])
def test_lerobot_names_lose_their_extra_prefix(sharded: bool, tmp_path: Path) -> None:
    saved = {f"model.{name}": tensor for name, tensor in TENSORS.items()}
    if sharded:
        write_shards(tmp_path, saved)
    else:
        save_file(saved, tmp_path / SINGLE_FILE)
    check(Weights.open(tmp_path))


def test_reference_checkpoint_equals_the_library(reference: Path) -> None:
    weights = Weights.open(reference / "tiny-base")
    expected = load_file(reference / "tiny-base" / SINGLE_FILE)
    assert set(weights.names()) == set(expected)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in expected.items())


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    weights = Weights.open(tmp_path)
    for use in (weights.shape, weights.dtype, weights.read):
        with pytest.raises(CheckpointError, match=r"model\.third\.weight"):
            use("model.third.weight")


def test_unsupported_dtype_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(2)}, tmp_path / SINGLE_FILE)
    weights = Weights.open(tmp_path)
    assert weights.read("b").tolist() == [0, 0]
    with pytest.raises(CheckpointError, match=r"'a'.*I64.*F32, BF16, F16"):
        weights.read("a")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Weights.open(tmp_path)
    save_file({}, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match="no tensor"):
        Weights.open(tmp_path)


def test_names_with_and_without_prefix(tmp_path: Path) -> None:
    save_file(
        {"model.model.a": torch.zeros(1), "model.b": torch.zeros(1), "b": torch.zeros(1)},
        tmp_path / SINGLE_FILE,
    )
    with pytest.raises(CheckpointError, match="both"):
        Weights.open(tmp_path)


def test_missing_and_truncated_shard(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path)
    shard = tmp_path / weight_map["lm_head.weight"]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{shard.name}.*lm_head.weight"):
        Weights.open(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}.*missing"):
        Weights.open(tmp_path)


def test_tensor_that_only_the_index_knows(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path)
    write_index(tmp_path, {**weight_map, "model.ghost": weight_map["lm_head.weight"]})
    with pytest.raises(CheckpointError, match=r"model\.ghost"):
        Weights.open(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 3}, {"a": ["b"]}])
def test_damaged_index(weight_map: object, tmp_path: Path) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Weights.open(tmp_path)


def _absolute(outside: Path, inside: Path) -> str:
    return str(outside)


def _upward(outside: Path, inside: Path) -> str:
    return f"../{outside.name}"


def _link(outside: Path, inside: Path) -> str:
    (inside / "link.safetensors").symlink_to(outside)
    return "link.safetensors"


@pytest.mark.parametrize("way_out", [_absolute, _upward, _link])
def test_index_must_not_leave_the_directory(way_out: Callable[[Path, Path], str], tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.safetensors", tmp_path / "checkpoint"
    inside.mkdir()
    save_file({"a": torch.zeros(1)}, outside)
    write_index(inside, {"a": way_out(outside, inside)})
    with pytest.raises(CheckpointError, match=r"beside the index|leaves"):
        Weights.open(inside)


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    """The Hub's client keeps files as blobs and links to them from the snapshot."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1234", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    weight_map = write_shards(snapshot)
    for file_name in weight_map.values():
        (snapshot / file_name).rename(blobs / f"blob-{file_name}")
        (snapshot / file_name).symlink_to(f"../../blobs/blob-{file_name}")
    check(Weights.open(snapshot))


def _anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    pytest.skip("this system does not tell anonymous memory")


def test_reading_copies_nothing(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {f"t{i}": torch.ones(4 << 20) for i in range(4)}
    save_file(tensors, tmp_path / SINGLE_FILE)
    del tensors
    weights = Weights.open(tmp_path)
    before = _anonymous_kib()
    views = [weights.read(name) for name in weights.names()]
    assert sum(float(view.sum(dtype=torch.float64)) for view in views) == 4 * (4 << 20)
    # 64 MiB were read; a copy of a single tensor would be 16 MiB.
    assert _anonymous_kib() - before < 8 << 10


def test_writing_to_a_view_does_not_change_the_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    before = (tmp_path / SINGLE_FILE).read_bytes()
    Weights.open(tmp_path).read("model.first.weight").fill_(9)
    assert (tmp_path / SINGLE_FILE).read_bytes() == before


def test_a_checkpoint_can_be_loaded_where_memory_is_locked(reference: Path) -> None:
    program = (
        "import ctypes, sys\n"
        "from pathlib import Path\n"
        "from molmoact2_edge.checkpoint.weights import Weights\n"
        "if ctypes.CDLL(None).mlockall(7) != 0:  # present and future pages, as they are first used\n"
        "    sys.exit(77)\n"
        "weights = Weights.open(Path(sys.argv[1]))\n"
        "for name in weights.names():\n"
        "    weights.read(name)\n"
        "    weights.release(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(reference / "tiny-base")], check=False)
    if done.returncode == 77:
        pytest.skip("this user may not lock memory")
    assert done.returncode == 0
