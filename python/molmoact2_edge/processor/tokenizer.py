"""The checkpoint's own text tokenizer, through the `tokenizers` library, with the beginning token of its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from molmoact2_edge.checkpoint.json_section import read_json
from molmoact2_edge.errors import CheckpointError
from molmoact2_edge.types import IntArray


class PromptTokenizer:
    """Text to token ids (S,), int64, beginning token included."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, bos_token_id: int) -> None:
        self._tokenizer = tokenizer
        # Truncation or padding saved with a tokenizer is a setting of training, and would change a prompt silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.bos_token_id = bos_token_id
        self.control_tokens = frozenset(
            token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
        )

    @classmethod
    def from_file(cls, path: Path, *, bos_token_id: int | None, eos_token_id: int | None) -> PromptTokenizer:
        """Reads `tokenizer.json`, and `tokenizer_config.json` beside it where there is one.

        The beginning token is the tokenizer's own; where it has none, that of the configuration, else its end token.

        Args:
            path: The `tokenizer.json`.
            bos_token_id: The configuration's beginning token, if it names one.
            eos_token_id: The configuration's end token.

        Raises:
            CheckpointError: The file is missing or damaged, or no beginning token can be found.
        """
        read_json(path)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare exceptions
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        settings = path.parent / "tokenizer_config.json"
        own = _named_token(tokenizer, read_json(settings) if settings.exists() else {}, settings)
        bos = next((one for one in (own, bos_token_id, eos_token_id) if one is not None), None)
        if bos is None:
            raise CheckpointError(
                f"{path}: neither the tokenizer nor config.json names a beginning or an end token"
            )
        return cls(tokenizer, bos)

    def encode(self, text: str) -> IntArray:
        ids = self._tokenizer.encode(text).ids
        if ids[:1] != [self.bos_token_id]:
            ids = [self.bos_token_id, *ids]
        return np.array(ids, dtype=np.int64)

    def id_of(self, token: str) -> int | None:
        """The id of one token by its text, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def _named_token(tokenizer: tokenizers.Tokenizer, settings: Any, path: Path) -> int | None:
    token = settings.get("bos_token") if isinstance(settings, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return None
    found: int | None = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None:
        raise CheckpointError(f"{path}: `bos_token` {token!r} is not in tokenizer.json beside it")
    return found
