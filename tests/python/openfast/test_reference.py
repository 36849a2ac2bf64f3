"""The codec against the public vectors: ids exactly, chunks to double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.openfast import OpenFast

_REFERENCE = Path(__file__).parents[2] / "reference"
_FOLDERS = sorted(path.parent.name for path in _REFERENCE.glob("openfast-*/vectors.npz"))
# The one malformed row that decodes all the same: reversed tokens that happen to have the right length.
_VALID_MALFORMED_ROW = 3


def test_every_folder_is_tested() -> None:
    assert _FOLDERS == ["openfast-2048", "openfast-tiny"]


@pytest.fixture(scope="module", params=_FOLDERS)
def case(request: pytest.FixtureRequest) -> tuple[OpenFast, dict[str, Any]]:
    folder = _REFERENCE / request.param
    with np.load(folder / "vectors.npz") as vectors:
        return OpenFast.from_pretrained(folder), dict(vectors)


def test_encode_gives_the_public_ids(case: tuple[OpenFast, dict[str, Any]]) -> None:
    fast, vectors = case
    for actions, tokens in zip(vectors["actions"], vectors["tokens"], strict=True):
        assert fast.encode(actions) == tokens[tokens >= 0].tolist()


def test_decode_gives_the_public_chunks(case: tuple[OpenFast, dict[str, Any]]) -> None:
    fast, vectors = case
    for tokens, decoded in zip(vectors["tokens"], vectors["decoded"], strict=True):
        chunk, valid = fast.decode(tokens[tokens >= 0].tolist(), *decoded.shape)
        assert valid
        np.testing.assert_allclose(chunk, decoded, rtol=0, atol=1e-13)


def test_malformed_rows_are_invalid_and_empty(case: tuple[OpenFast, dict[str, Any]]) -> None:
    fast, vectors = case
    for row, (tokens, decoded) in enumerate(
        zip(vectors["malformed_tokens"], vectors["malformed_decoded"], strict=True)
    ):
        chunk, valid = fast.decode(tokens[tokens >= 0], *decoded.shape)
        assert valid == (row == _VALID_MALFORMED_ROW) == decoded.any()
        if valid:
            np.testing.assert_allclose(chunk, decoded, rtol=0, atol=1e-13)
        else:
            assert chunk.shape == (0, decoded.shape[1])


def test_saved_files_read_back_the_same(case: tuple[OpenFast, dict[str, Any]], tmp_path: Path) -> None:
    fast, vectors = case
    fast.save(tmp_path / "new" / "folder")
    again = OpenFast.from_pretrained(tmp_path / "new" / "folder")
    assert (again.vocab_size, again.scale, again.min_token) == (fast.vocab_size, fast.scale, fast.min_token)
    assert again.encode(vectors["actions"][0]) == fast.encode(vectors["actions"][0])
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
