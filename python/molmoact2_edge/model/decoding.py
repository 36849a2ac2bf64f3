"""Feeding tokens behind a prefilled prompt, a run at a time, and asking what the decoder would say next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from molmoact2_edge.model.decoder import Decoder, Hidden, KeyValueCache


class Decoding(Protocol):
    """Tokens behind one prompt. Rows count the tokens of the last run; negative ones from its end.

    Before the first run the prompt's last token is the only row, if its state was asked for.
    """

    def feed(self, token_ids: Sequence[int]) -> None:
        """Run tokens behind those that were fed before."""
        ...

    def keep(self, fed: int) -> None:
        """Forget all tokens that were fed but the first ``fed``."""
        ...

    def codes(self) -> list[int]:
        """Return for every row the best depth code, counted from the first."""
        ...

    def token(self, row: int = -1) -> int:
        """Return the vocabulary's best token at a row."""
        ...

    def logits(self, row: int = -1) -> Tensor:
        """Return the scores of the vocabulary at a row, (vocab_size,)."""
        ...


class CachedDecoding:
    """Decoding in plain torch behind a :class:`KeyValueCache`.

    ``state``: the prompt's last state (1, width), or None; ``codes``: the vocabulary rows of the depth codes.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KeyValueCache,
        *,
        state: Tensor | None = None,
        codes: tuple[int, int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._prompt = cache.length
        self._states = state
        self._codes = codes

    def feed(self, token_ids: Sequence[int]) -> None:
        states = feed(self._decoder, self._cache, token_ids, "all")
        assert states is not None
        self._states = states[0]

    def keep(self, fed: int) -> None:
        self._cache.truncate(self._prompt + fed)

    def codes(self) -> list[int]:
        assert self._states is not None
        assert self._codes is not None
        found: list[int] = self._decoder.logits(self._states, *self._codes).argmax(dim=-1).tolist()
        return found

    def token(self, row: int = -1) -> int:
        return int(self.logits(row).argmax())

    def logits(self, row: int = -1) -> Tensor:
        assert self._states is not None
        return self._decoder.logits(self._states[row])


def feed(
    decoder: Decoder, cache: KeyValueCache, token_ids: Sequence[int], hidden: Hidden = "last"
) -> Tensor | None:
    """Append tokens to the cache; return what :meth:`Decoder.forward` gives for ``hidden``."""
    ids = torch.tensor([list(token_ids)], device=cache.keys.device)
    return decoder.forward(decoder.embed(ids), cache, hidden=hidden)
