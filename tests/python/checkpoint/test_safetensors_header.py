"""Damaged safetensors files: every one is a CheckpointError, whatever the damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from molmoact2_edge.checkpoint.safetensors_header import read_header
from molmoact2_edge.errors import CheckpointError

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(5, dtype=torch.bfloat16),
    "c": torch.zeros(2, 0),
}
INTACT = save(TENSORS)


def file_of(header: object, data: bytes, announced: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if announced is None else announced).to_bytes(8, "little") + raw + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_intact_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: (one.dtype, one.shape) for name, one in header.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (5,)),
        "c": ("F32", (2, 0)),
    }
    raw = path.read_bytes()
    assert torch.frombuffer(bytearray(raw[header["a"].begin : header["a"].end]), dtype=torch.float32).tolist() == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "truncated"),
    "half a length": (b"\x10\0\0", "truncated"),
    "length beyond the file": (file_of({}, b"", announced=1000), "truncated"),
    "length of 2**63": (file_of({}, b"", announced=2**63), "truncated"),
    "not JSON": (file_of(b"{oops", b""), "damaged"),
    "not UTF-8": (file_of(b'{"\xff": 1}', b""), "damaged"),
    "not an object": (file_of([1], b""), "object"),
    "deeply nested": (file_of(b"[" * 200_000, b""), "damaged"),
    "a name twice": (file_of(b'{"a": 1, "a": 2}', b""), "twice"),
    "entry not an object": (file_of({"a": 3}, b""), "'a'"),
    "unknown dtype": (file_of({"a": entry(dtype="F7")}, bytes(8)), "F7"),
    "dtype not text": (file_of({"a": entry(dtype=["F32"])}, bytes(8)), "dtype"),
    "negative size": (file_of({"a": entry(shape=(-2,))}, bytes(8)), "shape"),
    "size as a fraction": (file_of({"a": entry(shape=(2.0,))}, bytes(8)), "shape"),
    "size true": (file_of({"a": entry(shape=(True, 2))}, bytes(8)), "shape"),
    "shape missing": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "shape"),
    "one offset": (file_of({"a": entry(offsets=(0,))}, bytes(8)), "data_offsets"),
    "offsets reversed": (file_of({"a": entry(offsets=(8, 0))}, bytes(8)), "data_offsets"),
    "size does not fit offsets": (file_of({"a": entry(shape=(3,))}, bytes(8)), "'a'"),
    "huge shape": (file_of({"a": entry(shape=(2**40, 2**40))}, bytes(8)), "'a'"),
    "data cut off": (file_of({"a": entry()}, bytes(7)), "truncated.*'a'"),
    "data too long": (file_of({"a": entry()}, bytes(9)), "damaged"),
    "gap": (file_of({"a": entry(offsets=(4, 12))}, bytes(12)), "'a'"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    raw, message = DAMAGED[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert "model.safetensors" in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="could not be read"):
        read_header(tmp_path)


@given(cut=st.integers(0, len(INTACT) - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_truncation_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(INTACT[:cut])
    with pytest.raises(CheckpointError):
        read_header(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    dtype=st.sampled_from(["F32", "BF16", "BOOL"]) | json_values,
    shape=st.lists(st.integers(-1, 4), max_size=3) | json_values,
    offsets=st.lists(st.integers(-1, 40), min_size=1, max_size=3) | json_values,
    data=st.binary(max_size=40),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_refused_or_describes_the_file(
    dtype: Any, shape: Any, offsets: Any, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "any.safetensors"
    raw = file_of({"a": entry(dtype, shape, offsets)}, data)
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    (only,) = header.values()
    assert only.end == len(raw)
    assert only.end - only.begin == len(data)


@given(position=st.integers(0, len(INTACT) - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_never_escapes_the_file(position: int, value: int, tmp_path: Path) -> None:
    raw = bytearray(INTACT)
    raw[position] = value
    path = tmp_path / "changed.safetensors"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert all(0 <= one.begin <= one.end <= len(raw) for one in header.values())
