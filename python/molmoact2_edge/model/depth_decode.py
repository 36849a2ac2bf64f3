"""Decoding MolmoAct2-Think's depth map: one code a cell, behind a prefilled cache.

The plain way is one forward a cell. Here every forward also tries a guess of what comes next: its states show for each
guessed cell what the decoder would have said there, and everything up to the first disagreement stands. The codes are
those of the plain way, in fewer forwards. The guess is the frame before where there is one (then there are as many
forwards as disagreements, plus one), else what followed the last time that the map looked like this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.decoding import Decoding
from molmoact2_edge.types import BoolArray, IntArray

# Cells that a forward tries beyond the known one. A few rows more cost a forward little.
LOOK_AHEAD = 8


@dataclass(frozen=True, slots=True)
class DepthDecode:
    """Codes of all cells and every token that was fed after the prompt.

    ``complete`` is false when no end token came before the limit; ``forwards`` counts passes through the decoder. The
    last token is the last row of what was fed.
    """

    codes: list[int]
    token_ids: list[int]
    complete: bool
    forwards: int


@dataclass(frozen=True, slots=True)
class DepthTokens:
    """The vocabulary ids of a Think checkpoint: markers, and the first of ``codes`` consecutive code ids."""

    start: int
    end: int
    first: int
    codes: int
    cells: int

    @classmethod
    def of(cls, config: ModelConfig) -> DepthTokens:
        start, end, first = (
            config.depth_start_token_id,
            config.depth_end_token_id,
            config.depth_token_start_id,
        )
        assert start is not None
        assert end is not None
        assert first is not None
        return cls(start, end, first, config.num_depth_tokens, config.num_depth_codes)


def decode_depth(decoding: Decoding, tokens: DepthTokens, *, closing_limit: int) -> DepthDecode:
    """Decode every cell without an earlier frame.

    After the last cell the full vocabulary decides, until the end token has been fed or ``closing_limit`` tokens were.
    """
    decoding.feed([tokens.start])
    codes = decoding.codes()
    forwards = 1
    while True:
        guess = continuation(codes, min(LOOK_AHEAD, tokens.cells - len(codes)))
        decoding.feed([tokens.first + code for code in (codes[-1], *guess)])
        forwards += 1
        said = decoding.codes()
        agreed = next((i for i, code in enumerate(guess) if code != said[i]), len(guess))
        codes += guess[:agreed]
        decoding.keep(1 + len(codes))
        if len(codes) == tokens.cells:
            fed = [tokens.start, *(tokens.first + code for code in codes)]
            return _close(decoding, tokens, codes, fed, agreed, closing_limit, forwards)
        codes.append(said[agreed])


def continuation(codes: list[int], count: int) -> list[int]:
    """Guess the next ``count`` codes: what followed the latest earlier place that ends in the same codes."""
    for length in (3, 2, 1):
        for place in range(len(codes) - length - 1, -1, -1):
            if codes[place : place + length] == codes[-length:]:
                known = list(codes)
                for i in range(count):
                    known.append(known[place + length + i])
                return known[len(codes) :]
    return codes[-1:] * count


def decode_depth_from_draft(
    decoding: Decoding,
    tokens: DepthTokens,
    *,
    draft: IntArray,
    changed: BoolArray,
    closing_limit: int,
) -> DepthDecode:
    """Decode the changed cells and replay the others, both checked and fed in as few forwards as possible.

    ``draft``: (cells,) codes of the frame before, replayed as they are where ``changed`` is false and tried first
    where it is true. The codes equal those of deciding each changed cell in turn.
    """
    codes = draft.astype(np.int64)
    guess = [tokens.start, *(codes + tokens.first).tolist(), tokens.end]
    position = 0
    forwards = 0
    while True:
        decoding.feed(guess[position:])
        forwards += 1
        if not changed[position:].any():
            break
        # The state of guess[i] decides cell i; the last two belong to the final cell and to the end token.
        said = np.asarray(decoding.codes()[: tokens.cells - position])
        differs = np.flatnonzero((said != codes[position:]) & changed[position:])
        if len(differs) == 0:
            break
        wrong = int(differs[0])
        position += wrong + 1
        codes[position - 1] = said[wrong]
        guess[position] = tokens.first + int(said[wrong])
        decoding.keep(position)
    if decoding.token(-2) == tokens.end:
        return DepthDecode(codes.tolist(), guess, True, forwards)
    decoding.keep(tokens.cells + 1)
    return _close(decoding, tokens, codes.tolist(), guess[:-1], -2, closing_limit, forwards)


def _close(
    decoding: Decoding,
    tokens: DepthTokens,
    codes: list[int],
    fed: list[int],
    row: int,
    limit: int,
    forwards: int,
) -> DepthDecode:
    """Feed what the full vocabulary says from ``row`` on, until the end token has been fed."""
    for _ in range(limit):
        fed = [*fed, decoding.token(row)]
        decoding.feed(fed[-1:])
        row = -1
        forwards += 1
        if fed[-1] == tokens.end:
            return DepthDecode(codes, fed, True, forwards)
    return DepthDecode(codes, fed, False, forwards)
