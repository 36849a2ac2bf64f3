"""Greedy decoding of discrete action tokens behind a prefilled cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from molmoact2_edge.model.decoder import Decoder, Hidden, KeyValueCache


@dataclass(frozen=True, slots=True)
class Generated:
    """A generation: vocabulary ids, and whether its end token came before the limit."""

    token_ids: list[int]
    complete: bool


def feed(
    decoder: Decoder, cache: KeyValueCache, token_ids: Sequence[int], hidden: Hidden = "last"
) -> Tensor | None:
    """Append tokens to the cache; return what :meth:`Decoder.forward` gives for ``hidden``."""
    ids = torch.tensor([list(token_ids)], device=cache.keys.device)
    return decoder.forward(decoder.embed(ids), cache, hidden=hidden)


def generate(decoder: Decoder, cache: KeyValueCache, hidden: Tensor, *, end: int, limit: int) -> Generated:
    """Generate greedily from ``hidden`` (1, width), the state of the last position, until ``end`` or ``limit``."""
    token_ids: list[int] = []
    while len(token_ids) < limit:
        token = int(decoder.logits(hidden).argmax())
        token_ids.append(token)
        if token == end:
            return Generated(token_ids, True)
        if len(token_ids) < limit:
            state = feed(decoder, cache, [token])
            assert state is not None
            hidden = state
    return Generated(token_ids, False)
