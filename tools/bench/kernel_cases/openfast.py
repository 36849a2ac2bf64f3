"""OpenFAST tokens to a chunk of actions, against tokenizers and scipy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from kernel_cases.comparison import REFERENCE, Comparison, Computed, stream_handle
from molmoact2_edge import _core
from molmoact2_edge.openfast import OpenFast

FOLDERS = ("openfast-2048", "openfast-tiny")


def cpu() -> Iterator[Comparison]:
    """All sequences of the public vectors of a tokenizer, one after another."""
    for name in FOLDERS:
        codec, tokens, (steps, dims) = _vectors(REFERENCE / name)

        def ours(
            codec: OpenFast = codec, tokens: list[list[int]] = tokens, shape: tuple[int, int] = (steps, dims)
        ) -> list[NDArray[np.float64]]:
            return [codec.decode(ids, *shape)[0] for ids in tokens]

        yield _comparison(f"openfast-decode-{name}", ours, REFERENCE / name, tokens, (steps, dims))


def cuda(device: torch.device) -> Iterator[Comparison]:
    """One sequence that is on the device already; what it is compared with would have to fetch it first."""
    for name in FOLDERS:
        codec, sequences, (steps, dims) = _vectors(REFERENCE / name)
        decoder = _core.cuda.OpenFastDecoder(codec._codec, steps=steps, dims=dims, device=device.index or 0)
        tokens = torch.tensor(sequences[0], dtype=torch.int64, device=device)
        count = torch.tensor([len(sequences[0])], dtype=torch.int32, device=device)
        chunk = torch.empty(1, steps, dims, dtype=torch.float64, device=device)
        status = torch.empty(1, dtype=torch.int32, device=device)

        def ours(
            decoder: _core.cuda.OpenFastDecoder = decoder,
            arrays: tuple[Tensor, ...] = (tokens, count, chunk, status),
        ) -> Tensor:
            tokens, count, chunk, status = arrays
            decoder.decode(tokens, count, chunk[0], status, stream=stream_handle())
            return chunk

        yield _comparison(
            f"openfast-decode-{name}", ours, REFERENCE / name, sequences[:1], (steps, dims), on_host=True
        )


def _comparison(
    name: str,
    ours: Callable[[], Computed],
    folder: Path,
    tokens: list[list[int]],
    shape: tuple[int, int],
    *,
    on_host: bool = False,
) -> Comparison:
    from scipy.fft import idct

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "processor_config.json").read_text())
    scale, min_token = settings["scale"], settings["min_token"]

    def plain() -> list[NDArray[np.float64]]:
        chunks = []
        for ids in tokens:
            codes = np.array(list(map(ord, tokenizer.decode(ids)))) + min_token
            chunks.append(idct(codes.reshape(-1, shape[1]) / scale, axis=0, norm="ortho"))
        return chunks

    return Comparison(
        name,
        {
            "sequences": len(tokens),
            "tokens": sum(map(len, tokens)),
            "steps": shape[0],
            "dims": shape[1],
            "vocabulary": settings["vocab_size"],
        },
        "tokenizers and scipy, as the public code does it",
        ours,
        plain,
        tolerance=1e-12,
        baseline_on_host=on_host,
    )


def _vectors(folder: Path) -> tuple[OpenFast, list[list[int]], tuple[int, int]]:
    with np.load(folder / "vectors.npz") as vectors:
        tokens = [row[row >= 0].tolist() for row in vectors["tokens"]]
        _, steps, dims = vectors["decoded"].shape
    return OpenFast.from_pretrained(folder), tokens, (steps, dims)
