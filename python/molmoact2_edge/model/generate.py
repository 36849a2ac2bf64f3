"""Greedy decoding behind a prefilled cache: discrete action tokens, and MolmoAct2-Think's depth codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.decoder import Decoder, KeyValueCache


@dataclass(frozen=True, slots=True)
class Generated:
    """A generation: vocabulary ids, and whether its end token came before the limit."""

    token_ids: list[int]
    complete: bool


@dataclass(frozen=True, slots=True)
class DepthDecode:
    """Depth codes of all cells, every token that was fed, and whether the end token came before the limit.

    ``hidden`` is the decoder's state at the last fed token, (1, width), or None when the caller did not want it.
    """

    codes: list[int]
    token_ids: list[int]
    complete: bool
    hidden: Tensor | None


def feed(
    decoder: Decoder, cache: KeyValueCache, token_ids: Sequence[int], *, hidden: bool = True
) -> Tensor | None:
    """Append tokens to the cache; return the last hidden state (1, width) when wanted."""
    ids = torch.tensor([list(token_ids)], device=cache.keys.device)
    return decoder.forward(decoder.embed(ids), cache, hidden="last" if hidden else "none")


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


def runs(update: Sequence[bool]) -> list[tuple[bool, int, int]]:
    """Split a mask into runs of equal value: (value, start, stop)."""
    out: list[tuple[bool, int, int]] = []
    start = 0
    for i in range(1, len(update) + 1):
        if i == len(update) or update[i] != update[start]:
            out.append((update[start], start, i))
            start = i
    return out


def decode_depth(
    decoder: Decoder,
    cache: KeyValueCache,
    config: ModelConfig,
    *,
    update: Sequence[bool] | None,
    previous: Sequence[int] | None,
    closing_limit: int,
    hidden: bool,
) -> DepthDecode:
    """Decode the depth map cell by cell, replaying runs of unchanged cells from ``previous`` in one forward each.

    ``update``: True where a cell changed, None when all are decoded; ``previous``: the codes of the frame before.
    The full vocabulary decides what follows the last cell, until the end token has been fed or ``closing_limit``
    tokens were; the expert then reads the cache of everything fed.
    """
    start, end, first = config.depth_start_token_id, config.depth_end_token_id, config.depth_token_start_id
    assert start is not None
    assert end is not None
    assert first is not None
    codes: list[int] = []
    token_ids = [start]
    state = feed(decoder, cache, [start])
    for changed, begin, stop in runs(update if update is not None else [True] * config.num_depth_codes):
        if changed:
            for _ in range(begin, stop):
                assert state is not None
                code = int(decoder.logits(state, first, first + config.num_depth_tokens).argmax())
                codes.append(code)
                token_ids.append(first + code)
                state = feed(decoder, cache, [first + code])
        else:
            assert previous is not None
            replayed = [first + code for code in previous[begin:stop]]
            codes.extend(previous[begin:stop])
            token_ids.extend(replayed)
            state = feed(decoder, cache, replayed)
    for _ in range(closing_limit):
        assert state is not None
        token = int(decoder.logits(state).argmax())
        token_ids.append(token)
        finished = token == end
        state = feed(decoder, cache, [token], hidden=hidden or not finished)
        if finished:
            return DepthDecode(codes, token_ids, True, state)
    return DepthDecode(codes, token_ids, False, state)
