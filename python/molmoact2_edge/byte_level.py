"""Byte-level BPE as a `tokenizer.json` describes it, turned into the tables that the compiled codec reads."""

from __future__ import annotations

import functools
import json
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from molmoact2_edge.errors import CheckpointError

# Code points that get a class: the basic plane, far more than rounded coefficients ever need.
_CLASSIFIED_CODE_POINTS = 0x10000
_OTHER, _LETTER, _NUMBER, _SPACE = range(4)
# Unicode's White_Space property; str.isspace() also counts U+001C to U+001F.
_WHITE_SPACE = [
    *range(0x09, 0x0E),
    *(0x20, 0x85, 0xA0, 0x1680),
    *range(0x2000, 0x200B),
    *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
]


@dataclass(frozen=True)
class ByteLevelTables:
    """What encoding and decoding need of a byte-level BPE tokenizer."""

    token_bytes: list[bytes]
    """The bytes that each id decodes to."""
    byte_ids: NDArray[np.int32]
    """(256,): the id of each single byte, -1 where the vocabulary has none."""
    merges: NDArray[np.int32]
    """(n, 3): left id, right id, merged id; the first row is merged first."""
    splits_words: bool
    """Whether GPT-2's pattern cuts the text into words before merging."""


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """The visible character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in visible else next(substitutes)) for byte in range(256))


@functools.cache
def character_classes() -> NDArray[np.uint8]:
    """(65536,): other 0, letter 1, number 2 or white space 3, as GPT-2's pattern tells them apart."""
    by_category = {"L": _LETTER, "N": _NUMBER}
    categories = (unicodedata.category(chr(code))[0] for code in range(_CLASSIFIED_CODE_POINTS))
    classes = np.fromiter((by_category.get(category, _OTHER) for category in categories), np.uint8)
    classes[_WHITE_SPACE] = _SPACE
    classes.setflags(write=False)
    return classes


def read_tables(tokenizer_json: str) -> ByteLevelTables:
    """Reads a `tokenizer.json`, refusing settings under which text and ids would not correspond exactly.

    Raises:
        CheckpointError: damaged, or not a plain byte-level BPE; the message names the setting.
    """
    try:
        tokenizer = json.loads(tokenizer_json)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"tokenizer.json is not JSON: {error}") from error
    if not isinstance(tokenizer, dict) or not isinstance(tokenizer.get("model"), dict):
        raise CheckpointError("tokenizer.json has no object 'model'; expected a byte-level BPE tokenizer")
    model = tokenizer["model"]
    splits_words = _check_pipeline(tokenizer)
    _check_model(model)
    vocabulary = _vocabulary(model.get("vocab"))
    return ByteLevelTables(
        token_bytes=_token_bytes(vocabulary),
        byte_ids=np.array([vocabulary.get(character, -1) for character in byte_characters()], np.int32),
        merges=_merges(model.get("merges"), vocabulary),
        splits_words=splits_words,
    )


def _check_pipeline(tokenizer: dict[str, object]) -> bool:
    """Checks the steps around the model; returns whether text is cut into words."""
    for name in ("normalizer", "truncation", "padding"):
        _expect(tokenizer.get(name) is None, name, "null", tokenizer.get(name))
    added = tokenizer.get("added_tokens")
    _expect(not added, "added_tokens", "an empty list, since every token must be text", added)
    post_processor = tokenizer.get("post_processor")
    if post_processor is not None:  # byte-level post-processing moves offsets only
        _byte_level_step(post_processor, "post_processor", "processors")
    _byte_level_step(tokenizer.get("decoder"), "decoder", "decoders")
    pre_tokenizer = _byte_level_step(tokenizer.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers")
    prefix = pre_tokenizer.get("add_prefix_space", True)
    _expect(prefix is False, "pre_tokenizer.add_prefix_space", "false", prefix)
    splits_words = pre_tokenizer.get("use_regex", True)
    if not isinstance(splits_words, bool):
        _expect(False, "pre_tokenizer.use_regex", "true or false", splits_words)
    return bool(splits_words)


def _check_model(model: dict[str, object]) -> None:
    _expect(model.get("type", "BPE") == "BPE", "model.type", "'BPE'", model.get("type"))
    for name in (
        "dropout",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
        "ignore_merges",
    ):
        _expect(not model.get(name), f"model.{name}", "null, empty, zero or false", model.get(name))


def _byte_level_step(step: object, name: str, inner: str) -> dict[str, object]:
    """The ByteLevel step, alone or as the only one of a sequence."""
    if isinstance(step, dict) and step.get("type") == "Sequence":
        steps = step.get(inner)
        if isinstance(steps, list) and len(steps) == 1:
            step = steps[0]
    if not isinstance(step, dict) or step.get("type") != "ByteLevel":
        raise _unsupported(name, "a ByteLevel step alone", step)
    return step


def _vocabulary(vocabulary: object) -> dict[str, int]:
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise _unsupported("model.vocab", "an object of tokens and ids", type(vocabulary).__name__)
    ids = vocabulary.values()
    if any(type(token_id) is not int for token_id in ids) or sorted(ids) != list(range(len(ids))):
        raise CheckpointError(f"tokenizer.json: model.vocab must have the ids 0 to {len(ids) - 1}, each once")
    return vocabulary


def _token_bytes(vocabulary: dict[str, int]) -> list[bytes]:
    bytes_by_character = {character: byte for byte, character in enumerate(byte_characters())}

    def decoded(token: str) -> bytes:
        if all(character in bytes_by_character for character in token):
            return bytes(bytes_by_character[character] for character in token)
        # Public tokenizers list their alphabet as plain characters too; such a token stands for itself.
        return token.encode()

    try:
        return [decoded(token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"tokenizer.json: a token of model.vocab is not Unicode text: {error}"
        ) from error


def _merges(merges: object, vocabulary: dict[str, int]) -> NDArray[np.int32]:
    if not isinstance(merges, list):
        raise _unsupported("model.merges", "a list of pairs", type(merges).__name__)
    rows = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge  # older files join the two by a blank
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise _unsupported("model.merges", "pairs of tokens", merge)
        left, right = pair
        try:
            rows.append((vocabulary[left], vocabulary[right], vocabulary[left + right]))
        except KeyError as error:
            raise CheckpointError(
                f"tokenizer.json: merge {pair} needs the token {error}, which is not in the vocabulary"
            ) from error
    return np.array(rows, np.int32).reshape(-1, 3)


def _expect(holds: bool, name: str, expected: str, actual: object) -> None:
    if not holds:
        raise _unsupported(name, expected, actual)


def _unsupported(name: str, expected: str, actual: object) -> CheckpointError:
    shown = repr(actual)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return CheckpointError(f"tokenizer.json: {name} must be {expected}, got {shown}")
