"""Greedy decoding of discrete action tokens behind a prefilled prompt."""

from __future__ import annotations

from dataclasses import dataclass

from molmoact2_edge.model.decoding import Decoding


@dataclass(frozen=True, slots=True)
class Generated:
    """A generation: vocabulary ids, and whether its end token came before the limit."""

    token_ids: list[int]
    complete: bool


def generate(decoding: Decoding, *, end: int, limit: int) -> Generated:
    """Generate greedily from the last row's state until ``end`` or ``limit``."""
    token_ids: list[int] = []
    while len(token_ids) < limit:
        token = decoding.token()
        token_ids.append(token)
        if token == end:
            return Generated(token_ids, True)
        if len(token_ids) < limit:
            decoding.feed([token])
    return Generated(token_ids, False)
