"""Decoding MolmoAct2-Think's depth map: one code a cell, behind a prefilled cache.

The plain way is one forward a cell. Here every forward also tries a guess of what comes next: its states show for each
guessed cell what the decoder would have said there, and everything up to the first disagreement stands. The codes are
those of the plain way, in fewer forwards. The guess is the frame before where there is one (then there are as many
forwards as disagreements, plus one), else what followed the last time that the map looked like this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.decoder import Decoder, KeyValueCache
from molmoact2_edge.model.generate import feed
from molmoact2_edge.types import BoolArray, IntArray

# Cells that a forward tries beyond the known one. A few rows more cost a forward little.
_LOOK_AHEAD = 8


@dataclass(frozen=True, slots=True)
class DepthDecode:
    """Codes of all cells and every token that was fed after the prompt.

    ``complete`` is false when no end token came before the limit; ``hidden`` is the decoder's state at the last fed
    token, (1, width); ``forwards`` counts passes through the decoder.
    """

    codes: list[int]
    token_ids: list[int]
    complete: bool
    hidden: Tensor
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

    def best_codes(self, decoder: Decoder, hidden: Tensor) -> Tensor:
        """Return the greedy code of each state (n, width): the argmax over the code rows only."""
        return decoder.logits(hidden, self.first, self.first + self.codes).argmax(dim=-1)


def decode_depth(
    decoder: Decoder, cache: KeyValueCache, tokens: DepthTokens, *, closing_limit: int
) -> DepthDecode:
    """Decode every cell without an earlier frame.

    After the last cell the full vocabulary decides, until the end token has been fed or ``closing_limit`` tokens were.
    """
    begin = cache.length
    codes = [int(tokens.best_codes(decoder, _feed_last(decoder, cache, tokens.start)))]
    forwards = 1
    while True:
        guess = continuation(codes, min(_LOOK_AHEAD, tokens.cells - len(codes)))
        states = feed(decoder, cache, [tokens.first + code for code in (codes[-1], *guess)], hidden="all")
        assert states is not None
        forwards += 1
        said = tokens.best_codes(decoder, states[0]).tolist()
        agreed = next((i for i, code in enumerate(guess) if code != said[i]), len(guess))
        codes += guess[:agreed]
        cache.truncate(begin + 1 + len(codes))
        if len(codes) == tokens.cells:
            fed = [tokens.start, *(tokens.first + code for code in codes)]
            state = states[0, agreed : agreed + 1]
            return _close(decoder, cache, tokens, codes, fed, state, closing_limit, forwards)
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
    decoder: Decoder,
    cache: KeyValueCache,
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
    begin = cache.length
    guess = [tokens.start, *(draft + tokens.first).tolist(), tokens.end]
    decide = torch.from_numpy(changed).to(cache.keys.device)
    position = 0
    forwards = 0
    while True:
        states = feed(decoder, cache, guess[position:], hidden="all")
        assert states is not None
        states = states[0]
        forwards += 1
        # The state of guess[i] decides cell i; the last two belong to the final cell and to the end token.
        cells = slice(position, tokens.cells)
        said = tokens.best_codes(decoder, states[: tokens.cells - position])
        tried = torch.tensor(guess[position + 1 : -1], device=said.device) - tokens.first
        differs = ((said != tried) & decide[cells]).nonzero()
        if len(differs) == 0:
            break
        wrong = int(differs[0])
        cell = position + wrong
        guess[cell + 1] = tokens.first + int(said[wrong])
        position = cell + 1
        cache.truncate(begin + position)
    codes = [token - tokens.first for token in guess[1:-1]]
    if int(decoder.logits(states[-2]).argmax()) == tokens.end:
        return DepthDecode(codes, guess, True, states[-1:], forwards)
    cache.truncate(begin + tokens.cells + 1)
    return _close(decoder, cache, tokens, codes, guess[:-1], states[-2:-1], closing_limit, forwards)


def _close(
    decoder: Decoder,
    cache: KeyValueCache,
    tokens: DepthTokens,
    codes: list[int],
    fed: list[int],
    state: Tensor,
    limit: int,
    forwards: int,
) -> DepthDecode:
    """Feed what the full vocabulary says from ``state`` on, until the end token has been fed."""
    for _ in range(limit):
        fed = [*fed, int(decoder.logits(state).argmax())]
        state = _feed_last(decoder, cache, fed[-1])
        forwards += 1
        if fed[-1] == tokens.end:
            return DepthDecode(codes, fed, True, state, forwards)
    return DepthDecode(codes, fed, False, state, forwards)


def _feed_last(decoder: Decoder, cache: KeyValueCache, token: int) -> Tensor:
    state = feed(decoder, cache, [token])
    assert state is not None
    return state
